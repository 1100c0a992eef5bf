"""Anchors: boxes that a head starts from, how others are written relative to them, and which of them stand for what.

Source: SECOND (Yan et al., 2018), section 3.2, with OpenPCDet's choice of places and of forced matches.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from robovision.lidar.boxes import rectangle_iou
from robovision.lidar.detectors.config import DetectorConfig
from robovision.lidar.detectors.heads import Objects

TURNS = (0.0, 1.57)
"""Headings of the anchors, radians; published weights know the second as exactly this."""
NOTHING, IGNORED = -1, -2
"""Marks of anchors that stand for no object, and of those about which nothing is taught."""


@lru_cache(maxsize=4)
def make_anchors(config: DetectorConfig, shape: tuple[int, int]) -> Tensor:
    """All anchors, float32 [H, W, classes, 2, 7], of a map [H, W] that covers the grid edge to edge; only read them."""
    height, width = shape
    low, high = config.grid.low, config.grid.high
    x = torch.linspace(low[0], high[0], width, dtype=torch.float64)
    y = torch.linspace(low[1], high[1], height, dtype=torch.float64)
    result = torch.zeros(height, width, len(config.anchors), len(TURNS), 7, dtype=torch.float64)
    result[..., 0], result[..., 1] = x[None, :, None, None], y[:, None, None, None]
    for k, anchor in enumerate(config.anchors):
        result[:, :, k, :, 2] = anchor.bottom + anchor.size[2] / 2
        result[:, :, k, :, 3:6] = torch.tensor(anchor.size, dtype=torch.float64)
    result[..., 6] = torch.tensor(TURNS, dtype=torch.float64)
    return result.float()


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Boxes [..., 7] relative to anchors [..., 7]: moved by diagonals, sizes as logarithms, yaw as a difference."""
    diagonal = anchors[..., 3:5].norm(dim=-1, keepdim=True)
    moved = (boxes[..., :3] - anchors[..., :3]) / torch.cat([diagonal, diagonal, anchors[..., 5:6]], dim=-1)
    grown = (boxes[..., 3:6].clamp(min=1e-5) / anchors[..., 3:6]).log()
    return torch.cat([moved, grown, boxes[..., 6:] - anchors[..., 6:]], dim=-1)


def decode(code: Tensor, anchors: Tensor) -> Tensor:
    """The boxes [..., 7] that are written so relative to anchors [..., 7]."""
    diagonal = anchors[..., 3:5].norm(dim=-1, keepdim=True)
    place = code[..., :3] * torch.cat([diagonal, diagonal, anchors[..., 5:6]], dim=-1) + anchors[..., :3]
    sizes = code[..., 3:6].clamp(max=5).exp() * anchors[..., 3:6]
    return torch.cat([place, sizes, code[..., 6:] + anchors[..., 6:]], dim=-1)


def nearest_rectangles(boxes: Tensor) -> Tensor:
    """Upright rectangles [N, 4] around the centres of boxes [N, 7] that are turned to the nearer axis."""
    yaw = limit(boxes[:, 6], 0.5, math.pi).abs()
    sizes = torch.where(yaw[:, None] < math.pi / 4, boxes[:, 3:5], boxes[:, [4, 3]])
    return torch.cat([boxes[:, :2] - sizes / 2, boxes[:, :2] + sizes / 2], dim=1)


def assign(config: DetectorConfig, anchors: Tensor, objects: Objects) -> Tensor:
    """For each anchor [H, W, classes, 2, 7] the number of its object, or NOTHING, or IGNORED; int64 [H, W, classes, 2].

    An anchor stands for the object of its class that it overlaps most, from `matched` on, and also if no anchor
    overlaps that object more; below `unmatched` for nothing.
    """
    result = torch.full(anchors.shape[:4], NOTHING, dtype=torch.int64, device=anchors.device)
    for k, anchor in enumerate(config.anchors):
        mine = (objects.labels == k).nonzero()[:, 0]
        if len(mine):
            own = anchors[:, :, k].reshape(-1, 7)
            overlap = _overlaps(own, objects.boxes[mine])
            result[:, :, k] = _match(overlap, mine, anchor.matched, anchor.unmatched).view((*result.shape[:2], 2))
    return result


def limit(angle: Tensor, offset: float, period: float) -> Tensor:
    """The angle moved by whole periods to -offset * period .. (1 - offset) * period."""
    return angle - (angle / period + offset).floor() * period


def _overlaps(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Overlap [A, N] of the nearest rectangles."""
    return rectangle_iou(nearest_rectangles(anchors)[:, None], nearest_rectangles(boxes)[None])


def _match(overlap: Tensor, numbers: Tensor, matched: float, unmatched: float) -> Tensor:
    best, at = overlap.max(dim=1)
    result = torch.full_like(at, IGNORED)
    result[best < unmatched] = NOTHING
    most = overlap.amax(dim=0)
    forced = ((overlap == most) & (most > 0)).any(dim=1)
    chosen = (best >= matched) | forced
    result[chosen] = numbers[at[chosen]]
    return result
