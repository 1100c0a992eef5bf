"""The second stage of Voxel R-CNN: each proposed box is scored and corrected from what lies in it.

Source: Deng et al., "Voxel R-CNN: Towards High Performance Voxel-based 3D Object Detection" (2021), section 3.3;
numbers and names of layers as in OpenPCDet's settings for KITTI.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision.lidar.boxes import corners, iou_3d
from robovision.lidar.detectors.anchors import decode, encode
from robovision.lidar.detectors.config import DetectorConfig, RoiOptions
from robovision.lidar.detectors.heads import Found, Objects, choose
from robovision.lidar.detectors.roi_pool import PoolLayer, places_in
from robovision.lidar.sparse import SparseMap

WIDTHS, STRIDES = (32, 64, 64), (2, 4, 8)
"""Channels and strides of the backbone's second, third and fourth stage, which are pooled."""
SURE, UNSURE, FITS, EASY = 0.75, 0.25, 0.55, 0.1
"""Overlaps: from which the score's target is 1 and up to which it is 0; from which a box is taught, and up to which a
proposal is an easy miss."""
HARD = 0.8
"""Share of the misses that are hard ones."""
BETA = 1 / 9
DROPOUT = 0.3


class RoiHead(nn.Module):
    """Scores and boxes of proposals, from the stages of a sparse backbone."""

    def __init__(self, config: DetectorConfig, options: RoiOptions) -> None:
        super().__init__()
        self.config, self.options = config, options
        self.roi_grid_pool_layers = nn.ModuleList(
            PoolLayer(width, stride, radius, options)
            for width, stride, radius in zip(WIDTHS, STRIDES, options.radii, strict=True)
        )
        hidden = options.hidden
        self.shared_fc_layer = _layers(options.grid**3 * options.channels * len(WIDTHS), hidden)
        self.cls_fc_layers, self.reg_fc_layers = _layers(hidden, hidden), _layers(hidden, hidden)
        self.cls_pred_layer, self.reg_pred_layer = nn.Linear(hidden, 1), nn.Linear(hidden, 7)
        nn.init.normal_(self.cls_pred_layer.weight, std=0.01)
        nn.init.zeros_(self.cls_pred_layer.bias)
        nn.init.normal_(self.reg_pred_layer.weight, std=0.001)
        nn.init.zeros_(self.reg_pred_layer.bias)

    def forward(self, stages: Sequence[SparseMap], proposals: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits [N] and codes [N, 7] of proposed boxes [., 7] of each sweep, end to end."""
        boxes = torch.cat(list(proposals))
        each = self.options.grid**3
        places = places_in(boxes, self.options.grid).view(-1, 3)
        counts = torch.tensor([len(p) for p in proposals], device=boxes.device)
        sample = torch.arange(len(proposals), device=boxes.device).repeat_interleave(counts * each)
        pooled = [
            layer(stage, self.config.grid, places, sample)
            for layer, stage in zip(self.roi_grid_pool_layers, stages[1:4], strict=True)
        ]
        shared = self.shared_fc_layer(torch.cat(pooled, dim=1).reshape(len(boxes), -1))
        logits: Tensor = self.cls_pred_layer(self.cls_fc_layers(shared))
        codes: Tensor = self.reg_pred_layer(self.reg_fc_layers(shared))
        return logits[:, 0], codes

    def losses(
        self, stages: Sequence[SparseMap], found: Sequence[Found], truth: Sequence[Objects]
    ) -> dict[str, Tensor]:
        """The terms of the loss, of proposals of each sweep and its true objects; some, by chance, are taught."""
        drawn = [draw(p, objects, self.options.taught) for p, objects in zip(found, truth, strict=True)]
        logits, codes = self(stages, [boxes for boxes, _, _ in drawn])
        boxes, overlap, target = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        wanted = ((overlap - UNSURE) / (SURE - UNSURE)).clamp(0, 1)
        score = functional.binary_cross_entropy_with_logits(logits, wanted)
        fits = (overlap >= FITS).nonzero()[:, 0]
        count = max(1, len(fits))
        inner = encode(into(boxes[fits], target[fits]), at_origin(boxes[fits]))
        regression = functional.smooth_l1_loss(codes[fits], inner, reduction="sum", beta=BETA) / count
        corner = corner_misses(out_of(boxes[fits], codes[fits]), target[fits]).sum() / count
        return {"roi_score_loss": score, "roi_box_loss": regression, "roi_corner_loss": corner}

    def refine(self, stages: Sequence[SparseMap], found: Sequence[Found]) -> list[Found]:
        """The detections of each sweep, of its proposals."""
        logits, codes = self(stages, [p.boxes for p in found])
        counts = [len(p.boxes) for p in found]
        result = []
        for proposal, logit, code in zip(found, logits.split(counts), codes.split(counts), strict=True):
            score = logit.sigmoid()
            sure = score > self.config.score
            boxes = out_of(proposal.boxes[sure], code[sure])
            result.append(
                choose(Found(boxes, proposal.labels[sure], score[sure]), self.config.overlap, self.config.most)
            )
        return result


def draw(found: Found, objects: Objects, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Up to `count` proposals [K, 7] by chance, their overlap [K] with the best object of their class, and that [K, 7].

    Up to half of them fit; of the others, most are near misses. What there is too little of is drawn again.
    """
    overlap, best = _overlaps(found, objects)
    kinds = [overlap >= FITS, (overlap < FITS) & (overlap >= EASY), overlap < EASY]
    fitting, hard, easy = (kind.nonzero()[:, 0] for kind in kinds)
    fitting = fitting[torch.randperm(len(fitting), device=fitting.device)[: count // 2]]
    rest = count - len(fitting)
    near = (round(HARD * rest) if len(easy) else rest) if len(hard) else 0
    chosen = torch.cat([fitting, _again(hard, near), _again(easy, rest - near)])
    target = objects.boxes[best[chosen]] if len(objects.boxes) else found.boxes[chosen]
    return found.boxes[chosen], overlap[chosen], target


def into(boxes: Tensor, others: Tensor) -> Tensor:
    """Other boxes [K, 7] in the frames of boxes [K, 7], headings within a quarter turn."""
    x, y, z = (others[:, :3] - boxes[:, :3]).unbind(dim=1)
    cos, sin = boxes[:, 6].cos(), boxes[:, 6].sin()
    yaw = others[:, 6] - boxes[:, 6]
    yaw = yaw - ((yaw + math.pi / 2) / math.pi).floor() * math.pi
    return torch.cat([torch.stack([cos * x + sin * y, cos * y - sin * x, z], 1), others[:, 3:6], yaw[:, None]], dim=1)


def out_of(boxes: Tensor, codes: Tensor) -> Tensor:
    """The boxes [K, 7] that codes [K, 7] relative to boxes [K, 7] stand for."""
    inner = decode(codes, at_origin(boxes))
    x, y, z = inner[:, :3].unbind(dim=1)
    cos, sin = boxes[:, 6].cos(), boxes[:, 6].sin()
    place = torch.stack([cos * x - sin * y, sin * x + cos * y, z], dim=1) + boxes[:, :3]
    return torch.cat([place, inner[:, 3:6], inner[:, 6:] + boxes[:, 6:]], dim=1)


def at_origin(boxes: Tensor) -> Tensor:
    """Boxes [K, 7] of the same sizes at the origin, heading along x."""
    return torch.cat([torch.zeros_like(boxes[:, :3]), boxes[:, 3:6], torch.zeros_like(boxes[:, 6:])], dim=1)


def corner_misses(boxes: Tensor, target: Tensor) -> Tensor:
    """Mean Huber loss [K] of the corners' distances between boxes, whichever way round the target heads."""
    turned = torch.cat([target[:, :6], target[:, 6:] + math.pi], dim=1)
    mine = corners(boxes)
    distance = torch.minimum((mine - corners(target)).norm(dim=2), (mine - corners(turned)).norm(dim=2))
    return functional.smooth_l1_loss(distance, torch.zeros_like(distance), reduction="none").mean(dim=1)


def _overlaps(found: Found, objects: Objects) -> tuple[Tensor, Tensor]:
    """The largest overlap [N] of each proposal with an object of its class, and which that is [N]."""
    if not len(objects.boxes):
        nothing = found.scores.new_zeros(len(found.boxes))
        return nothing, nothing.long()
    same = found.labels[:, None] == objects.labels[None]
    overlap, best = torch.where(same, iou_3d(found.boxes, objects.boxes), 0.0).max(dim=1)
    return overlap, best


def _again(rows: Tensor, count: int) -> Tensor:
    """So many of rows [R], by chance, with repetition; none of none."""
    if not len(rows):
        return rows
    return rows[torch.randint(len(rows), (count,), device=rows.device)]


def _layers(width: int, channels: int) -> nn.Sequential:
    """Two layers with dropout between them."""
    first = nn.Linear(width, channels, bias=False), nn.BatchNorm1d(channels), nn.ReLU(), nn.Dropout(DROPOUT)
    return nn.Sequential(*first, nn.Linear(channels, channels, bias=False), nn.BatchNorm1d(channels), nn.ReLU())
