"""The sparse 3D backbones of SECOND and CenterPoint: eight times coarser on the ground, the height put into channels.

Sources: SECOND (Yan et al., 2018) and CenterPoint (Yin et al., 2021), in the sizes and with the names of OpenPCDet's
VoxelBackBone8x and VoxelResBackBone8x, so that their weights fit.
"""

from __future__ import annotations

from torch import Tensor, nn

from robovision.lidar.detectors.config import DetectorConfig
from robovision.lidar.rulebooks import Triple, output_shape
from robovision.lidar.sparse import (
    Sites,
    SparseMap,
    SparseSequential,
    StridedConv3d,
    SubmanifoldConv3d,
    triple,
)
from robovision.lidar.voxels import middles, voxelise

LAST = 128
"""Channels of the last convolution."""


class ResidualBlock(nn.Module):
    """Two submanifold convolutions around which the features are carried."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = SubmanifoldConv3d(channels, channels), _norm(channels)
        self.conv2, self.bn2 = SubmanifoldConv3d(channels, channels), _norm(channels)

    def forward(self, inputs: SparseMap) -> SparseMap:
        first = self.bn1(self.conv1(inputs).features).relu()
        second = self.bn2(self.conv2(SparseMap(first, inputs.sites)).features)
        return SparseMap((second + inputs.features).relu(), inputs.sites)


class VoxelEncoder(nn.Module):
    """Points to a map of the ground [B, channels, H / 8, W / 8]; voxels start with the mean of their points.

    Unless the detector sees where points lie (`absolute`), x and y of that mean are from the voxel's middle.
    """

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        residual = config.encoder == "residual"
        self.grid, self.absolute = config.grid, config.absolute
        depth, height, width = config.grid.shape
        self.shape: Triple = (depth + 1, height, width)
        widths = (16, 32, 64, 128 if residual else 64)
        self.conv_input = _layer(SubmanifoldConv3d(config.features, widths[0], bias=False))
        self.conv1 = SparseSequential(*_inner(widths[0], residual, 2 if residual else 1))
        self.conv2 = _stage(widths[0], widths[1], 1, residual)
        self.conv3 = _stage(widths[1], widths[2], 1, residual)
        self.conv4 = _stage(widths[2], widths[3], (0, 1, 1), residual)
        self.conv_out = _layer(StridedConv3d(widths[3], LAST, (3, 1, 1), (2, 1, 1), 0, bias=False))
        self.channels = LAST * self._levels()

    def forward(self, points: Tensor, sample: Tensor, size: int) -> Tensor:
        """The map of points [P, 3 or 4] of `size` sweeps."""
        grid = self.stages(points, sample, size)[-1].dense()
        return grid.flatten(1, 2)

    def stages(self, points: Tensor, sample: Tensor, size: int) -> list[SparseMap]:
        """The features after each stage: at 1, 2, 4 and 8 voxels a site, and the last with the height reduced."""
        voxels = voxelise(points.to(next(self.parameters()).dtype), sample, self.grid)
        values = voxels.mean(voxels.points)
        if not self.absolute:
            values[:, :2] -= middles(voxels, self.grid)[:, :2]
        here = SparseMap(values, Sites(voxels.coordinates, self.shape, size))
        found = []
        here = self.conv_input(here)
        for stage in (self.conv1, self.conv2, self.conv3, self.conv4, self.conv_out):
            here = stage(here)
            found.append(here)
        return found

    def _levels(self) -> int:
        """Cells of the result along z."""
        shape = self.shape
        for padding in (1, 1, (0, 1, 1)):
            shape = output_shape(shape, triple(3), triple(2), triple(padding))
        return output_shape(shape, (3, 1, 1), (2, 1, 1), triple(0))[0]


def _stage(width: int, channels: int, padding: int | Triple, residual: bool) -> SparseSequential:
    """A strided convolution and two more, or two residual blocks, where it leads."""
    down = _layer(StridedConv3d(width, channels, padding=padding, bias=False))
    return SparseSequential(down, *_inner(channels, residual, 2))


def _inner(channels: int, residual: bool, count: int) -> list[nn.Module]:
    if residual:
        return [ResidualBlock(channels) for _ in range(count)]
    return [_layer(SubmanifoldConv3d(channels, channels, bias=False)) for _ in range(count)]


def _layer(convolution: SubmanifoldConv3d | StridedConv3d) -> SparseSequential:
    return SparseSequential(convolution, _norm(convolution.weight.shape[2]), nn.ReLU())


def _norm(channels: int) -> nn.BatchNorm1d:
    return nn.BatchNorm1d(channels, eps=1e-3, momentum=0.01)
