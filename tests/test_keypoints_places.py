"""Places between pixels, and how far they lie from their counterparts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from robovision.keypoints.places import REACH, SMOOTH, TEMPERATURE, misplacement, refine, strongest_places
from robovision.keypoints.sampling import disc
from tests.keypoint_pictures import generator


def test_refinement_is_the_mean_of_the_policy_around_the_maximum() -> None:
    axis = torch.arange(15.0)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    spread = 0.8  # pixels: little of it lies beyond the disc
    logits = -TEMPERATURE * ((x - 7.2) ** 2 + (y - 6.9) ** 2) / (2 * spread**2)
    middle = torch.tensor([7])
    offset, uncertainty = refine(logits, middle, middle)
    assert offset[0].tolist() == pytest.approx([0.2, -0.1], abs=0.01)
    assert float(uncertainty) == pytest.approx(spread, rel=0.02)
    level = refine(torch.zeros(15, 15), middle, middle)
    assert level[0][0].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert float(level[1]) == pytest.approx(
        float(torch.stack(disc(REACH, torch.device("cpu"))).double().square().mean().sqrt())
    )


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_refinement_turns_with_the_map(quarters: int) -> None:
    logits = torch.rand(9, 9, generator=generator())
    middle = torch.tensor([4])
    (offset,), uncertainty = refine(logits, middle, middle)
    (turned,), same = refine(logits.rot90(quarters), middle, middle)
    x, y = offset
    expected = {1: (y, -x), 2: (-x, -y), 3: (-y, x)}[quarters]
    assert torch.allclose(turned, torch.stack(expected), atol=1e-6)
    assert torch.allclose(same, uncertainty, atol=1e-6)


def peaks(places: list[tuple[float, float]], side: int = 40) -> Tensor:
    """A map [side, side] with a round maximum at each place (x, y), whose tails reach a little beyond the disc."""
    y, x = torch.meshgrid(torch.arange(float(side)), torch.arange(float(side)), indexing="ij")
    return torch.stack([-TEMPERATURE * ((x - u) ** 2 + (y - v) ** 2) / 2 for u, v in places]).amax(0).clamp(min=-1)


def test_the_strongest_places_are_the_maxima_of_each_map() -> None:
    maps = torch.stack([peaks([(8.3, 10.1), (30.0, 25.6)]), peaks([(20.2, 20.4)])])
    xy, exists = strongest_places(maps, margin=5)
    assert exists.sum(1).tolist() == [2, 1]
    assert xy[1, 0].tolist() == pytest.approx([25.2, 25.4], abs=0.05)
    assert sorted(xy[0, :2].tolist()) == [pytest.approx([13.3, 15.1], abs=0.05), pytest.approx([35, 30.6], abs=0.05)]


def test_misplacement_by_hand() -> None:
    first, second = peaks([(8.0, 10.0), (30.0, 25.0)]), peaks([(11.3, 10.4), (33.0, 25.0), (20.0, 20.0)])
    shift = torch.tensor([[[1.0, 0, 3], [0, 1, 0], [0, 0, 1]]])
    apart = [math.hypot(0.3, 0.4, SMOOTH), SMOOTH]
    assert float(misplacement(torch.stack([first, second]), shift, 5, 3)) == pytest.approx(sum(apart) / 2, abs=0.02)
    assert float(misplacement(torch.stack([first, second]), torch.eye(3)[None], 5, 2)) == 0  # nothing that near


def test_misplacement_falls_along_its_gradient() -> None:
    maps = torch.stack([peaks([(15.0, 15.0)]), peaks([(15.4, 15.2)])]).requires_grad_()
    before = misplacement(maps, torch.eye(3)[None], 0, 3)
    (gradient,) = torch.autograd.grad(before, maps)
    after = misplacement(maps - 0.02 * gradient / gradient.abs().max(), torch.eye(3)[None], 0, 3)
    assert float(after.detach()) < float(before.detach()) - 0.01
