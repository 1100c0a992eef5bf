"""Convolutions over the ground: blocks of falling resolution, enlarged again and put side by side.

Source: SECOND (Yan et al., 2018), figure 2; layers in the order in which OpenPCDet keeps them, so that its weights fit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from robovision.lidar.detectors.config import BevOptions
from robovision.symmetry.claims import Symmetry
from robovision.symmetry.data import Image
from robovision.symmetry.groups import shifts, turns


class BevBackbone(nn.Module):
    """A map of the ground [B, width, H, W] to features [B, channels, H / stride, W / stride]."""

    def __init__(self, width: int, options: BevOptions) -> None:
        super().__init__()
        widths = (width, *options.channels)
        self.blocks = nn.ModuleList(
            _block(widths[k], options.channels[k], options.strides[k], layers)
            for k, layers in enumerate(options.layers)
        )
        self.deblocks = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(channels, out, stride, stride, bias=False),
                nn.BatchNorm2d(out, eps=1e-3, momentum=0.01),
                nn.ReLU(),
            )
            for channels, out, stride in zip(options.channels, options.up_channels, options.up_strides, strict=True)
        )
        self.channels = sum(options.up_channels)
        self.stride, self.coarsest = options.stride, math.prod(options.strides)
        self._options = options

    def symmetries(self) -> tuple[Symmetry, ...]:
        """Shifts by the cells of its coarsest map, far from the border's zeros; turns are broken."""
        cells = Image(float(self.stride))
        moved = Symmetry(shifts(self.coarsest), "interior", outputs=cells, margin=self.reach)
        return moved, Symmetry(turns("C4"), "none", outputs=cells)

    def forward(self, features: Tensor) -> Tensor:
        enlarged = []
        for block, deblock in zip(self.blocks, self.deblocks, strict=True):
            features = block(features)
            enlarged.append(deblock(features))
        return torch.cat(enlarged, dim=1)

    @property
    def reach(self) -> int:
        """Cells of the result that a cell sees to each side."""
        inputs, cell = 0, 1
        for stride, layers in zip(self._options.strides, self._options.layers, strict=True):
            inputs += cell  # the first convolution, on the finer grid
            cell *= stride
            inputs += layers * cell
        return -(-(inputs + cell) // self.stride)


def _block(width: int, channels: int, stride: int, layers: int) -> nn.Sequential:
    parts: list[nn.Module] = [nn.ZeroPad2d(1), nn.Conv2d(width, channels, 3, stride, bias=False)]
    for _ in range(layers):
        parts += [nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01), nn.ReLU()]
        parts += [nn.Conv2d(channels, channels, 3, padding=1, bias=False)]
    return nn.Sequential(*parts, nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01), nn.ReLU())
