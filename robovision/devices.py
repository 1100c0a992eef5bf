"""What this machine computes on, and how it is made fast and repeatable. Imports torch only when asked."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal

from robovision.errors import UsageError

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32", "bfloat16"]


def resolve_device(name: Device) -> Device:
    """`auto` as the best device there is; any other name after checking that it is there.

    Raises:
        UsageError: if PyTorch finds no such device.
    """
    import torch

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    present: dict[Device, bool] = {"cuda": cuda, "mps": mps, "cpu": True}
    if name == "auto":
        return next(device for device, here in present.items() if here)
    if not present[name]:
        raise UsageError(f"PyTorch finds no {name} device here; use --device auto or cpu")
    return name


def resolve_precision(name: Precision, device: Device) -> Precision:
    """`auto` as bfloat16 where the device multiplies it natively, else float32."""
    if name != "auto":
        return name
    import torch

    native = torch.cuda.is_bf16_supported() if device == "cuda" else device == "cpu" and cpu_has_bfloat16()
    return "bfloat16" if native else "float32"


def cpu_has_bfloat16() -> bool:
    """Whether the processor says that it multiplies bfloat16 natively (AVX-512 BF16 or AMX)."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def cpu_count() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def thread_count(threads: int) -> int:
    """`--threads` with 0 as what it means: this process's share of the processors among those that `torchrun` started.

    More threads than processors would wait for each other in turns, which makes a step several times as long.
    """
    return threads or max(1, cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def make_deterministic(seed: int, threads: int) -> None:
    """Seed PyTorch, fix its number of threads, and choose repeatable operators where there are any."""
    import torch

    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
