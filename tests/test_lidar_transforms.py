from __future__ import annotations

import math

import pytest
import torch

from robovision.lidar.boxes import bev_iou, corners, iou_3d, points_in_boxes
from robovision.lidar.transforms import Similarity
from tests.test_lidar_boxes import random_boxes

ELEMENTS = (
    Similarity(),
    Similarity(yaw=0.7),
    Similarity(translation=(1.0, -2.0, 0.5)),
    Similarity(scale=1.2),
    Similarity(mirror=True),
    Similarity(-2.5, (3.0, 0.0, -1.0), 0.8, mirror=True),
)


def close(a: Similarity, b: Similarity) -> bool:
    return torch.allclose(a.matrix(), b.matrix(), atol=1e-12)


@pytest.mark.parametrize("g", ELEMENTS)
def test_group_axioms(g: Similarity) -> None:
    assert close(g @ g.inverse(), Similarity())
    assert close(g.inverse() @ g, Similarity())
    for h in ELEMENTS:
        assert torch.allclose((g @ h).matrix(), g.matrix() @ h.matrix(), atol=1e-12)
        boxes = random_boxes(5, 1)
        one, two = (g @ h).boxes(boxes), g.boxes(h.boxes(boxes))
        assert torch.allclose(one[:, :6], two[:, :6], atol=1e-12)
        assert torch.allclose((one[:, 6] - two[:, 6]).cos(), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("g", ELEMENTS)
def test_geometry_is_equivariant(g: Similarity, dtype: torch.dtype) -> None:
    at = 1e-4 if dtype is torch.float32 else 1e-9
    boxes, others = random_boxes(20, 2).to(dtype), random_boxes(15, 3).to(dtype)
    moved = g.boxes(boxes)
    # A mirror image has the same corners in another order.
    distance = torch.cdist(corners(moved), g.points(corners(boxes)))
    assert distance.min(dim=2).values.max() < at
    assert (bev_iou(moved, g.boxes(others)) - bev_iou(boxes, others)).abs().max() < at
    assert (iou_3d(moved, g.boxes(others)) - iou_3d(boxes, others)).abs().max() < at
    if dtype is torch.float64:
        points = torch.randn(200, 3, dtype=dtype, generator=torch.Generator().manual_seed(4)) * 3
        inside = points_in_boxes(points, boxes)
        assert inside.any()
        assert torch.equal(points_in_boxes(g.points(points), moved), inside)


@pytest.mark.parametrize("g", ELEMENTS)
def test_flow_moves_with_the_points(g: Similarity) -> None:
    points = torch.randn(10, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    flow = points.flip(0)
    assert torch.allclose(g.points(points + flow), g.points(points) + g.vectors(flow), atol=1e-12)


def test_by_hand() -> None:
    g = Similarity(math.pi / 2, (10.0, 0.0, 1.0), 2.0, mirror=True)
    assert torch.allclose(g.points(torch.tensor([[1.0, 2.0, 3.0]])), torch.tensor([[14.0, 2.0, 7.0]]), atol=1e-6)
    with pytest.raises(ValueError, match="scale > 0"):
        Similarity(scale=0.0)
    with pytest.raises(ValueError, match="finite"):
        Similarity(yaw=math.nan)
