"""How far it is from any place to the nearest point of a cloud, as a grid that is read between its cells.

Source: Li et al., "Fast Neural Scene Flow" (2023), section 3: a distance transform in the place of nearest neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

CELLS = 200
"""Cells from the middle to each side."""
TALLEST = 48
"""The most cells of the height."""
REACH = 10
"""Cells up to which distances are told apart."""


class DistanceField:
    """Distances from places to points, metres; those above `furthest` are that.

    Exact at the middles of cells, to the middles of cells that hold points; between them linear.

    Args:
        points: [N, 3], metres, at least one.
        side: metres from the middle to each side, along x and y; points beyond are left out.
    """

    def __init__(self, points: Tensor, side: float) -> None:
        self.voxel = side / CELLS
        self.furthest = self.voxel * REACH
        low, high = (float(points[:, 2].quantile(q)) for q in (0.0, 1.0))
        levels = min(TALLEST, int((high - low) / self.voxel) + 1 + 2 * REACH)
        bottom = (low + high - levels * self.voxel) / 2
        self._low = points.new_tensor([-side, -side, bottom])
        self._size = points.new_tensor([2 * CELLS, 2 * CELLS, levels]) * self.voxel
        cell = ((points - self._low) / self.voxel).floor().long()
        most = cell.new_tensor([2 * CELLS, 2 * CELLS, levels]) - 1
        x, y, z = cell[self.covers(points)].minimum(most).T
        held = torch.full((levels, 2 * CELLS, 2 * CELLS), float((REACH + 1) ** 2))
        held[z, y, x] = 0
        self._grid = squared_distances(held, REACH).sqrt_().clamp_(max=REACH).mul_(self.voxel)

    def covers(self, places: Tensor) -> Tensor:
        """Which places [N, 3] lie in the grid, bool [N]."""
        return ((places >= self._low) & (places < self._low + self._size)).all(dim=1)

    def __call__(self, places: Tensor) -> Tensor:
        """The distances [N] of places [N, 3]; gradients lead away from the points."""
        at = (places - self._low) / self._size * 2 - 1
        read = functional.grid_sample(
            self._grid[None, None], at[None, None, None], padding_mode="border", align_corners=False
        )
        return read[0, 0, 0, 0]


def squared_distances(held: Tensor, reach: int) -> Tensor:
    """Squared distances in cells of a grid [D, H, W] whose cells are 0 where something is and large elsewhere.

    Exact up to `reach` cells, axis after axis (Felzenszwalb and Huttenlocher, 2012, with a bounded search).
    """
    for axis in range(3):
        nearest = held.clone()
        for step in range(1, min(reach, held.shape[axis] - 1) + 1):
            ahead, behind = (
                held.narrow(axis, step, held.shape[axis] - step),
                held.narrow(axis, 0, held.shape[axis] - step),
            )
            here = nearest.narrow(axis, 0, held.shape[axis] - step)
            torch.minimum(here, ahead + step * step, out=here)
            here = nearest.narrow(axis, step, held.shape[axis] - step)
            torch.minimum(here, behind + step * step, out=here)
        held = nearest
    return held
