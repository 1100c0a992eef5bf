"""STRL, a baseline of invariance: two sweeps in a row, each moved by chance, predict one another as a whole.

Source: "Spatio-temporal Self-Supervised Representation Learning for 3D Point Clouds" (Huang et al., 2021), after BYOL.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from robovision.lidar.pretraining.network import Target, Trunk, vector_projector
from robovision.lidar.pretraining.objective import Objective
from robovision.lidar.pretraining.options import PretrainOptions
from robovision.lidar.pretraining.views import Batch


class STRL(Objective):
    """2 - 2 cos between the prediction from one sweep and the target's answer to the other, both ways round."""

    views = ("spun", "spun before")
    targets = views

    def __init__(self, trunk: Trunk, options: PretrainOptions) -> None:
        super().__init__()
        self.project = vector_projector(trunk.channels, options.width, options.width)
        self.predict = vector_projector(options.width, options.width, options.width)
        self.target = Target([trunk, self.project], options.ema)

    def forward(self, batch: Batch, features: dict[str, Tensor]) -> Tensor:
        predicted = [self.predict(self.project(_pooled(features[name]))) for name in self.views]
        with torch.no_grad():
            answers = [self.target[1](_pooled(self.target[0](batch.views[name]))) for name in self.targets]
        likeness = [
            functional.cosine_similarity(one, other).mean()
            for one, other in zip(predicted, reversed(answers), strict=True)
        ]
        return 2 - 2 * torch.stack(likeness).mean()

    def follow(self, trunk: Trunk) -> None:
        self.target.follow([trunk, self.project])


def _pooled(features: Tensor) -> Tensor:
    """The largest value of each channel, float32 [B, C], of [B, C, H, W]."""
    return features.amax(dim=(2, 3))
