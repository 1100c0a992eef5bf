"""Voxel R-CNN's second stage, against loops and by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from robovision.errors import UsageError
from robovision.lidar.boxes import iou_3d, points_in_boxes
from robovision.lidar.detectors.anchors import encode
from robovision.lidar.detectors.config import RoiOptions
from robovision.lidar.detectors.detector import Detector
from robovision.lidar.detectors.heads import Found, Objects
from robovision.lidar.detectors.roi_head import EASY, FITS, RoiHead, at_origin, corner_misses, draw, into, out_of
from robovision.lidar.detectors.roi_pool import RANGE, centres, neighbours, places_in
from robovision.lidar.detectors.sparse_backbones import VoxelEncoder
from robovision.lidar.sparse import SparseMap
from tests.lidar_scenes import CENTER, TWO_STAGES, boxes, scene

GRID = TWO_STAGES.grid
NEAR = torch.tensor([[4.2, 1.1, -0.9, 4.0, 1.7, 1.5, 0.5], [4.1, -2.1, -0.85, 0.7, 0.6, 1.8, -2.2]])
"""A car and a pedestrian within the grid."""


@pytest.fixture(scope="module")
def stages() -> list[SparseMap]:
    """What a backbone of random weights makes of two sweeps."""
    torch.manual_seed(0)
    points = torch.cat([scene(4, 0).points, scene(4, 1).points])
    with torch.no_grad():
        return VoxelEncoder(TWO_STAGES).stages(points, torch.arange(2).repeat_interleave(len(points) // 2), 2)


def jittered(count: int = 8) -> Tensor:
    """The boxes, each moved, turned and stretched a little, so many times."""
    generator = torch.Generator().manual_seed(1)
    truth = NEAR.repeat_interleave(count, 0)
    return truth + (torch.rand(len(truth), 7, generator=generator) - 0.5) * torch.tensor(
        [0.9, 0.4, 0.2, 0.5, 0.2, 0.2, 0.2]
    )


def test_places_fill_a_box() -> None:
    places = places_in(NEAR, 3)
    assert places.shape == (2, 27, 3)
    assert torch.allclose(places.mean(dim=1), NEAR[:, :3], atol=1e-5)
    for k in range(2):
        assert points_in_boxes(places[k], NEAR[k : k + 1]).all()
    (by_hand,) = places_in(torch.tensor([[1.0, 2.0, 3.0, 4.0, 2.0, 2.0, math.pi / 2]]), 2)
    assert torch.allclose(by_hand[:2], torch.tensor([[1.5, 1.0, 2.5], [1.5, 1.0, 3.5]]), atol=1e-5)


@pytest.mark.parametrize(("level", "stride", "radius", "most"), [(1, 2, 0.4, 3), (2, 4, 0.8, 100), (3, 8, 1.6, 16)])
def test_neighbours_by_loop(stages: list[SparseMap], level: int, stride: int, radius: float, most: int) -> None:
    places, sample = places_in(NEAR, 2).view(-1, 3), torch.arange(2).repeat_interleave(8)
    row, site = neighbours(stages[level], GRID, stride, places, sample, radius, most)
    coordinates, middle = stages[level].sites.coordinates, centres(stages[level], GRID, stride)
    total = 0
    for k, place in enumerate(places):
        home = ((place - torch.tensor(GRID.low)) / torch.tensor(GRID.voxel)).floor().long() // stride
        wanted = []
        for number, (b, z, y, x) in enumerate(coordinates.tolist()):
            close = (home - torch.tensor([x, y, z])).abs().max() <= RANGE
            if b == sample[k] and close and float((middle[number] - place).norm()) < radius:
                wanted.append(number)
        assert site[row == k].tolist() == wanted[:most]
        total += len(wanted)
    assert total > 0


def test_codes_lead_from_a_box_to_the_true_one() -> None:
    start, target = jittered(), NEAR.repeat_interleave(8, 0)
    target = torch.cat([target[:, :6], target[:, 6:] + math.pi * (torch.arange(16)[:, None] % 2)], dim=1)
    inner = into(start, target)
    assert (inner[:, 6].abs() <= math.pi / 2).all()
    found = out_of(start, encode(inner, at_origin(start)))
    assert torch.allclose(found[:, :6], target[:, :6], atol=1e-4)
    assert (found[:, 6] - target[:, 6]).sin().abs().max() < 1e-4
    assert corner_misses(found, target).max() < 1e-4
    moved = target + torch.tensor([0.1, 0, 0, 0, 0, 0, 0])
    assert torch.allclose(corner_misses(moved, target), torch.full((16,), 0.1**2 / 2), atol=1e-4)


def test_some_proposals_are_drawn_with_what_they_are_to_become() -> None:
    far = NEAR.repeat_interleave(10, 0) + torch.tensor([0.0, 30.0, 0, 0, 0, 0, 0])
    beside = NEAR.repeat_interleave(5, 0) + torch.tensor([0.3, 0.1, 0, 0, 0, 0, 0])
    proposed = torch.cat([jittered(), far, beside])
    labels = torch.cat(
        [torch.arange(2).repeat_interleave(8), torch.zeros(20, dtype=torch.int64), torch.ones(10).long()]
    )
    found, truth = Found(proposed, labels, torch.ones(len(proposed))), Objects(NEAR, torch.tensor([0, 1]))
    torch.manual_seed(0)
    drawn, overlap, target = draw(found, truth, 12)
    assert len(drawn) == 12 and 0 < int((overlap >= FITS).sum()) <= 6 and int((overlap < EASY).sum()) >= 1
    fitting = overlap >= FITS
    same = iou_3d(drawn, NEAR).max(dim=1)
    assert torch.allclose(same.values[fitting], overlap[fitting]) and torch.equal(
        NEAR[same.indices[fitting]], target[fitting]
    )
    drawn, overlap, _ = draw(found, Objects(NEAR[:0], torch.zeros(0, dtype=torch.int64)), 12)
    assert len(drawn) == 12 and overlap.max() == 0
    assert len(draw(Found(proposed[:0], labels[:0], torch.zeros(0)), truth, 12)[0]) == 0


def test_the_second_stage_learns_to_score_and_to_correct(stages: list[SparseMap]) -> None:
    torch.manual_seed(0)
    options = RoiOptions(grid=3, channels=8, hidden=32, taught=12)
    head = RoiHead(dataclasses.replace(TWO_STAGES, score=0.0, overlap=1.0), options)
    start = jittered()
    labels = torch.arange(2).repeat_interleave(8)
    far = Found(start + torch.tensor([-1.5, 0.5, 0, 0, 0, 0, 0]), labels, torch.ones(16))
    found = [Found(torch.cat([start, far.boxes]), labels.repeat(2), torch.ones(32))] * 2
    truth = [Objects(NEAR, torch.tensor([0, 1]))] * 2
    optimizer = torch.optim.Adam(head.parameters(), 5e-3)
    curve = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = torch.stack(list(head.losses(stages, found, truth).values())).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        curve.append(loss.item())
    assert sum(curve[-5:]) < 0.6 * sum(curve[:5])
    head.eval()
    with torch.no_grad():
        logits, _ = head(stages, [f.boxes for f in found])
        (after, _) = head.refine(stages, [Found(start, labels, torch.ones(16))] * 2)
    near, away = logits[:32].view(2, 16).mean(dim=1)
    assert near > away + 1
    assert len(after.boxes) == 16
    best = iou_3d(after.boxes, NEAR).amax(dim=1).mean()
    assert best > iou_3d(start, NEAR).amax(dim=1).mean()


def test_a_second_stage_needs_a_sparse_backbone_and_anchors() -> None:
    with pytest.raises(UsageError, match="needs anchors"):
        dataclasses.replace(CENTER, roi=TWO_STAGES.roi)
    detector = Detector(TWO_STAGES).eval()
    points = scene().points
    with torch.no_grad():
        (found,) = detector.decode(detector(points, torch.zeros(len(points), dtype=torch.int64), 1))
    assert TWO_STAGES.roi is not None and len(found.boxes) <= TWO_STAGES.roi.proposals
    assert found.boxes.isfinite().all() and boxes().boxes.shape[1] == found.boxes.shape[1]
