"""Pairs of pictures that are related by a known homography, for training: any rotation, and other light.

Convention:
    Points are (x, y) in pixels, y down, (0, 0) the centre of the top-left pixel. A homography [3, 3] maps points of
    the first picture to the second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from robovision.errors import UsageError
from robovision.images import read_image
from robovision.seeding import derive

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
GREY = 0.299, 0.587, 0.114
"""Weights of red, green and blue (ITU-R BT.601)."""


@dataclass(frozen=True)
class Pairs:
    """B pairs of pictures.

    Convention:
        first, second: [B, 1, S, S] in 0..1.
        homographies: float32 [B, 3, 3], from the first to the second.
    """

    first: Tensor
    second: Tensor
    homographies: Tensor


def grey(image: Tensor) -> Tensor:
    """An image uint8 [3, H, W] as grey values [H, W] in 0..1."""
    return torch.einsum("chw,c->hw", image.float() / 255, torch.tensor(GREY))


def read_folder(folder: Path, smallest: int) -> list[Tensor]:
    """The photographs of a folder, grey [H, W], in the order of their names; small ones are mirrored at the edges.

    Raises:
        UsageError: if there are none, or one is damaged.
    """
    paths = sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise UsageError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))})")
    return [_at_least(grey(read_image(path)), smallest) for path in paths]


def _at_least(image: Tensor, side: int) -> Tensor:
    missing = [(max(0, side - n) // 2, (max(0, side - n) + 1) // 2) for n in image.shape]
    return torch.from_numpy(np.pad(image.numpy(), missing, mode="symmetric"))


def draw_pairs(photographs: Sequence[Tensor], size: int, batch: int, seed: int, step: int) -> Pairs:
    """The pairs of one step: they depend on the seed and the step alone.

    The first picture is a piece of a photograph as it is. The second one is turned by any angle, scaled by
    0.8 to 1.25, tilted, and gets other light, noise and sometimes blur.
    """
    generator = torch.Generator().manual_seed(derive(seed, "pairs", step))
    windows = torch.stack([_window(photographs, 2 * size, generator) for _ in range(batch)])[:, None]
    offset = size // 2
    first = windows[..., offset : offset + size, offset : offset + size]
    homographies = random_homographies(batch, size, generator)
    second = warp(windows, homographies, size, offset)
    return Pairs(other_light(first, generator), other_light(second, generator), homographies)


def _window(photographs: Sequence[Tensor], side: int, generator: torch.Generator) -> Tensor:
    photograph = photographs[_integer(len(photographs), generator)]
    top, left = (_integer(n - side + 1, generator) for n in photograph.shape)
    return photograph[top : top + side, left : left + side]


def _integer(end: int, generator: torch.Generator) -> int:
    return int(torch.randint(end, (1,), generator=generator))


def _uniform(batch: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(batch, generator=generator) * (high - low) + low


def random_homographies(batch: int, size: int, generator: torch.Generator) -> Tensor:
    """Homographies [B, 3, 3] about the middle of a square picture: any rotation, scale 0.8 to 1.25, tilt, shift."""
    angle = _uniform(batch, 0, 2 * math.pi, generator)
    scale = _uniform(batch, math.log(0.8), math.log(1.25), generator).exp()
    stretch = _uniform(batch, math.log(0.87), math.log(1.15), generator).exp()
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)
    axis = _uniform(batch, 0, math.pi, generator)
    spin = torch.stack([axis.cos(), -axis.sin(), axis.sin(), axis.cos()], 1).view(-1, 2, 2)
    tilt = spin @ torch.diag_embed(torch.stack([scale * stretch, scale / stretch], 1)) @ spin.mT
    moved = torch.eye(3).repeat(batch, 1, 1)
    moved[:, :2, :2] = turn @ tilt
    moved[:, :2, 2] = (torch.rand(batch, 2, generator=generator) - 0.5) * 0.1 * size
    moved[:, 2, :2] = (torch.rand(batch, 2, generator=generator) - 0.5) * 0.3 / size
    centre = torch.eye(3)
    centre[:2, 2] = (size - 1) / 2
    about: Tensor = centre @ moved @ torch.linalg.inv(centre)
    return about


def warp(windows: Tensor, homographies: Tensor, size: int, offset: int) -> Tensor:
    """The second pictures [B, 1, size, size]; the first ones' pixel (0, 0) is the windows' (offset, offset)."""
    axis = torch.arange(size, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    pixels = torch.stack([x, y], -1).view(1, -1, 2).expand(len(windows), -1, -1)
    source = transform(pixels, torch.linalg.inv(homographies)).view(-1, size, size, 2) + offset
    where = (source + 0.5) * 2 / windows.shape[-1] - 1
    return functional.grid_sample(windows, where, padding_mode="reflection", align_corners=False)


def transform(points: Tensor, homographies: Tensor) -> Tensor:
    """Points [B, N, 2] after homographies [B, 3, 3]."""
    moved = points @ homographies[:, :, :2].mT + homographies[:, None, :, 2]
    return moved[..., :2] / moved[..., 2:]


def transform_directions(points: Tensor, directions: Tensor, homographies: Tensor) -> Tensor:
    """Unit directions [B, N, 2] at points, after homographies: by their derivative there."""
    moved = points @ homographies[:, :, :2].mT + homographies[:, None, :, 2]
    change = directions @ homographies[:, :, :2].mT
    derivative = change[..., :2] * moved[..., 2:] - moved[..., :2] * change[..., 2:]
    return functional.normalize(derivative, dim=-1)


def other_light(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures [B, 1, H, W] with another contrast, brightness, gamma and noise; half of them a little blurred."""
    batch = len(pictures)
    gain, shift, gamma, noise = (
        _uniform(batch, low, high, generator)[:, None, None, None]
        for low, high in ((0.6, 1.3), (-0.15, 0.15), (0.7, 1.4), (0.0, 0.03))
    )
    blurred = functional.avg_pool2d(functional.pad(pictures, [1] * 4, mode="replicate"), 3, 1)
    share = _uniform(batch, -0.8, 0.8, generator).clamp(min=0)[:, None, None, None]
    softened = pictures + share * (blurred - pictures)
    lit = (softened.clamp(1e-4, 1) ** gamma - 0.5) * gain + 0.5 + shift
    return (lit + noise * torch.randn(pictures.shape, generator=generator)).clamp(0, 1)
