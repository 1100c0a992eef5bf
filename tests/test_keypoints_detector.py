"""S-TREK's detector: how it answers in kind, and what it learns from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from robovision.keypoints.detector import Detector
from robovision.keypoints.objectives import Repeatability
from robovision.keypoints.pairs import Pairs, draw_pairs
from robovision.keypoints.strek_config import DetectorOptions, SamplingOptions
from tests.keypoint_pictures import TINY, generator, leaf_picture


@pytest.fixture(scope="module")
def leaf() -> Tensor:
    return leaf_picture()


@pytest.mark.parametrize("group", ["C1", "C4", "C8", "D4"])
def test_the_detector_leaves_its_margin_and_exports(group: str, leaf: Tensor) -> None:
    torch.manual_seed(0)
    detector = Detector(DetectorOptions(group=group)).eval()
    margin = detector.options.margin
    image = leaf[None, None, :60, :70]
    with torch.no_grad():
        found, plain = detector(image), detector.exported()(image)
    assert found.logits.shape == (1, 60 - 2 * margin, 70 - 2 * margin)
    assert found.logits.abs().max() <= 1
    assert torch.allclose(found.logits, plain.logits, atol=1e-5)
    assert torch.allclose(found.vectors, plain.vectors, atol=1e-5)


@pytest.mark.parametrize("group", ["C4", "C8", "D4"])
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_quarter_turn_turns_logits_and_orientations(group: str, quarters: int, leaf: Tensor) -> None:
    torch.manual_seed(0)
    detector = Detector(DetectorOptions(group=group)).eval()
    image = leaf[None, None, :60, :70]
    with torch.no_grad():
        before, after = detector(image), detector(image.rot90(quarters, (2, 3)))
    assert torch.allclose(after.logits, before.logits.rot90(quarters, (1, 2)), atol=1e-5)
    angle = math.pi / 2 * quarters  # counter-clockwise, with y down
    turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    turned = torch.einsum("ij,bjhw->bihw", turn, before.vectors.rot90(quarters, (2, 3)))
    assert torch.allclose(after.vectors, turned, atol=1e-5)


def test_the_detector_learns_on_one_pair(leaf: Tensor) -> None:
    torch.manual_seed(0)
    pairs = draw_pairs([leaf], 64, 2, seed=0, step=0)
    objective = Repeatability(Detector(TINY), SamplingOptions(most=16, radius=4))
    optimizer = torch.optim.Adam(objective.module.parameters(), 0.02)
    rewards = []
    for step in range(60):
        loss, numbers = objective(pairs, generator(step))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        rewards.append(numbers["reward"])
    assert np.mean(rewards[-10:]) > np.mean(rewards[:10]) + 0.05


def test_nothing_in_common_gives_no_gradient_and_no_nan() -> None:
    far = torch.eye(3)
    far[0, 2] = 1e4
    pictures = torch.rand(1, 1, 48, 48)
    loss, numbers = Repeatability(Detector(TINY), SamplingOptions())(Pairs(pictures, pictures, far[None]), generator())
    assert float(loss.detach()) == 0 and numbers["reward"] == 0
