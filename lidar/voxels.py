"""Dynamic voxelisation: every point goes to its voxel, however many there are; nothing is cut off or padded.

Convention:
    points: float [P, F], the first three numbers x, y, z in metres.
    sample: int64 [P], which sweep of a batch a point is of.
    coordinates: int64 [V, 4]: sample, z, y, x of each voxel that holds a point, in ascending order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robovision.lidar.detectors.config import Grid

DENSE = 1 << 22
"""Voxels up to which each gets a place in a table; more are sorted instead."""


@dataclass(frozen=True, eq=False)
class Voxels:
    """The voxels of a batch that hold points.

    Convention:
        coordinates: int64 [V, 4], sample, z, y, x, ascending.
        points: float [Q, F], the points inside the grid, in their order.
        index: int64 [Q], the voxel of each of these points.
    """

    coordinates: Tensor
    points: Tensor
    index: Tensor

    def counts(self) -> Tensor:
        """Points of each voxel, int64 [V]."""
        return torch.bincount(self.index, minlength=len(self.coordinates))

    def mean(self, values: Tensor) -> Tensor:
        """The mean over each voxel's points, [V, F], of values [Q, F]."""
        total = values.new_zeros(len(self.coordinates), values.shape[1]).index_add_(0, self.index, values)
        return total / self.counts().to(values.dtype)[:, None]

    def maximum(self, values: Tensor) -> Tensor:
        """The largest of each voxel's values, [V, F], of values [Q, F] that are not negative."""
        start = values.new_zeros(len(self.coordinates), values.shape[1])
        return start.scatter_reduce(0, self.index[:, None].expand_as(values), values, "amax")


def voxelise(points: Tensor, sample: Tensor, grid: Grid) -> Voxels:
    """The voxels of a batch of sweeps; points outside the grid are left out.

    Raises:
        ValueError: for points of another shape, or as many samples as there are no points.
    """
    if points.ndim != 2 or points.shape[1] < 3 or sample.shape != points.shape[:1]:
        raise ValueError(
            f"points must be [P, 3 or more] and sample [P], got {list(points.shape)}, {list(sample.shape)}"
        )
    depth, height, width = grid.shape
    low, size = points.new_tensor(grid.low), points.new_tensor(grid.voxel)
    place = ((points[:, :3] - low) / size).floor()
    inside = ((place >= 0) & (place < points.new_tensor([width, height, depth]))).all(dim=1)
    kept = inside.nonzero()[:, 0]
    x, y, z = place[kept].long().unbind(dim=1)
    key = ((sample[kept] * depth + z) * height + y) * width + x
    samples = int(sample.max()) + 1 if len(sample) else 0
    cells, index = _rank(key, samples * depth * height * width)
    return Voxels(unravel(cells, grid.shape), points[kept], index)


def middles(voxels: Voxels, grid: Grid) -> Tensor:
    """The middles of voxels along x, y and z, metres, [V, 3]."""
    size, low = voxels.points.new_tensor(grid.voxel), voxels.points.new_tensor(grid.low)
    middle: Tensor = (voxels.coordinates[:, [3, 2, 1]].to(size.dtype) + 0.5) * size + low
    return middle


def unravel(key: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Sample, z, y, x, int64 [V, 4], of keys [V] = ((sample * D + z) * H + y) * W + x."""
    depth, height, width = shape
    rest = key.div(width, rounding_mode="floor")
    plane = rest.div(height, rounding_mode="floor")
    first = plane.div(depth, rounding_mode="floor")
    return torch.stack([first, plane - first * depth, rest - plane * height, key - rest * width], dim=1)


def _rank(key: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """The different keys, ascending, and for each key the place of its equal among them."""
    if cells > DENSE:
        found, index = torch.unique(key, return_inverse=True)
        return found, index
    table = torch.zeros(cells, dtype=torch.int64, device=key.device)
    table[key] = 1
    found = table.nonzero()[:, 0]
    table[found] = torch.arange(len(found), device=key.device)
    return found, table[key]
