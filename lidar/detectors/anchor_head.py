"""The head of SECOND and PointPillars: class, box and direction of anchors along both axes at every place.

Source: SECOND (Yan et al., 2018), section 3.2: focal loss of classes, smooth L1 of boxes with the sine of the yaw's
error, and a direction of two that the sine can't tell apart; numbers as in OpenPCDet's settings for KITTI.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision.lidar.detectors.anchors import (
    IGNORED,
    NOTHING,
    TURNS,
    assign,
    decode,
    encode,
    limit,
    make_anchors,
)
from robovision.lidar.detectors.config import DetectorConfig
from robovision.lidar.detectors.heads import CANDIDATES, Found, Head, Maps, Objects, choose, flat

OFFSET = 0.78539
"""Radians at which the first of the two directions begins."""
BOX_WEIGHT, DIRECTION_WEIGHT = 2.0, 0.2
ALPHA, BETA = 0.25, 1 / 9
"""Weight of anchors with an object in the focal loss, and where the smooth L1 loss becomes linear."""


class AnchorHead(Head):
    """Maps `cls` [B, anchors * classes, H, W] as logits, `box` [B, anchors * 7, H, W], `dir` [B, anchors * 2, H, W]."""

    def __init__(self, width: int, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.each = len(config.anchors) * len(TURNS)
        self.conv_cls = nn.Conv2d(width, self.each * len(config.classes), 1)
        self.conv_box = nn.Conv2d(width, self.each * 7, 1)
        self.conv_dir_cls = nn.Conv2d(width, self.each * 2, 1)
        nn.init.constant_(self.conv_cls.bias, -math.log((1 - 0.01) / 0.01))  # type: ignore[arg-type]
        nn.init.normal_(self.conv_box.weight, std=0.001)

    def forward(self, features: Tensor) -> Maps:
        parts = {"cls": self.conv_cls, "box": self.conv_box, "dir": self.conv_dir_cls}
        weight = torch.cat([part.weight for part in parts.values()])
        bias = torch.cat([part.bias for part in parts.values() if part.bias is not None])
        maps = functional.conv2d(features, weight, bias)
        widths = [part.out_channels for part in parts.values()]
        return dict(zip(parts, torch.split(maps, widths, dim=1), strict=True))

    def losses(self, maps: Maps, truth: list[Objects]) -> dict[str, Tensor]:
        logits, boxes, directions = self._flat(maps)
        anchors = self.anchors(maps)
        flat_anchors = anchors.view(-1, 7)
        terms: dict[str, list[Tensor]] = {"class_loss": [], "box_loss": [], "direction_loss": []}
        for k, objects in enumerate(truth):
            match = assign(self.config, anchors, objects).view(-1)
            chosen = match >= 0
            count = chosen.sum().clamp(min=1)
            terms["class_loss"].append(_class_loss(logits[k], match, objects.labels) / count)
            box = objects.boxes[match[chosen]]
            target = encode(box, flat_anchors[chosen])
            terms["box_loss"].append(BOX_WEIGHT * _box_loss(boxes[k, chosen], target) / count)
            wanted = direction_of(target[:, 6] + flat_anchors[chosen, 6])
            loss = functional.cross_entropy(directions[k, chosen], wanted, reduction="sum")
            terms["direction_loss"].append(DIRECTION_WEIGHT * loss / count)
        return {name: torch.stack(values).mean() for name, values in terms.items()}

    def decode(self, maps: Maps) -> list[Found]:
        return self.read(maps, self.config.score, self.config.overlap, self.config.most)

    def read(self, maps: Maps, score: float, overlap: float, most: int) -> list[Found]:
        """The best boxes of each sweep above a score, at most so many, of which no two overlap by more."""
        logits, boxes, directions = self._flat(maps)
        anchors = self.anchors(maps).view(-1, 7)
        found = []
        for k in range(len(logits)):
            value, label = logits[k].sigmoid().max(dim=1)
            sure = (value > score).nonzero()[:, 0]
            sure = sure[value[sure].argsort(descending=True, stable=True)[:CANDIDATES]]
            read = decode(boxes[k, sure], anchors[sure])
            yaw = limit(read[:, 6] - OFFSET, 0.0, math.pi) + OFFSET + math.pi * directions[k, sure].argmax(dim=1)
            read = torch.cat([read[:, :6], yaw[:, None]], dim=1)
            found.append(choose(Found(read, label[sure], value[sure]), overlap, most))
        return found

    def anchors(self, maps: Maps) -> Tensor:
        """The anchors [H, W, classes, 2, 7] of maps."""
        height, width = maps["cls"].shape[2:]
        return make_anchors(self.config, (height, width)).to(maps["cls"].device)

    def _flat(self, maps: Maps) -> tuple[Tensor, Tensor, Tensor]:
        return flat(maps["cls"], len(self.config.classes)), flat(maps["box"], 7), flat(maps["dir"], 2)


def direction_of(yaw: Tensor) -> Tensor:
    """Which half of the circle angles [N] lie in, 0 or 1."""
    return (limit(yaw - OFFSET, 0.0, 2 * math.pi) / math.pi).floor().long().clamp(0, 1)


def _class_loss(logits: Tensor, match: Tensor, labels: Tensor) -> Tensor:
    """Focal loss (Lin et al., 2017) of logits [A, classes], summed; ignored anchors are left out."""
    target = torch.zeros_like(logits)
    chosen = (match > NOTHING).nonzero()[:, 0]
    target[chosen, labels[match[chosen]]] = 1
    chance = logits.sigmoid()
    wrong = torch.where(target == 1, 1 - chance, chance)
    weight = torch.where(target == 1, ALPHA, 1 - ALPHA) * wrong.square()
    loss = weight * functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return loss[match != IGNORED].sum()


def _box_loss(code: Tensor, target: Tensor) -> Tensor:
    """Smooth L1 of codes [M, 7], summed; of the yaw, the sine of the difference."""
    miss = torch.cat([code[:, :6] - target[:, :6], (code[:, 6:] - target[:, 6:]).sin()], dim=1)
    return functional.smooth_l1_loss(miss, torch.zeros_like(miss), reduction="sum", beta=BETA)
