"""The processes that train one model together: one, or as many as torchrun starts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed

from robovision.devices import Device
from robovision.errors import UsageError
from robovision.seeding import derive

T = TypeVar("T")
PATIENCE = timedelta(hours=12)
"""How long the others wait while the first prepares the data; torchrun ends them all if it fails."""


@dataclass(frozen=True)
class Processes:
    """How many there are, and which of them this is."""

    count: int = 1
    rank: int = 0
    local: int = 0
    """Which of those on this machine it is."""

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and talks."""
        return self.rank == 0

    def device(self, kind: Device) -> torch.device:
        """The device of this process: under torchrun each has a GPU of its own."""
        return torch.device("cuda", self.local) if kind == "cuda" else torch.device(kind)

    def share(self, numbers: Sequence[T]) -> Sequence[T]:
        """The part of a batch that is for this process."""
        return numbers[self.rank :: self.count]

    def generator(self, seed: int, step: int) -> torch.Generator:
        """The random numbers of one step in this process."""
        return torch.Generator().manual_seed(derive(seed, "step", step, self.rank))

    def mean(self, value: Tensor | float) -> float:
        """The mean of a number over the processes; one that is no tensor is the same in all."""
        if not isinstance(value, Tensor):
            return value
        if self.count > 1:
            value = value.clone()
            distributed.all_reduce(value)
        return float(value) / self.count

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            distributed.barrier()


ALONE = Processes()
"""One process, without torchrun."""


@contextlib.contextmanager
def joined(device: Device) -> Iterator[Processes]:
    """The processes that torchrun started, seen from this one; without torchrun, this one alone.

    Raises:
        UsageError: if there are more processes on this machine than GPUs.
    """
    count, rank, local = (int(os.environ.get(name, value)) for name, value in _ENVIRONMENT.items())
    if count == 1:
        yield ALONE
        return
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise UsageError(f"process {local} of this machine has no GPU: there are {torch.cuda.device_count()}")
        torch.cuda.set_device(local)
    distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Processes(count, rank, local)
    finally:
        distributed.destroy_process_group()


_ENVIRONMENT = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}
"""What torchrun tells each process, and what holds without it."""
