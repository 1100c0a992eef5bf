"""LookHere's directed attention beside plain attention: the time of a core, forward.

    python benchmarks/lookhere.py

Each LookHere stands beside a ViT of the same width and depth with the same twelve heads, and beside the usual one of
its name, whose heads are 64 channels wide. Median of seven rounds in turn, one thread, float32.
"""

from __future__ import annotations

import functools
import time

import torch

from robovision.bench.timing import compare, markdown
from robovision.encoders.build import LOOKHERE_HEADS, build
from robovision.encoders.vit import SIZES, ViT, ViTSize

CASES = (("tiny", "t16", 224, 8), ("small", "s16", 224, 4), ("base", "b16", 224, 2), ("base", "b16", 448, 1))
"""Size, its short name, pixels, batch."""


def measure(size: str, short: str, pixels: int, batch: int) -> list[str]:
    """A row of the table."""
    torch.manual_seed(0)
    plain = SIZES[size]
    models = {
        "same heads": ViT(ViTSize(plain.width, plain.depth, LOOKHERE_HEADS), image_size=pixels),
        "usual heads": build(f"vit-{size}", pixels),
        "LookHere": build(f"lookhere-vit-{short}", pixels),
    }
    images = torch.rand(batch, 3, pixels, pixels)
    ways = {name: functools.partial(model.eval(), images) for name, model in models.items()}
    with torch.no_grad():
        found = compare(ways, rounds=7, clock=time.process_time)
    each = {name: 1e3 * speed.seconds / batch for name, speed in found.items()}
    ours = each["LookHere"]
    ratios = [f"{ours / each[name]:.2f}" for name in ("same heads", "usual heads")]
    return [f"lookhere-vit-{short}", str(pixels), *(f"{value:.1f}" for value in each.values()), *ratios]


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    heads = ["encoder", "px", "ViT, same heads, ms", "ViT, usual heads, ms", "LookHere, ms", "over same", "over usual"]
    print(markdown(heads, [measure(*case) for case in CASES]))


if __name__ == "__main__":
    main()
