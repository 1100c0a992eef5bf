"""What every head has in common: maps out of features, losses out of maps and truth, detections out of maps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robovision.lidar.boxes import nms_bev

Maps = dict[str, Tensor]
"""A head's raw answers by name, each [B, C, H, W]."""

CANDIDATES = 4096
"""The most boxes of a sweep that are compared with each other."""


@dataclass(frozen=True, eq=False)
class Objects:
    """The true objects of one sweep.

    Convention:
        boxes: float32 [N, 7], as in `robovision.lidar.boxes`, in the LiDAR's frame.
        labels: int64 [N], numbers of the detector's classes.
    """

    boxes: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Found:
    """What is found in one sweep, best first: boxes [N, 7], labels [N] and scores [N] in 0..1."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor


class Head(nn.Module, ABC):
    """The last part of a detector."""

    reach: ClassVar[int] = 0
    """Cells of the features that a cell of its maps sees to each side."""

    @abstractmethod
    def forward(self, features: Tensor) -> Maps:
        """The maps of features [B, C, H, W]."""

    @abstractmethod
    def losses(self, maps: Maps, truth: list[Objects]) -> dict[str, Tensor]:
        """The weighted terms of the loss by name, whose sum is minimised."""

    @abstractmethod
    def decode(self, maps: Maps) -> list[Found]:
        """The detections of each sweep."""


def choose(found: Found, overlap: float, most: int) -> Found:
    """The best detections, without those that a better one overlaps on the ground by more, whatever their class."""
    best = found.scores.argsort(descending=True, stable=True)[:CANDIDATES]
    kept = best[nms_bev(found.boxes[best], found.scores[best], overlap)][:most]
    return Found(found.boxes[kept], found.labels[kept], found.scores[kept])


def flat(values: Tensor, width: int) -> Tensor:
    """A map [B, A * width, H, W] as float32 [B, H * W * A, width]."""
    return values.float().permute(0, 2, 3, 1).reshape(len(values), -1, width)


def nothing(like: Tensor) -> Found:
    """No detection."""
    return Found(like.new_zeros(0, 7), torch.zeros(0, dtype=torch.int64, device=like.device), like.new_zeros(0))
