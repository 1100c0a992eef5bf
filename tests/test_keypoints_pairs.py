"""Pairs of pictures to learn from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robovision.keypoints.pairs import draw_pairs, transform, transform_directions
from tests.keypoint_pictures import leaf_picture


@pytest.fixture(scope="module")
def leaf() -> Tensor:
    return leaf_picture()


def test_pairs_are_related_by_their_homographies(leaf: Tensor) -> None:
    smooth = torch.nn.functional.avg_pool2d(leaf[None, None], 9, 1, 4)[0, 0]
    pairs = draw_pairs([smooth], 64, 6, seed=0, step=3)
    again = draw_pairs([smooth], 64, 6, seed=0, step=3)
    assert (pairs.second == again.second).all()
    axis = torch.arange(64.0)
    pixels = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).view(1, -1, 2).expand(6, -1, -1)
    warped = transform(pixels, pairs.homographies)
    inside = ((warped >= 1) & (warped <= 62)).all(-1)
    where = ((warped + 0.5) * 2 / 64 - 1).view(6, 64, 64, 2)
    seen = torch.nn.functional.grid_sample(pairs.second, where, align_corners=False).flatten(1)
    for first, second, mask in zip(pairs.first.flatten(1), seen, inside, strict=True):
        assert torch.corrcoef(torch.stack([first[mask], second[mask]]))[0, 1] > 0.8


def test_directions_follow_a_homography() -> None:
    pairs = draw_pairs([torch.rand(200, 200)], 64, 4, seed=0, step=0)
    points, angle = torch.rand(4, 9, 2, dtype=torch.float64) * 64, torch.rand(4, 9, dtype=torch.float64) * 7
    directions = torch.stack([angle.cos(), angle.sin()], -1)
    homographies = pairs.homographies.double()
    step = 1e-5
    moved = transform(points + step * directions, homographies) - transform(points, homographies)
    expected = torch.nn.functional.normalize(moved, dim=-1)
    assert torch.allclose(transform_directions(points, directions, homographies), expected, atol=1e-4)
