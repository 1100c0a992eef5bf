"""Maps of the ground as data that groups of space act on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from robovision.lidar.detectors.config import Grid
from robovision.lidar.transforms import Similarity
from robovision.symmetry.data import Kind
from robovision.symmetry.elements import Element, Permutation


@dataclass(frozen=True)
class Ground(Kind):
    """Maps [1, C, H, W] of the ground of a grid: they move with the scene, and the points' order is nothing to them."""

    grid: Grid

    def act(self, element: Element, data: Tensor) -> Tensor:
        if isinstance(element, Permutation):
            return data
        return act_on_map(self._similarity(element), data, self.grid)[0]

    def mask(self, element: Element, data: Tensor, margin: int = 0) -> Tensor:
        if isinstance(element, Permutation):
            return super().mask(element, data, margin)
        height, width = data.shape[2:]
        inner = data.new_zeros(1, 1, height, width)
        inner[:, :, margin : height - margin, margin : width - margin] = 1
        moved, known = act_on_map(self._similarity(element), inner, self.grid)
        return (known & (moved > 0.999)[0, 0] & (inner > 0)[0, 0]).to(data)

    def centred(self, data: Tensor) -> Tensor:
        return data - data.mean((2, 3), keepdim=True)

    @staticmethod
    def _similarity(element: Element) -> Similarity:
        if not isinstance(element, Similarity):
            raise element.refuses("maps of the ground")
        return element


@dataclass(frozen=True)
class Sweep(Kind):
    """The points of a sweep, [P, 3 + C], whose further numbers, such as intensity, stay as they are."""

    def act(self, element: Element, data: Tensor) -> Tensor:
        if isinstance(element, Permutation):
            return element.items(data)
        return torch.cat([element.points(data[:, :3]), data[:, 3:]], dim=1)


def act_on_map(element: Similarity, features: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """The map [1, C, H, W] moved by a group element, between cells bilinear, and where it is known, bool [H, W]."""
    height, width = features.shape[2:]
    low = torch.tensor(grid.low[:2], dtype=torch.float64)
    extent = torch.tensor(grid.high[:2], dtype=torch.float64) - low
    x = (torch.arange(width, dtype=low.dtype) + 0.5) / width * extent[0] + low[0]
    y = (torch.arange(height, dtype=low.dtype) + 0.5) / height * extent[1] + low[1]
    x, y = x.expand(height, width), y[:, None].expand(height, width)
    place = torch.stack([x, y, torch.zeros_like(x)], dim=-1)
    source = (element.inverse().points(place)[..., :2] - low) / extent * 2 - 1
    at = source[None].to(features)
    moved = functional.grid_sample(features, at, align_corners=False)
    known = functional.grid_sample(torch.ones_like(features[:, :1]), at, align_corners=False)[0, 0] > 0.999
    return moved, known
