"""CenterPoint's head: objects as peaks at their centres, with offset, height, size and heading beside.

Source: Yin et al., "Center-based 3D Object Detection and Tracking" (2021), section 4, with OpenPCDet's weights of the
losses; peaks are drawn as in CornerNet (Law and Deng, 2018).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision.lidar.detectors.config import DetectorConfig
from robovision.lidar.detectors.heads import Found, Head, Maps, Objects, choose, flat

BOX = {"center": 2, "center_z": 1, "dim": 3, "rot": 2}
"""Channels of what describes a box: offset in cells, height, logarithm of the size, cosine and sine of the yaw."""
WAY = {"way": 1}
"""Of axes, the logit of whether something heads backwards; `rot` is then of twice the yaw."""
RARE = -2.19
"""Bias of the peaks' logits at the start: peaks are rare."""
BOX_WEIGHT, WAY_WEIGHT = 2.0, 0.2


class CenterHead(Head):
    """Peaks `hm` [B, classes, H, W] as logits, and the maps of `BOX`."""

    reach = 3

    def __init__(self, width: int, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        channels, bias = config.center.channels, config.center.bias
        self.shared = _convolution(width, channels, bias)
        outputs = {**BOX, **(WAY if config.center.axis else {}), "hm": len(config.classes)}
        self.parts = nn.ModuleDict(
            {
                name: nn.Sequential(_convolution(channels, channels, bias), nn.Conv2d(channels, count, 3, padding=1))
                for name, count in outputs.items()
            }
        )
        nn.init.constant_(self.parts["hm"][1].bias, RARE)  # type: ignore[index]

    def forward(self, features: Tensor) -> Maps:
        shared = self.shared(features)
        maps = {name: part(shared) for name, part in self.parts.items()}
        return {name: map_.to(torch.promote_types(map_.dtype, torch.float32)) for name, map_ in maps.items()}

    def losses(self, maps: Maps, truth: list[Objects]) -> dict[str, Tensor]:
        height, width = maps["hm"].shape[2:]
        targets = [peaks(objects, self.config, (height, width)) for objects in truth]
        heat = torch.stack([target for target, *_ in targets]).to(maps["hm"].device)
        count = max(1, sum(len(cells) for _, cells, _ in targets))
        boxes = _boxes(maps)
        misses = [(boxes[k, cells, :8] - code[:, :8]).abs().sum() for k, (_, cells, code) in enumerate(targets)]
        terms = {
            "heat_loss": peak_loss(maps["hm"], heat),
            "box_loss": BOX_WEIGHT * torch.stack(misses).sum() / count,
        }
        if self.config.center.axis:
            ways = torch.cat([boxes[k, cells, 8] for k, (_, cells, _) in enumerate(targets)])
            wanted = torch.cat([code[:, 8] for *_, code in targets])
            loss = functional.binary_cross_entropy_with_logits(ways, wanted, reduction="sum")
            terms["way_loss"] = WAY_WEIGHT * loss / count
        return terms

    def decode(self, maps: Maps) -> list[Found]:
        scores = maps["hm"].sigmoid()
        size, _, height, width = scores.shape
        top = scores.flatten(1).topk(min(self.config.most, scores[0].numel()), dim=1)
        boxes = _boxes(maps)
        found = []
        for k in range(size):
            sure = top.values[k] > self.config.score
            value, place = top.values[k][sure], top.indices[k][sure]
            cell = place % (height * width)
            label = place.div(height * width, rounding_mode="floor")
            read = decode_boxes(boxes[k, cell], cell, width, self.config)
            found.append(choose(Found(read, label, value), self.config.overlap, self.config.most))
        return found


def peaks(objects: Objects, config: DetectorConfig, shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """The targets of one sweep: peaks [classes, H, W]; of objects inside the map, cells [M] and codes [M, 8 or 9]."""
    height, width = shape
    cell = _cell(config, objects.boxes)
    place = (objects.boxes[:, :2] - objects.boxes.new_tensor(config.grid.low[:2])) / cell
    inside = ((place >= 0) & (place < place.new_tensor([width, height]))).all(dim=1)
    boxes, labels, place = objects.boxes[inside], objects.labels[inside], place[inside]
    corner = place.floor()
    radius = gaussian_radius(boxes[:, 3:5] / cell, config.center.overlap).floor().clamp(min=config.center.radius)
    heat = boxes.new_zeros(len(config.classes), height, width)
    for label, (x, y), reach in zip(labels.tolist(), corner.long().tolist(), radius.long().tolist(), strict=True):
        _draw(heat[label], x, y, reach)
    size, heading = boxes[:, 3:6].clamp(min=1e-2).log(), encode_yaw(boxes[:, 6:], config.center.axis)
    code = torch.cat([place - corner, boxes[:, 2:3], size, heading], dim=1)
    return heat, (corner[:, 1] * width + corner[:, 0]).long(), code


def decode_boxes(code: Tensor, cell: Tensor, width: int, config: DetectorConfig) -> Tensor:
    """The boxes [M, 7] of codes [M, 8 or 9] at cells [M] of a map that is `width` cells wide."""
    corner = torch.stack([cell % width, cell.div(width, rounding_mode="floor")], dim=1)
    place = (corner + code[:, :2]) * _cell(config, code) + code.new_tensor(config.grid.low[:2])
    return torch.cat([place, code[:, 2:3], code[:, 3:6].clamp(max=5).exp(), decode_yaw(code[:, 6:])], dim=1)


def encode_yaw(yaw: Tensor, axis: bool) -> Tensor:
    """Cosine and sine of yaws [M, 1], or those of twice the yaw and 1 where that's half points backwards, [M, 2 or 3].

    >>> encode_yaw(torch.tensor([[3.0]]), axis=True).round(decimals=2)
    tensor([[ 0.9600, -0.2800,  1.0000]])
    """
    if not axis:
        return torch.cat([yaw.cos(), yaw.sin()], dim=1)
    return torch.cat([(2 * yaw).cos(), (2 * yaw).sin(), (yaw.cos() < 0).to(yaw)], dim=1)


def decode_yaw(code: Tensor) -> Tensor:
    """The yaws [M, 1] of what `encode_yaw` gives, with a logit for its third number."""
    angle = torch.atan2(code[:, 1:2], code[:, :1])
    return angle if code.shape[1] == 2 else angle / 2 + torch.pi * (code[:, 2:] > 0)


def gaussian_radius(sizes: Tensor, overlap: float) -> Tensor:
    """Cells [N] that a box of sizes [N, 2] can be moved by and still overlap by so much (CornerNet's three cases)."""
    total, area = sizes.sum(dim=1), sizes.prod(dim=1)
    cases = (
        (1.0, total, area * (1 - overlap) / (1 + overlap)),
        (4.0, 2 * total, area * (1 - overlap)),
        (4 * overlap, -2 * overlap * total, -area * (1 - overlap)),
    )
    # As everybody who copied it does, the root is halved, not divided by twice the first coefficient.
    return torch.stack([(b + (b.square() - 4 * a * c).clamp(min=0).sqrt()) / 2 for a, b, c in cases]).amin(dim=0)


def peak_loss(logits: Tensor, heat: Tensor) -> Tensor:
    """CornerNet's focal loss of peaks [B, C, H, W]: full at the centres, less beside them; over the objects."""
    chance = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    at = heat == 1
    hit = torch.where(at, chance.log() * (1 - chance).square(), 0).sum()
    miss = torch.where(at, 0, (1 - chance).log() * chance.square() * (1 - heat).pow(4)).sum()
    return -(hit + miss) / at.sum().clamp(min=1)


def _draw(heat: Tensor, x: int, y: int, radius: int) -> None:
    """A Gaussian peak at a cell of a map [H, W]; where peaks meet, the higher one counts."""
    height, width = heat.shape
    left, right, low, high = (
        max(0, x - radius),
        min(width, x + radius + 1),
        max(0, y - radius),
        min(height, y + radius + 1),
    )
    sigma = (2 * radius + 1) / 6
    across = torch.arange(left, right, device=heat.device) - x
    along = torch.arange(low, high, device=heat.device) - y
    peak = torch.exp(-(along[:, None].square() + across[None].square()) / (2 * sigma * sigma))
    heat[low:high, left:right] = torch.maximum(heat[low:high, left:right], peak)


def _boxes(maps: Maps) -> Tensor:
    """What describes the box at every cell, [B, H * W, 8 or 9]."""
    parts = BOX | WAY if "way" in maps else BOX
    return torch.cat([flat(maps[name], channels) for name, channels in parts.items()], dim=2)


def _cell(config: DetectorConfig, like: Tensor) -> Tensor:
    """Length and width [2] of the map's cells in metres."""
    return like.new_tensor(config.grid.voxel[:2]) * config.stride


def _convolution(width: int, channels: int, bias: bool) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, channels, 3, padding=1, bias=bias), nn.BatchNorm2d(channels), nn.ReLU())
