"""Translations and rotations of the image plane, and their action on images and token grids.

Convention:
    Points are (y, x) in pixels from the centre of the image, y down and x to the right.
    A map [B, C, H, W] has cells of `cell` pixels: 1 for an image, the patch for a token grid. The centre of the
    map is the centre of the image, so that one element acts on both in kind.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

ROUNDING = 1e-6
"""Share of a cell by which a point may lie outside."""


class Motion(ABC):
    """An element of a group that moves the plane."""

    @abstractmethod
    def source(self, points: Tensor) -> Tensor:
        """Where the points [..., 2] came from: the inverse element, acting on them."""


@dataclass(frozen=True)
class Translation(Motion):
    """A shift by so many pixels, whole or not."""

    down: float
    right: float

    def source(self, points: Tensor) -> Tensor:
        return points - points.new_tensor([self.down, self.right])


@dataclass(frozen=True)
class Rotation(Motion):
    """A turn about the centre, in degrees, counter-clockwise as one sees it."""

    degrees: float

    def source(self, points: Tensor) -> Tensor:
        angle = math.radians(self.degrees)
        cos, sin = math.cos(angle), math.sin(angle)
        return points @ points.new_tensor([[cos, -sin], [sin, cos]])


def act(motion: Motion, maps: Tensor, cell: float = 1.0) -> tuple[Tensor, Tensor]:
    """The moved maps [B, C, H, W], and a mask [H, W] of the cells whose content came from inside.

    Between cells the map is interpolated linearly; outside it is 0. Whole cells and quarter turns are exact to
    rounding.
    """
    rows, columns = maps.shape[-2:]
    reach = torch.tensor([rows - 1, columns - 1], dtype=torch.float64) / 2
    y, x = (torch.arange(n, dtype=torch.float64) for n in (rows, columns))
    points = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1) - reach
    source = motion.source(points * cell) / cell
    inside = (source.abs() <= reach + ROUNDING).all(-1)
    source = source.round(decimals=9).clamp(-reach, reach)
    where = (source.flip(-1) * 2 / torch.tensor([columns, rows])).to(maps)
    moved = functional.grid_sample(maps, where.expand(len(maps), -1, -1, -1), align_corners=False)
    return moved * inside.to(maps), inside.to(maps.device)
