"""Procedural pictures: opaque shapes of all sizes, one over the other, with the statistics of natural images.

The dead leaves model (Lee, Mumford and Huang, "Occlusion models for natural images", IJCV 2001), with polygons and
ellipses, shading and grain.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from robovision.seeding import derive
from robovision.types import Array

SHAPES = 900
SMALLEST, LARGEST = 5.0, 160.0
"""Radii of the shapes in pixels of the picture; their density falls as radius^-3."""


def dead_leaves(side: int, seed: int, number: int) -> Tensor:
    """The picture of this number, grey [side, side] in 0..1; the same for the same seed."""
    from PIL import Image, ImageDraw

    random = np.random.default_rng(derive(seed, "leaves", number))
    picture = Image.new("F", (2 * side, 2 * side), 0.5)
    pen = ImageDraw.Draw(picture)
    spread = (1 / SMALLEST**2 - 1 / LARGEST**2) * random.random(SHAPES) + 1 / LARGEST**2
    for radius in np.sort(2 / np.sqrt(spread))[::-1]:
        centre = random.random(2) * 2 * side
        corners = int(random.integers(3, 7)) if random.random() < 0.7 else 24
        angles = np.sort(random.random(corners)) * 2 * np.pi if corners < 24 else np.linspace(0, 2 * np.pi, 24)
        axes = radius * (0.5 + random.random(2))
        outline = centre + axes * np.stack([np.cos(angles), np.sin(angles)], 1)
        pen.polygon([(float(x), float(y)) for x, y in outline], fill=float(random.random()))
    small = np.asarray(picture).reshape(side, 2, side, 2).mean((1, 3))
    return torch.from_numpy((small * _shading(side, random) + _grain(side, random)).clip(0, 1).astype(np.float32))


def _shading(side: int, random: np.random.Generator) -> Array:
    slope = random.normal(0, 0.3, 2)
    axis = np.linspace(-0.5, 0.5, side)
    shading: Array = 0.9 + slope[0] * axis[:, None] + slope[1] * axis[None, :]
    return shading


def _grain(side: int, random: np.random.Generator) -> Array:
    """Noise whose spectrum falls with the frequency, as that of textures does."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    spectrum = np.fft.rfft2(random.normal(0, 1, (side, side))) / np.maximum(frequency, 1 / side) ** 0.8
    noise = np.fft.irfft2(spectrum, (side, side))
    grain: Array = random.uniform(0.0, 0.08) * noise / noise.std()
    return grain
