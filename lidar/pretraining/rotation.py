"""Equivariance by classification: by how much a sweep was turned is told from its features.

Features that are invariant to turns could not tell. Source: E-SSL3D (Hegde et al., 2024): ten classes. What the
classifier reads is open. The mean over all cells, most of which are empty, hardly differs from sweep to sweep, and is
learnt slowly; here each cell with points has its say.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision.lidar.pretraining.network import Trunk, cells_of
from robovision.lidar.pretraining.objective import Objective
from robovision.lidar.pretraining.options import PretrainOptions
from robovision.lidar.pretraining.views import Batch, View

BINS = 10
"""Into so many classes the turns are cut evenly."""


class Rotation(Objective):
    """Cross-entropy of the class of a turn, from the features after it, or from those before and after it."""

    def __init__(self, trunk: Trunk, options: PretrainOptions) -> None:
        super().__init__()
        self.views = ("still", "turned") if options.pair else ("turned",)
        self.most, self.grid = options.motion.turn, trunk.config.grid
        self.read = nn.Sequential(
            nn.Conv2d(trunk.channels, options.width, 1, bias=False), nn.BatchNorm2d(options.width), nn.ReLU()
        )
        self.classify = nn.Linear(2 * options.width * len(self.views), BINS)

    def forward(self, batch: Batch, features: dict[str, Tensor]) -> Tensor:
        pooled = torch.cat([self._pool(batch.views[name], features[name]) for name in self.views], dim=1)
        yaw = pooled.new_tensor([element.yaw for element in batch.views["turned"].elements])
        return functional.cross_entropy(self.classify(pooled), classes(yaw, self.most))

    def _pool(self, view: View, features: Tensor) -> Tensor:
        """What is read of maps [B, C, H, W], the mean over the cells with points and the most of all, [B, 2 width]."""
        read = self.read(features)
        size, _, height, width = read.shape
        _, cells = cells_of(view.points[:, :3], view.sample, self.grid, (height, width))
        seen = read.new_zeros(size * height * width).index_fill(0, cells, 1.0).view(size, 1, height, width)
        mean = (read * seen).sum(dim=(2, 3)) / seen.sum(dim=(2, 3)).clamp(min=1)
        return torch.cat([mean, read.amax(dim=(2, 3))], dim=1)


def classes(yaw: Tensor, most: float) -> Tensor:
    """The classes, int64 [B], of turns [B] in radians between -most and most."""
    return ((yaw / most + 1) / 2 * BINS).floor().long().clamp(0, BINS - 1)
