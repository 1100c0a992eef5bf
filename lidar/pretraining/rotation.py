"""Equivariance by classification: by how much a sweep was turned is told from its features.

Features that are invariant to turns could not tell. Source: E-SSL3D (Hegde et al., 2024): ten classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from robovision.lidar.pretraining.network import Trunk, vector_projector
from robovision.lidar.pretraining.objective import Objective
from robovision.lidar.pretraining.options import PretrainOptions
from robovision.lidar.pretraining.views import Batch

BINS = 10
"""Into so many classes the turns are cut evenly."""


class Rotation(Objective):
    """Cross-entropy of the class of a turn, from the mean features after it, or from those before and after it."""

    def __init__(self, trunk: Trunk, options: PretrainOptions) -> None:
        super().__init__()
        self.views = ("still", "turned") if options.pair else ("turned",)
        self.most = options.motion.turn
        self.classify = vector_projector(trunk.channels * len(self.views), options.width, BINS)

    def forward(self, batch: Batch, features: dict[str, Tensor]) -> Tensor:
        pooled = torch.cat([features[name].mean(dim=(2, 3)) for name in self.views], dim=1)
        yaw = pooled.new_tensor([element.yaw for element in batch.views["turned"].elements])
        return functional.cross_entropy(self.classify(pooled), classes(yaw, self.most))


def classes(yaw: Tensor, most: float) -> Tensor:
    """The classes, int64 [B], of turns [B] in radians between -most and most."""
    return ((yaw / most + 1) / 2 * BINS).floor().long().clamp(0, BINS - 1)
