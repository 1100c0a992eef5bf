"""PointPillars' encoder: a small network over each pillar's points, and the pillars as a picture of the ground.

Source: Lang et al., "PointPillars" (2019), section 2.1; the points' numbers as in OpenPCDet: x, y, z and intensity, the
offsets from the mean of the pillar's points, and those from the pillar's middle.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robovision.lidar.detectors.config import DetectorConfig, Grid
from robovision.lidar.voxels import Voxels, middles, voxelise


class PillarLayer(nn.Module):
    """Linear, normalised, rectified; behind it the largest value in the pillar, alone or beside each point's own."""

    def __init__(self, width: int, channels: int, last: bool) -> None:
        super().__init__()
        self.last = last
        self.linear = nn.Linear(width, channels if last else channels // 2, bias=False)
        self.norm = nn.BatchNorm1d(self.linear.out_features, eps=1e-3, momentum=0.01)

    def forward(self, values: Tensor, voxels: Voxels) -> Tensor:
        """Of points [Q, F] the pillars' features [V, C] if this is the last layer, else the points' own [Q, C]."""
        own = self.norm(self.linear(values)).relu()
        most = voxels.maximum(own)
        return most if self.last else torch.cat([own, most[voxels.index]], dim=1)


class PillarEncoder(nn.Module):
    """Points to a map of the ground [B, C, H, W], float32; empty places are 0."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.grid, self.padding, self.absolute = config.grid, config.padding, config.absolute
        widths = [config.features + (6 if config.absolute else 4), *config.pillars]
        self.layers = nn.ModuleList(
            PillarLayer(width, channels, k == len(config.pillars) - 1)
            for k, (width, channels) in enumerate(zip(widths, config.pillars, strict=False))
        )
        self.channels = config.pillars[-1]

    def forward(self, points: Tensor, sample: Tensor, size: int) -> Tensor:
        """The map of points [P, 3 or 4] of `size` sweeps.

        Metric coordinates lose centimetres in bfloat16, so that this part stays float32 under autocast.
        """
        with torch.autocast(points.device.type, enabled=False):
            voxels = voxelise(points.to(next(self.parameters()).dtype), sample, self.grid)
            values = describe(voxels, self.grid, self.absolute)
            if self.padding:
                values, voxels = pad(values, voxels, self.padding)
            for layer in self.layers:
                values = layer(values, voxels)
            return spread(values, voxels.coordinates, size, self.grid.shape[1:])


def describe(voxels: Voxels, grid: Grid, absolute: bool = True) -> Tensor:
    """What the network sees of each point, [Q, F + 6]; not `absolute`: without its x and y, [Q, F + 4]."""
    xyz = voxels.points[:, :3]
    own = voxels.points if absolute else voxels.points[:, 2:]
    middle = middles(voxels, grid)[voxels.index]
    return torch.cat([own, xyz - voxels.mean(xyz)[voxels.index], xyz - middle], dim=1)


def pad(values: Tensor, voxels: Voxels, full: int) -> tuple[Tensor, Voxels]:
    """A point of zeros beside those of each pillar that holds fewer than `full`: OpenPCDet fills them up with such."""
    short = (voxels.counts() < full).nonzero()[:, 0]
    more = values.new_zeros(len(short), values.shape[1])
    index = torch.cat([voxels.index, short])
    points = torch.cat([voxels.points, more[:, : voxels.points.shape[1]]])
    return torch.cat([values, more]), Voxels(voxels.coordinates, points, index)


def spread(features: Tensor, coordinates: Tensor, size: int, shape: tuple[int, ...]) -> Tensor:
    """Features [V, C] at their places in a map [size, C, H, W] that is 0 elsewhere, channels last in memory."""
    height, width = shape
    canvas = features.new_zeros(size * height * width, features.shape[1])
    place = (coordinates[:, 0] * height + coordinates[:, 2]) * width + coordinates[:, 3]
    canvas = canvas.index_copy(0, place, features)
    return canvas.view(size, height, width, -1).permute(0, 3, 1, 2)
