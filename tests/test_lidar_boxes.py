from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from robovision import Boxes3D
from robovision.lidar import boxes as module
from robovision.lidar.boxes import (
    bev_iou,
    corners,
    iou_3d,
    nms_bev,
    paired_bev_iou,
    paired_iou_3d,
    points_in_boxes,
    rectangle_coverage,
    rectangle_iou,
    to_tensor,
)

DTYPES = {torch.float32: 2e-5, torch.float64: 1e-9}
"""Largest difference from the oracle that each type may show; it is far below the promised 1e-6 in float64."""

UNIT = (0.0, 0.0, 0.0, 2.0, 1.0, 1.0, 0.0)


def random_boxes(count: int, seed: int, spread: float = 4.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(count, 7, generator=generator, dtype=torch.float64)
    low = torch.tensor([-spread, -spread, -1, 0.01, 0.01, 0.01, -10], dtype=torch.float64)
    high = torch.tensor([spread, spread, 1, 6, 3, 3, 10], dtype=torch.float64)
    return low + uniform * (high - low)


def oracle(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU on the ground and in space by shapely's polygons, whose corners are computed here."""
    shapely: Any = pytest.importorskip("shapely", reason="shapely is the oracle; pip install shapely")
    flat, solid = torch.zeros(2, len(a), len(b), dtype=torch.float64)
    polygons = [[shapely.Polygon(ground(row)) for row in rows.tolist()] for rows in (a.double(), b.double())]
    for i, p in enumerate(polygons[0]):
        for j, q in enumerate(polygons[1]):
            shared = p.intersection(q).area
            union = p.area + q.area - shared
            flat[i, j] = shared / union if union else 0
            (z, h), (y, g) = a[i, [2, 5]].tolist(), b[j, [2, 5]].tolist()
            volume = shared * max(0, min(z + h / 2, y + g / 2) - max(z - h / 2, y - g / 2))
            united = p.area * h + q.area * g - volume
            solid[i, j] = volume / united if united else 0
    return flat, solid


def ground(row: list[float]) -> list[tuple[float, float]]:
    x, y, _, length, width, _, yaw = row
    signs = ((1, 1), (-1, 1), (-1, -1), (1, -1))
    ends = [(s * length / 2, t * width / 2) for s, t in signs]
    return [(x + math.cos(yaw) * u - math.sin(yaw) * v, y + math.sin(yaw) * u + math.cos(yaw) * v) for u, v in ends]


@pytest.mark.parametrize("dtype", DTYPES)
def test_random_overlaps_equal_shapely(dtype: torch.dtype) -> None:
    a, b = random_boxes(60, 0).to(dtype), random_boxes(50, 1).to(dtype)
    flat, solid = oracle(a, b)
    assert (flat > 0).double().mean() > 0.2
    assert (bev_iou(a, b) - flat).abs().max() < DTYPES[dtype]
    assert (iou_3d(a, b) - solid).abs().max() < DTYPES[dtype]


def test_crowded_overlaps_equal_shapely() -> None:
    a, b = random_boxes(90, 12, spread=1.0), random_boxes(90, 13, spread=1.0)
    flat, solid = oracle(a, b)
    assert (flat > 0).double().mean() > 0.9
    assert (bev_iou(a, b) - flat).abs().max() < 1e-9
    assert (iou_3d(a, b) - solid).abs().max() < 1e-9


DEGENERATE = {
    "identical": (UNIT, 1.0),
    "turned by half a turn": ((0, 0, 0, 2, 1, 1, math.pi), 1.0),
    "turned by a quarter, sides swapped": ((0, 0, 0, 1, 2, 1, math.pi / 2), 1.0),
    "a hair off": ((1e-11, 0, 0, 2, 1, 1, 1e-11), 1.0),
    "contained": ((0.3, 0.1, 0, 0.5, 0.5, 1, 0.7), 0.125),
    "contained, shared corner": ((0.5, 0.25, 0, 1, 0.5, 1, 0), 0.25),
    "shared edge from inside": ((0, 0.25, 0, 2, 0.5, 1, 0), 0.5),
    "shared edge from outside": ((0, 1, 0, 2, 1, 1, 0), 0.0),
    "part of an edge, from outside": ((1.5, 1, 0, 2, 1, 1, 0), 0.0),
    "touching in a corner": ((2, 1, 0, 2, 1, 1, 0), 0.0),
    "corner on an edge": ((1 + math.sqrt(0.5), 0, 0, 1, 1, 1, math.pi / 4), 0.0),
    "parallel edges, overlapping": ((1, 0, 0, 2, 1, 1, 0), 1 / 3),
    "far away": ((1e6, 0, 0, 2, 1, 1, 0), 0.0),
    "a point inside": ((0, 0, 0, 0, 0, 1, 0.3), 0.0),
    "a line inside": ((0, 0, 0, 1, 0, 1, 0.3), 0.0),
    "a line on an edge": ((0, 0.5, 0, 2, 0, 1, 0), 0.0),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("turn", [0.0, 0.1, 1.0, math.pi / 2, -2.5, 30.0])
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_overlaps_by_hand(name: str, turn: float, dtype: torch.dtype) -> None:
    other, expected = DEGENERATE[name]
    pair = torch.tensor([UNIT, other], dtype=torch.float64)
    direction = pair[:, 0] + 1j * pair[:, 1]
    turned = direction * complex(math.cos(turn), math.sin(turn)) + complex(20, -7)
    pair[:, 0], pair[:, 1], pair[:, 6] = turned.real, turned.imag, pair[:, 6] + turn
    pair = pair.to(dtype)
    for measure in (bev_iou, iou_3d):
        overlap = measure(pair, pair)
        assert overlap[0, 1].item() == pytest.approx(expected, abs=DTYPES[dtype])
        assert overlap[1, 0].item() == pytest.approx(expected, abs=DTYPES[dtype])
        assert overlap.max() <= 1


def test_boxes_without_any_size_overlap_nothing() -> None:
    points = torch.tensor([(1.0, 1, 1, 0, 0, 0, 0), (1, 1, 1, 0, 0, 0, 0.5), (1, 1, 1, 2, 0, 0, 0)])
    assert bev_iou(points, points).tolist() == [[0.0] * 3] * 3
    assert iou_3d(points, points).tolist() == [[0.0] * 3] * 3


def test_heights_count_in_space_only() -> None:
    above = torch.tensor([UNIT, (0, 0, 0.75, 2, 1, 1, 0), (0, 0, 1, 2, 1, 1, 0), (0, 0, 5, 2, 1, 1, 0)])
    assert bev_iou(above[:1], above).tolist() == [[1, 1, 1, 1]]
    assert iou_3d(above[:1], above).tolist() == [[1, pytest.approx(1 / 7), 0, 0]]


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = random_boxes(40, 2), random_boxes(30, 3)
    points = random_boxes(50, 4)[:, :3]
    whole = bev_iou(a, b), iou_3d(a, b), points_in_boxes(points, a), nms_bev(a, a[:, 0], 0.2)
    monkeypatch.setattr(module, "PAIRS", 7)
    monkeypatch.setattr(module, "NEARBY", 90)
    parts = bev_iou(a, b), iou_3d(a, b), points_in_boxes(points, a), nms_bev(a, a[:, 0], 0.2)
    assert all(torch.equal(w, p) for w, p in zip(whole, parts, strict=True))


def test_no_boxes_and_no_points() -> None:
    some, none = random_boxes(3, 5), torch.zeros(0, 7, dtype=torch.float64)
    assert bev_iou(none, some).shape == (0, 3)
    assert iou_3d(some, none).shape == (3, 0)
    assert points_in_boxes(torch.zeros(0, 3, dtype=torch.float64), some).shape == (3, 0)
    assert nms_bev(none, none[:, 0], 0.5).tolist() == []
    assert corners(none).shape == (0, 8, 3)


@pytest.mark.parametrize("wrong", [torch.zeros(3, 5), torch.zeros(7), torch.zeros(3, 7, dtype=torch.int64)])
def test_what_is_no_box_is_refused(wrong: Tensor) -> None:
    for call in (corners, lambda b: bev_iou(b, b), lambda b: points_in_boxes(torch.zeros(1, 3), b)):
        with pytest.raises(ValueError, match=r"boxes must be floating point \[N, 7\], got"):
            call(wrong)


@pytest.mark.parametrize("dtype", DTYPES)
def test_corners_lie_on_the_surface_and_in_the_promised_order(dtype: torch.dtype) -> None:
    box = torch.tensor([(1, 2, 3, 4, 2, 6, math.pi / 2)], dtype=dtype)
    expected = [[0, 4], [0, 0], [2, 0], [2, 4]]
    found = corners(box)[0]
    assert torch.allclose(found[:4, :2], torch.tensor(expected, dtype=dtype), atol=1e-6)
    assert torch.equal(found[:4, :2], found[4:, :2])
    assert found[:, 2].tolist() == [0.0] * 4 + [6.0] * 4
    boxes = random_boxes(20, 6).to(dtype)
    middle = boxes[:, None, :3]
    shrunk, grown = (middle + (corners(boxes) - middle) * factor for factor in (0.9999, 1.0001))
    for i in range(20):
        assert points_in_boxes(shrunk[i], boxes)[i].all()
        assert not points_in_boxes(grown[i], boxes)[i].any()


def test_the_surface_belongs_to_the_box() -> None:
    points = torch.tensor([[1.0, 0.5, 0.5], [1.0, 0.5, 0.51], [1.001, 0, 0], [-1, -0.5, -0.5]])
    assert points_in_boxes(points, torch.tensor([UNIT])).tolist() == [[True, False, False, True]]


def test_suppression_equals_the_greedy_loop() -> None:
    boxes = random_boxes(200, 7, spread=12.0)
    scores = torch.randint(0, 40, (200,), generator=torch.Generator().manual_seed(8)).double()
    overlap = bev_iou(boxes, boxes)
    kept: list[int] = []
    for candidate in sorted(range(200), key=lambda i: (-scores[i].item(), i)):
        if all(overlap[candidate, k] <= 0.1 for k in kept):
            kept.append(candidate)
    assert 10 < len(kept) < 150
    assert nms_bev(boxes, scores, 0.1).tolist() == kept


def test_suppression_lets_a_beaten_box_beat_nobody() -> None:
    row = torch.tensor([(x, 0, 0, 2, 1, 1, 0) for x in (0.0, 1.0, 2.0, 3.0)])
    assert nms_bev(row, torch.tensor([4.0, 3.0, 2.0, 1.0]), 0.2).tolist() == [0, 2]
    assert nms_bev(row, torch.tensor([1.0, 3.0, 2.0, 4.0]), 0.2).tolist() == [3, 1]
    assert nms_bev(row, torch.tensor([4.0, 3.0, 2.0, 1.0]), 1 / 3 + 1e-6).tolist() == [0, 1, 2, 3]


def test_rectangles_by_hand() -> None:
    a = torch.tensor([[0.0, 0, 4, 2], [0, 0, 0, 0]], dtype=torch.float64)
    b = torch.tensor([[2.0, 1, 6, 3], [4, 0, 8, 2], [0, 0, 4, 2]], dtype=torch.float64)
    assert rectangle_iou(a[:, None], b[None]).tolist() == [[2 / 14, 0, 1], [0, 0, 0]]
    assert rectangle_coverage(a[:, None], b[None]).tolist() == [[0.25, 0, 1], [0, 0, 0]]


def test_frozen_boxes_become_a_tensor() -> None:
    boxes = Boxes3D(np.ones((1, 3)), np.array([[4, 2, 1]]), np.array([0.5]), np.array([0]), ("car",))
    assert to_tensor(boxes).tolist() == [[1, 1, 1, 4, 2, 1, 0.5]]
    assert to_tensor(Boxes3D([], [], [], [], ()), torch.float32).shape == (0, 7)  # type: ignore[arg-type]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gpu_agrees_with_the_cpu(dtype: torch.dtype) -> None:
    a, b, points = random_boxes(60, 9).to(dtype), random_boxes(50, 10).to(dtype), random_boxes(99, 11)[:, :3].to(dtype)
    for measure in (bev_iou, iou_3d):
        assert (measure(a.cuda(), b.cuda()).cpu() - measure(a, b)).abs().max() < DTYPES[dtype]
    assert torch.equal(nms_bev(a.cuda(), a[:, 0].cuda(), 0.2).cpu(), nms_bev(a, a[:, 0], 0.2))
    assert torch.equal(points_in_boxes(points.cuda(), a.cuda()).cpu(), points_in_boxes(points, a))


@pytest.mark.parametrize(("column", "value"), [(0, float("nan")), (3, -4.0), (6, float("inf"))])
@pytest.mark.parametrize("measure", [bev_iou, iou_3d, paired_bev_iou, paired_iou_3d])
def test_no_overlap_of_a_box_that_is_none(
    measure: Callable[[Tensor, Tensor], Tensor], column: int, value: float
) -> None:
    fine = torch.tensor([[0.0, 0, 0, 4, 2, 1.5, 0]] * 2)
    wrong = fine.clone()
    wrong[1, column] = value
    for pair in ((fine, wrong), (wrong, fine)):
        with pytest.raises(ValueError, match=r"box 1 is \[") as raised:
            measure(*pair)
        assert str(value) in str(raised.value)
