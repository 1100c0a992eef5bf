"""One training in several processes, started by `torchrun`: each works on its share of every batch.

The gradient is that of one process with the whole batch: batch norms measure over all processes, and the loss is
weighted by how many actions each process predicts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

from robovision.errors import UsageError

PATIENCE = timedelta(hours=6)
"""For which processes wait for the first one, which alone records demonstrations and evaluates."""


def join(device: str) -> None:
    """Join the group of processes that `torchrun` started; nothing without it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or distributed.is_initialized():
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)


def leave() -> None:
    """Leave the group, if this process is in one."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def processes() -> int:
    """How many processes work together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0 on."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def check_shares(clips: int) -> None:
    """Raise UsageError unless each process gets one of a batch's clips."""
    if clips < processes():
        raise UsageError(
            f"{processes()} processes can't share a batch of {clips} clips: a larger --optimisation.batch, or fewer "
            f"processes"
        )


def agree(value: str) -> str:
    """What the first process says, in every process."""
    if not distributed.is_initialized():
        return value
    said = [value]
    distributed.broadcast_object_list(said)
    return said[0]


@contextmanager
def first_alone() -> Iterator[None]:
    """The first process goes through this before the others do: it makes what they find."""
    if rank() != 0:
        wait()
    yield
    if rank() == 0:
        wait()


def wait() -> None:
    """Wait until every process is here."""
    if distributed.is_initialized():
        distributed.barrier()


def total(value: Tensor) -> Tensor:
    """The sum of a tensor over the processes, without gradient."""
    if not distributed.is_initialized():
        return value
    value = value.detach().clone()
    distributed.all_reduce(value)
    return value


class _Sum(torch.autograd.Function):
    """The sum of a tensor over the processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(value: Tensor) -> Tensor:
        return total(value)

    @staticmethod
    def setup_context(ctx: object, inputs: tuple[Tensor], output: Tensor) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return total(gradient)


def _sum(value: Tensor) -> Tensor:
    summed: Tensor = _Sum.apply(value)  # type: ignore[no-untyped-call]
    return summed


class Shared1d(nn.BatchNorm1d):
    """A batch norm that measures over the batches of all processes, on any device."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's name
        return _normalise(self, input) if self.training else super().forward(input)


class Shared2d(nn.BatchNorm2d):
    """The same for maps."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's name
        return _normalise(self, input) if self.training else super().forward(input)


def share_statistics(module: nn.Module) -> None:
    """Let every batch norm in a module measure over the batches of all processes."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            setattr(module, name, _shared(child))
        else:
            share_statistics(child)


def _shared(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> Shared1d | Shared2d:
    """A shared batch norm with the parameters and statistics of another."""
    kind = Shared2d if isinstance(norm, nn.BatchNorm2d) else Shared1d
    shared = kind(norm.num_features, norm.eps, norm.momentum)
    shared.weight, shared.bias = norm.weight, norm.bias
    shared.running_mean, shared.running_var = norm.running_mean, norm.running_var
    shared.num_batches_tracked = norm.num_batches_tracked
    return shared


def _normalise(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Batch norm [N, C, ...] in training with the mean and variance over all processes."""
    over = [0, *range(2, x.ndim)]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    whole = x.to(torch.promote_types(x.dtype, torch.float32))
    count = total(torch.tensor(float(x.numel() // x.shape[1]), device=x.device))
    mean = _sum(whole.sum(over)) / count
    centred = whole - mean.view(shape)
    variance = _sum(centred.square().sum(over)) / count
    _remember(norm, mean.detach(), variance.detach() * count / (count - 1))
    scale: Tensor = norm.weight * (variance + norm.eps).rsqrt()
    return (centred * scale.view(shape) + norm.bias.view(shape)).to(x.dtype)


@torch.no_grad()
def _remember(norm: nn.BatchNorm1d | nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """Move the running statistics towards these."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(variance, norm.momentum)
