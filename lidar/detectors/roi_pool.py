"""Voxel RoI pooling: what the sparse backbone knows around a grid of places in each proposed box.

Source: Voxel R-CNN (Deng et al., 2021), section 3.2: neighbours are looked up by their voxels' coordinates, and a
part of the network over features is computed once a voxel, before they are gathered. Layers are named as in OpenPCDet.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robovision.lidar.detectors.config import Grid, RoiOptions
from robovision.lidar.sparse import SparseMap

RANGE = 4
"""Voxels along each axis within which neighbours are looked for."""
AT_ONCE = 1 << 13
"""Places whose neighbours are looked for at once."""


class PoolLayer(nn.Module):
    """Features [M, channels] at places, of those of a stage of the backbone, the largest around each.

    Args:
        width: channels of the stage.
        stride: voxels along a side of one of the stage's.
        radius: metres within which voxels count.
        options: of the pooling.
    """

    def __init__(self, width: int, stride: int, radius: float, options: RoiOptions) -> None:
        super().__init__()
        self.stride, self.radius, self.most = stride, radius, options.neighbours
        channels = options.channels
        self.mlps_in = nn.ModuleList(
            [nn.Sequential(nn.Conv1d(width, channels, 1, bias=False), nn.BatchNorm1d(channels))]
        )
        self.mlps_pos = nn.ModuleList([nn.Sequential(nn.Conv2d(3, channels, 1, bias=False), nn.BatchNorm2d(channels))])
        self.mlps_out = nn.ModuleList(
            [nn.Sequential(nn.Conv1d(channels, channels, 1, bias=False), nn.BatchNorm1d(channels), nn.ReLU())]
        )

    def forward(self, stage: SparseMap, grid: Grid, places: Tensor, sample: Tensor) -> Tensor:
        """The features at places [M, 3] of samples [M]; a place without neighbours sees one of zeros where it is."""
        middles = centres(stage, grid, self.stride)
        row, site = neighbours(stage, grid, self.stride, places, sample, self.radius, self.most)
        inside = self.mlps_in[0](stage.features.float().T[None])[0].T
        alone = (
            torch.ones(len(places), dtype=torch.bool, device=places.device).index_fill(0, row, False).nonzero()[:, 0]
        )
        offset = torch.cat([middles[site] - places[row], places.new_zeros(len(alone), 3)])
        features = torch.cat([inside[site], inside.new_zeros(len(alone), inside.shape[1])])
        position = self.mlps_pos[0](offset.T[None, :, :, None])[0, :, :, 0].T
        values = (features + position).relu()
        index = torch.cat([row, alone])[:, None].expand_as(values)
        most = values.new_zeros(len(places), values.shape[1]).scatter_reduce(0, index, values, "amax")
        out: Tensor = self.mlps_out[0](most.T[None])[0].T
        return out


def neighbours(
    stage: SparseMap, grid: Grid, stride: int, places: Tensor, sample: Tensor, radius: float, most: int
) -> tuple[Tensor, Tensor]:
    """Pairs of a place [M, 3] and a site of the stage whose middle is nearer than the radius, int64 [P] and [P].

    Of a place the first `most` sites count, ordered by z, y and x, at most 4 voxels away along each axis.
    """
    depth, height, width = stage.sites.shape
    table = places.new_full((stage.sites.size * depth * height * width,), -1, dtype=torch.int64)
    number, z, y, x = stage.sites.coordinates.unbind(dim=1)
    table[((number * depth + z) * height + y) * width + x] = torch.arange(len(number), device=places.device)
    middles, steps = centres(stage, grid, stride), _offsets(grid, stride, radius).to(places.device)
    low, size = places.new_tensor(grid.low), places.new_tensor(grid.voxel)
    home = ((places - low) / size).floor().long().div(stride, rounding_mode="floor")
    shape = home.new_tensor([width, height, depth])
    rows, sites = [home.new_zeros(0)], [home.new_zeros(0)]
    for first in range(0, len(places), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        cell = home[part, None] + steps
        within = ((cell >= 0) & (cell < shape)).all(dim=2)
        x, y, z = cell.clamp(min=0).minimum(shape - 1).unbind(dim=2)
        found = torch.where(within, table[((sample[part, None] * depth + z) * height + y) * width + x], -1)
        near = (middles[found.clamp(min=0)] - places[part, None]).square().sum(dim=2) < radius * radius
        hit = (found >= 0) & near
        row, column = (hit & (hit.cumsum(dim=1) <= most)).nonzero().unbind(dim=1)
        rows.append(row + first)
        sites.append(found[row, column])
    return torch.cat(rows), torch.cat(sites)


def centres(stage: SparseMap, grid: Grid, stride: int) -> Tensor:
    """The middles, float32 [N, 3], metres, of a stage's sites."""
    size = torch.tensor(grid.voxel, device=stage.sites.coordinates.device) * stride
    return (stage.sites.coordinates[:, [3, 2, 1]] + 0.5) * size + size.new_tensor(grid.low)


def places_in(boxes: Tensor, count: int) -> Tensor:
    """Places [N, count^3, 3] in boxes [N, 7], evenly spread, z running fastest."""
    step = (torch.arange(count, device=boxes.device) + 0.5) / count - 0.5
    share = torch.stack(torch.meshgrid(step, step, step, indexing="ij"), dim=-1).view(-1, 3)
    x, y, z = (share * boxes[:, None, 3:6]).unbind(dim=2)
    cos, sin = boxes[:, 6:].cos(), boxes[:, 6:].sin()
    return torch.stack([cos * x - sin * y, sin * x + cos * y, z], dim=2) + boxes[:, None, :3]


def _offsets(grid: Grid, stride: int, radius: float) -> Tensor:
    """Steps x, y, z [K, 3] to voxels that may be near enough, in the order of z, y, x."""
    step = torch.arange(-RANGE, RANGE + 1)
    z, y, x = torch.meshgrid(step, step, step, indexing="ij")
    steps = torch.stack([x, y, z], dim=-1).view(-1, 3)
    least = (steps.abs() - 0.5).clamp(min=0) * torch.tensor(grid.voxel) * stride
    return steps[least.norm(dim=1) < radius]
