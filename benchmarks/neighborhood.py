"""Neighbourhood attention beside masked dense attention: time and memory by the number of tokens, as table and plot.

    python benchmarks/neighborhood.py

Both compute the same: 7 x 7 neighbours, two heads of 32 channels, one image, float32, one thread. `dense` has its
mask of N x N numbers made from the bias table in each call, as a learned bias needs; `dense, mask ready` has it given.
Times are those that the core works, the median of five rounds in turn. Writes benchmarks/neighborhood.png.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from robovision.bench.timing import compare, markdown, peak_megabytes
from robovision.encoders.neighborhood import neighborhood_attention

SIDES = (16, 24, 32, 48, 64, 96, 128)
DENSE = 64
"""Tokens a side up to which dense attention is measured."""
HEADS, WIDTH, KERNEL = 2, 32, 7
PICTURE = Path(__file__).parent / "neighborhood.png"


def mask(bias: Tensor, side: int) -> Tensor:
    """The bias of each pair of a query and a key, -inf outside of the neighbourhood: [heads, N, N]."""
    place = torch.arange(side)
    start = (place - KERNEL // 2).clamp(0, side - KERNEL)
    within = place[None] - start[:, None]
    seen = (within >= 0) & (within < KERNEL)
    offset = (place[None] - place[:, None] + KERNEL - 1).clamp(0, 2 * KERNEL - 2)
    whole = bias[:, offset[:, None, :, None], offset[None, :, None, :]]
    both = seen[:, None, :, None] & seen[None, :, None, :]
    return whole.masked_fill(~both, float("-inf")).view(HEADS, side * side, side * side)


def dense(q: Tensor, k: Tensor, v: Tensor, ready: Tensor | None, bias: Tensor) -> Tensor:
    """Attention to all tokens under a mask."""
    logits = mask(bias, q.shape[2]) if ready is None else ready
    return functional.scaled_dot_product_attention(q.flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3), logits)


def measure(side: int) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds and megabytes of each way."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, HEADS, side, side, WIDTH)
    bias = torch.randn(HEADS, 2 * KERNEL - 1, 2 * KERNEL - 1)
    ways: dict[str, Callable[[], object]] = {"ours": functools.partial(neighborhood_attention, q, k, v, bias, KERNEL)}
    if side <= DENSE:
        ways["dense"] = functools.partial(dense, q, k, v, None, bias)
        ways["dense, mask ready"] = functools.partial(dense, q, k, v, mask(bias, side), bias)
    speeds = compare(ways, rounds=5, clock=time.process_time)
    memory = {name: peak_megabytes(way) or float("nan") for name, way in ways.items() if name != "dense, mask ready"}
    return {name: 1e3 * speed.seconds for name, speed in speeds.items()}, memory


def draw(found: dict[int, tuple[dict[str, float], dict[str, float]]]) -> None:
    """Write the picture: time and memory over tokens, both axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained", dpi=90)
    for axes, part, label in zip(figure.subplots(1, 2), (0, 1), ("time, ms", "peak memory, MB"), strict=True):
        for name in dict.fromkeys(name for pair in found.values() for name in pair[part]):
            points = [(side**2, pair[part][name]) for side, pair in found.items() if name in pair[part]]
            axes.loglog(*zip(*points, strict=True), marker="o", label=name)
        axes.set(xlabel="tokens", ylabel=label)
        axes.grid(alpha=0.3, which="both")
        axes.legend()
    figure.savefig(PICTURE)


def main() -> None:
    """Print the table and write the picture."""
    torch.set_num_threads(1)
    with torch.no_grad():
        found = {side: measure(side) for side in SIDES}
    heads = ["tokens", "ours, ms", "dense, ms", "dense, mask ready, ms", "ours, MB", "dense, MB"]
    rows = []
    for side, (times, memory) in found.items():
        cells = [times.get(name) for name in ("ours", "dense", "dense, mask ready")]
        cells += [memory.get(name) for name in ("ours", "dense")]
        rows.append([f"{side} x {side}", *("-" if cell is None else f"{cell:.1f}" for cell in cells)])
    print(markdown(heads, rows))
    draw(found)


if __name__ == "__main__":
    main()
