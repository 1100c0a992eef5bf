"""ALSO-like, a baseline by reconstruction: whether there is something at a place is told from the features under it.

Source: ALSO (Boulch et al., 2023), section 3: a ray says that what lies before its end is empty and what lies just
behind it is full. Its places are asked of the nearest point's features, ours of the map's, and intensity is not asked.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from robovision.lidar.detectors.config import Grid
from robovision.lidar.pretraining.network import Trunk, at_points, inside, vector_projector
from robovision.lidar.pretraining.objective import Objective
from robovision.lidar.pretraining.options import PretrainOptions
from robovision.lidar.pretraining.views import Batch, View

DEPTH = 0.1
"""Metres before and behind a ray's end at which it is empty and full."""
REACH = 1.0
"""Metres before it within which a third place, also empty, is asked."""


class Also(Objective):
    """Binary cross-entropy of the occupancy of places around the points."""

    views = ("here",)

    def __init__(self, trunk: Trunk, options: PretrainOptions) -> None:
        super().__init__()
        self.grid, self.points = trunk.config.grid, options.points
        self.decode = vector_projector(trunk.channels + 3, options.width, 1)

    def forward(self, batch: Batch, features: dict[str, Tensor]) -> Tensor:
        view, found = batch.views["here"], features["here"]
        xyz, sample, full = ask(view, self.points, batch.generator())
        within = inside(xyz, self.grid)
        xyz, sample, full = xyz[within], sample[within], full[within]
        under = at_points(found, xyz, sample, self.grid)
        inputs = torch.cat([under, _beside(xyz, self.grid, found.shape[3])], dim=1)
        return functional.binary_cross_entropy_with_logits(self.decode(inputs)[:, 0], full)


def ask(view: View, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Places [3 N, 3], the sweep of each, and 1 where it is full, 0 where empty; of N points of a sweep at most."""
    rows = []
    for number in range(len(view)):
        mine = (view.sample == number).nonzero()[:, 0]
        rows.append(mine[torch.randperm(len(mine), generator=generator)[:most].to(mine.device)])
    chosen = torch.cat(rows)
    end, sample = view.points[chosen, :3], view.sample[chosen]
    origin = end.new_tensor([element.translation for element in view.elements])[sample]
    ahead = functional.normalize(end - origin, dim=1)
    near = torch.rand(len(end), 1, generator=generator).to(end) * (REACH - DEPTH) + DEPTH
    places = torch.cat([end + DEPTH * ahead, end - DEPTH * ahead, end - near * ahead])
    full = torch.zeros(len(places), device=end.device)
    full[: len(end)] = 1
    return places, sample.repeat(3), full


def _beside(xyz: Tensor, grid: Grid, width: int) -> Tensor:
    """Where places lie beside the middle of their cells, in cells, and their heights in metres, [P, 3]."""
    cell = (grid.high[0] - grid.low[0]) / width
    place = (xyz[:, :2] - xyz.new_tensor(grid.low[:2])) / cell
    return torch.cat([place - place.floor() - 0.5, xyz[:, 2:]], dim=1)
