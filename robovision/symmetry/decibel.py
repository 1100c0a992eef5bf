"""Equivariance of image-to-image models in decibel, EQ-T and EQ-R (Karras et al., NeurIPS 2021, appendix E).

PSNR of g(T x) against T g(x) over the pixels that both hold, in the peak-to-peak range of g(x). T shifts by up to an
eighth of the image (EQ-T: whole pixels, EQ-T frac: any), or turns by any angle (EQ-R). Fractions and turns resample a
picture that was made eight times as fine by its Fourier coefficients, cubic between those pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from robovision.symmetry.aliasfree import IdealUpsample
from robovision.symmetry.plane import Motion, Rotation, Translation, act, sources

FINER = 8
DRAWS = 8
REACH = 0.125
"""Share of the side by which EQ-T shifts at most."""
BORDER = 4
"""Pixels next to the edge of what both hold that don't count, because resampling sees the edge there."""
PERFECT = 200.0
"""What is reported for a difference of 0, dB."""


@dataclass(frozen=True)
class Decibels:
    """What was measured, in dB; larger is better."""

    translation: float
    fractional: float
    rotation: float


@torch.no_grad()
def decibels(model: Callable[[Tensor], Tensor], canvas: Tensor, size: int, seed: int = 0) -> Decibels:
    """EQ-T, EQ-T frac and EQ-R of a model on the middle of a picture [1, C, S, S], from which views are cut.

    Raises:
        ValueError: if the model's output has not the height and width of its input.
    """
    generator = torch.Generator().manual_seed(seed)
    spans = (torch.rand(DRAWS, 2, generator=generator, dtype=torch.float64) * 2 - 1) * REACH * size
    angles = torch.rand(DRAWS, generator=generator, dtype=torch.float64) * 360
    whole = [Translation(round(y), round(x)) for y, x in spans.tolist()]
    return Decibels(
        _psnr(model, canvas, size, whole, act),
        _psnr(model, canvas, size, [Translation(y, x) for y, x in spans.tolist()], fine_act),
        _psnr(model, canvas, size, [Rotation(angle) for angle in angles.tolist()], fine_act),
    )


def fine_act(motion: Motion, maps: Tensor) -> tuple[Tensor, Tensor]:
    """As `robovision.symmetry.plane.act`, but cubic through a grid many times as fine: little is smoothed away."""
    where, inside = sources(motion, maps.shape[2], maps.shape[3], 1.0)
    fine = IdealUpsample(FINER)(maps)
    moved = functional.grid_sample(fine, where.to(maps).expand(len(maps), -1, -1, -1), "bicubic", align_corners=False)
    return moved * inside.to(maps), inside.to(maps.device)


def _psnr(
    model: Callable[[Tensor], Tensor],
    canvas: Tensor,
    size: int,
    motions: list[Motion] | list[Translation] | list[Rotation],
    move: Callable[[Motion, Tensor], tuple[Tensor, Tensor]],
) -> float:
    still = model(_middle(canvas, size))
    if still.ndim != 4 or still.shape[2:] != (size, size):
        raise ValueError(f"EQ-T and EQ-R need images of {size} x {size} out, got {list(still.shape)}")
    squares, count = 0.0, 0.0
    for motion in motions:
        found = model(_middle(move(motion, canvas)[0], size).clamp(canvas.min(), canvas.max()))
        expected, inside = move(motion, still)
        mask = _shrunk(inside).to(still)
        squares += float(((found - expected) * mask).square().sum())
        count += float(mask.sum()) * still.shape[1]
    peak = float(still.max() - still.min())
    if not peak > 0:
        return math.nan
    return min(PERFECT, 10 * math.log10(peak**2 * count / squares)) if squares else PERFECT


def _shrunk(inside: Tensor) -> Tensor:
    """The mask without the cells next to its edge."""
    outside = 1 - inside[None, None].to(torch.float32)
    padded = functional.pad(outside, (BORDER,) * 4, value=1.0)
    return functional.max_pool2d(padded, 2 * BORDER + 1, 1)[0, 0] < 0.5


def _middle(canvas: Tensor, size: int) -> Tensor:
    first = (canvas.shape[-1] - size) // 2
    return canvas[..., first : first + size, first : first + size]
