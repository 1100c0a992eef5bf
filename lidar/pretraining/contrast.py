"""Contrastive equivariance to shifts, scales and flips: of two views of a sweep, features of the same point agree.

The features of g x under the point g p are compared with those of x under p: what a sweep's map says moves with it.
Sources: E-SSL3D (Hegde et al., 2024), its contrastive objective; PointInfoNCE from PointContrast (Xie et al., 2020).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from robovision.lidar.detectors.config import Grid
from robovision.lidar.pretraining.network import Trunk, at_points, inside, projector
from robovision.lidar.pretraining.objective import Objective
from robovision.lidar.pretraining.options import PretrainOptions
from robovision.lidar.pretraining.views import Batch, View


class Contrast(Objective):
    """PointInfoNCE between two views, each shifted, scaled and perhaps flipped."""

    views = ("here", "there")

    def __init__(self, trunk: Trunk, options: PretrainOptions) -> None:
        super().__init__()
        self.grid, self.options = trunk.config.grid, options
        self.project = projector(trunk.channels, options.width)

    def forward(self, batch: Batch, features: dict[str, Tensor]) -> Tensor:
        """The mean over the sweeps of the loss summed over their points."""
        first, second = (batch.views[name] for name in self.views)
        rows = common(first, second, self.grid, self.options.points, batch.generator())
        sample = first.sample[rows]
        one, other = (
            functional.normalize(at_points(self.project(features[name]), view.points[rows], sample, self.grid), dim=1)
            for name, view in zip(self.views, (first, second), strict=True)
        )
        losses = [
            point_info_nce(one[sample == number], other[sample == number], self.options.temperature)
            for number in range(len(first))
        ]
        return torch.stack(losses).mean()


def point_info_nce(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """The sum over i of -log softmax_k(first_i . second_k / temperature) at k = i, of unit vectors [N, C] each."""
    similarity = first @ second.T / temperature
    return functional.cross_entropy(similarity, torch.arange(len(first), device=first.device), reduction="sum")


def common(first: View, second: View, grid: Grid, most: int, generator: torch.Generator) -> Tensor:
    """The rows, int64 [N], of up to `most` points of each sweep, by chance, that lie in the grid in both views."""
    both = inside(first.points[:, :3], grid) & inside(second.points[:, :3], grid)
    chosen = []
    for number in range(len(first)):
        rows = (both & (first.sample == number)).nonzero()[:, 0]
        chosen.append(rows[torch.randperm(len(rows), generator=generator)[:most].to(rows.device)])
    return torch.cat(chosen)
