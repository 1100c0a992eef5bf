"""Tiny detectors and scenes that several tests of detectors need."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from robovision.lidar.detectors.augmentation import Scene
from robovision.lidar.detectors.config import Anchor, BevOptions, CenterOptions, DetectorConfig, Grid, RoiOptions
from robovision.lidar.detectors.heads import Objects

CLASSES = ("Car", "Pedestrian")
ANCHORS = (Anchor((3.9, 1.6, 1.56), -1.78, 0.6, 0.45), Anchor((0.8, 0.6, 1.73), -0.6, 0.5, 0.35))
GRID = Grid((0.0, -6.4, -3.0), (12.8, 6.4, 1.0), (0.2, 0.2, 4.0))
BEV = BevOptions((1, 1), (2, 2), (16, 16), (1, 2), (16, 16))
VOXELS = Grid((0.0, -3.2, -3.0), (6.4, 3.2, 1.0), (0.1, 0.1, 0.1))

CENTER = DetectorConfig(CLASSES, GRID, BEV, pillars=(16,), center=CenterOptions(16, 1), overlap=0.2)
PLACELESS = dataclasses.replace(CENTER, absolute=False, bev=BevOptions((0, 0), (2, 2), (16, 16), (1, 2), (16, 16)))
AXES = dataclasses.replace(CENTER, center=CenterOptions(16, 1, axis=True))
ANCHORED = DetectorConfig(CLASSES, GRID, BEV, pillars=(16,), anchors=ANCHORS)
SECOND = DetectorConfig(
    CLASSES, VOXELS, BevOptions((1, 1), (1, 2), (8, 8), (1, 2), (8, 8)), encoder="second", anchors=ANCHORS
)
TWO_STAGES = dataclasses.replace(
    SECOND,
    roi=RoiOptions(grid=2, channels=4, neighbours=4, hidden=8, proposals=10, proposed=40, taught=12),
)
RESIDUAL = DetectorConfig(CLASSES, VOXELS, SECOND.bev, encoder="residual")


def boxes() -> Objects:
    """A car, turned, and a pedestrian."""
    table = [[6.3, 2.1, -0.9, 4.0, 1.7, 1.5, 0.5], [4.1, -3.3, -0.85, 0.7, 0.6, 1.8, -2.2]]
    return Objects(torch.tensor(table), torch.tensor([0, 1]))


def scene(features: int = 4, seed: int = 0) -> Scene:
    """Ground with points on the sides of the two objects."""
    generator = torch.Generator().manual_seed(seed)
    ground = torch.rand(800, 2, generator=generator) * torch.tensor([12.8, 12.8]) - torch.tensor([0.0, 6.4])
    parts = [torch.cat([ground, torch.full((800, 1), -1.7)], dim=1)]
    parts += [surface(box, 200, generator) for box in boxes().boxes]
    xyz = torch.cat(parts)
    return Scene(torch.cat([xyz, torch.rand(len(xyz), features - 3, generator=generator)], dim=1), boxes())


def surface(box: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Points on the upright sides of a box [7]."""
    place = torch.rand(count, 3, generator=generator) - 0.5
    side = torch.arange(count) % 2
    place[torch.arange(count), side] = place[torch.arange(count), side].sign() * 0.49
    place = place * box[3:6]
    cos, sin = box[6].cos(), box[6].sin()
    x, y = cos * place[:, 0] - sin * place[:, 1], sin * place[:, 0] + cos * place[:, 1]
    return torch.stack([x, y, place[:, 2]], dim=1) + box[:3]


def same_boxes(one: Tensor, other: Tensor, at: float = 1e-4) -> None:
    """Assert that boxes are equal, yaw up to whole turns."""
    assert torch.allclose(one[:, :6], other[:, :6], atol=at)
    assert torch.allclose((one[:, 6] - other[:, 6]).cos(), torch.ones(len(one)), atol=at)
