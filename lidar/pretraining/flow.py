"""Equivariance to time: features of a sweep, carried along the scene's flow, are those of the next sweep.

Source: E-SSL3D (Hegde et al., 2024): the target network sees the earlier sweep, its features ride on the points to
where the flow takes them, and the online network, which sees the later sweep, predicts them there.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from robovision.lidar.detectors.config import Grid
from robovision.lidar.pretraining.network import Target, Trunk, at_points, cells_of, projector
from robovision.lidar.pretraining.objective import Objective
from robovision.lidar.pretraining.options import PretrainOptions
from robovision.lidar.pretraining.views import Batch, View


class FlowEquivariance(Objective):
    """Squared distance of unit vectors, summed over the cells that both sweeps reach, over all cells."""

    views = ("here",)
    targets = ("before",)
    flow = True

    def __init__(self, trunk: Trunk, options: PretrainOptions) -> None:
        super().__init__()
        self.grid = trunk.config.grid
        self.project = projector(trunk.channels, options.width)
        self.predict = projector(options.width, options.width)
        self.target = Target([trunk, self.project], options.ema)

    def forward(self, batch: Batch, features: dict[str, Tensor]) -> Tensor:
        here, before = batch.views["here"], batch.views["before"]
        predicted = functional.normalize(self.predict(self.project(features["here"])), dim=1)
        with torch.no_grad():
            earlier = self.target[1](self.target[0](before))
            carried, reached = carry(earlier, before, batch.flow, self.grid)
        size, _, height, width = predicted.shape
        _, cells = cells_of(here.points[:, :3], here.sample, self.grid, (height, width))
        seen = torch.zeros_like(reached).index_fill(0, cells, True)
        both = (reached & seen).nonzero()[:, 0]
        flat = predicted.permute(0, 2, 3, 1).reshape(size * height * width, -1)
        return (flat[both] - functional.normalize(carried[both], dim=1)).square().sum() / (size * height * width)

    def follow(self, trunk: Trunk) -> None:
        self.target.follow([trunk, self.project])


def carry(features: Tensor, view: View, flow: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Maps [B, C, H, W] after their points were carried along their flow [P, 3].

    Each point takes along what it finds under it; where several arrive, their mean counts.

    Returns:
        Features float32 [B * H * W, C], 0 where nothing arrives, and where something does, bool [B * H * W].
    """
    size, channels, height, width = features.shape
    xyz = view.points[:, :3]
    start, _ = cells_of(xyz, view.sample, grid, (height, width))
    end, cells = cells_of(xyz[start] + flow[start], view.sample[start], grid, (height, width))
    rows = start.nonzero()[:, 0][end]
    riding = at_points(features, xyz[rows], view.sample[rows], grid)
    total = riding.new_zeros(size * height * width, channels).index_add(0, cells, riding)
    count = torch.bincount(cells, minlength=size * height * width)
    return total / count.clamp(min=1)[:, None], count > 0
