"""Maps of the ground, and how they move with the scene."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from robovision.errors import UsageError
from robovision.lidar.detectors.config import Grid
from robovision.lidar.transforms import Similarity
from robovision.symmetry.data import Kind
from robovision.symmetry.elements import Element


def act_on_map(element: Similarity, features: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """The map [1, C, H, W] moved by a group element, between cells bilinear, and where it is known, bool [H, W]."""
    height, width = features.shape[2:]
    low = torch.tensor(grid.low[:2])
    extent = torch.tensor(grid.high[:2]) - low
    x = (torch.arange(width) + 0.5) / width * extent[0] + low[0]
    y = (torch.arange(height) + 0.5) / height * extent[1] + low[1]
    place = torch.stack([x.expand(height, width), y[:, None].expand(height, width), torch.zeros(height, width)], dim=-1)
    source = (element.inverse().points(place)[..., :2] - low) / extent * 2 - 1
    at = source[None].to(features)
    moved = functional.grid_sample(features, at, align_corners=False)
    known = functional.grid_sample(torch.ones_like(features[:, :1]), at, align_corners=False)[0, 0] > 0.999
    return moved, known


@dataclass(frozen=True)
class GroundMap(Kind):
    """Maps [1, C, H, W] that cover a grid and move with the scene."""

    grid: Grid

    def act(self, element: Element, data: Tensor) -> Tensor:
        return act_on_map(self._check(element), data, self.grid)[0]

    def mask(self, element: Element, data: Tensor, margin: int = 0) -> Tensor:
        return act_on_map(self._check(element), data, self.grid)[1].to(data)

    def centred(self, data: Tensor) -> Tensor:
        return data - data.mean((2, 3), keepdim=True)

    def _check(self, element: Element) -> Similarity:
        if not isinstance(element, Similarity):
            raise UsageError(f"{element} does not act on maps of the ground: it is no Similarity")
        return element
