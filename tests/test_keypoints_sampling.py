"""Drawing keypoints from maps, and their rewards."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from robovision.keypoints.sampling import disc, draw, local_maxima, repeatability_reward
from robovision.keypoints.strek_config import SamplingOptions
from tests.keypoint_pictures import generator


def test_points_are_drawn_apart_and_the_policy_is_not_masked() -> None:
    logits = torch.rand(3, 40, 50, requires_grad=True)
    options = SamplingOptions(radius=6, most=20)
    draws = draw(logits, options, generator())
    assert draws.drawn.all() and draws.cells.shape == (3, 20)
    places = torch.stack([draws.cells // 50, draws.cells % 50], -1).double()
    distance = torch.cdist(places, places) + 100 * torch.eye(20)
    assert distance.min() > 6
    whole = (logits / options.temperature).flatten(1).log_softmax(1)
    assert torch.allclose(draws.log_policy, whole)
    assert torch.allclose(draws.visits.sum(1), torch.full((3,), 20.0), rtol=1e-4)


def test_drawing_stops_when_the_points_cover_the_probability() -> None:
    logits = torch.zeros(2, 30, 30)
    logits[0, 5, 5] = logits[0, 20, 20] = 1  # two peaks hold nearly everything; the other map is level
    draws = draw(logits, SamplingOptions(temperature=0.02, remaining=0.01, most=10), generator())
    assert draws.drawn.sum(1).tolist() == [2, 10]
    assert set(draws.cells[0, :2].tolist()) == {5 * 30 + 5, 20 * 30 + 20}


def test_the_frequency_of_draws_is_the_softmax() -> None:
    logits = torch.tensor([[[0.0, 0.05], [0.1, 0.15]]]).repeat(4000, 1, 1)
    options = SamplingOptions(temperature=0.05, radius=6, most=1)
    draws = draw(logits, options, generator())
    expected = torch.softmax(torch.arange(4.0), 0)
    assert torch.allclose(torch.bincount(draws.cells[:, 0], minlength=4) / 4000, expected, atol=0.03)
    assert torch.allclose(draws.visits[0], expected)


@pytest.mark.parametrize("sampler", ["sequential", "grid"])
def test_visits_are_the_mean_of_draws(sampler: Literal["sequential", "grid"]) -> None:
    logits = torch.rand(1, 6, 8, generator=generator(1)).repeat(4000, 1, 1)
    draws = draw(logits, SamplingOptions(sampler=sampler, temperature=0.3, radius=1, most=4), generator())
    seen = torch.bincount(draws.cells.flatten(), minlength=48) / 4000
    assert torch.allclose(draws.visits.mean(0), seen, atol=0.03)
    assert seen.max() > 0.2


def test_a_sequence_ends_where_nothing_is_left() -> None:
    draws = draw(torch.zeros(2, 5, 5), SamplingOptions(radius=6, most=3), generator())
    assert draws.drawn.tolist() == [[True]] * 2
    several = draw(torch.zeros(30, 20, 20), SamplingOptions(radius=6, most=20), generator())
    counts = several.drawn.sum(1)
    assert counts.min() < counts.max() < 20
    assert ((several.cells >= 0) & (several.cells < 400)).all()
    assert torch.allclose(several.visits.sum(1), counts.float(), rtol=1e-3)


def test_the_grid_draws_one_in_each_cell_and_top_k_the_strongest() -> None:
    logits = torch.rand(2, 24, 32)
    grid = draw(logits, SamplingOptions(sampler="grid", radius=6), generator())
    assert grid.cells.shape == (2, 12)
    cells = (grid.cells // 32 // 8) * 4 + grid.cells % 32 // 8
    assert (cells.sort(1).values == torch.arange(12)).all()
    best = draw(logits, SamplingOptions(sampler="top-k", most=3), generator())
    assert (logits.flatten(1).argmax(1) == best.cells[:, 0]).all()


def test_rewards_of_hand_made_points() -> None:
    warped = torch.tensor([[[10.0, 10.0], [20.0, 20.0], [90.0, 0.0]]])
    others = torch.tensor([[[11.5, 10.0], [30.0, 20.0], [20.0, 20.0]]])
    inside = torch.tensor([[True, True, False]])
    drawn = torch.tensor([[True, True, False]])
    linear = repeatability_reward(warped, inside, others, drawn, SamplingOptions(within=3, penalty=0.25))
    assert linear.values[0].tolist() == [0.5, -0.25, 0]
    assert linear.nearest[0, 0] == 0 and linear.matched[0].tolist() == [True, False, False]
    step = repeatability_reward(warped, inside, others, drawn, SamplingOptions(reward="step", within=3, penalty=0.25))
    assert step.values[0].tolist() == [1, -0.25, 0]


def test_local_maxima_turn_with_the_map_and_a_level_map_has_none() -> None:
    logits = (torch.rand(1, 30, 30) * 8).round()  # with ties
    assert (local_maxima(logits.rot90(1, (1, 2)), 2) == local_maxima(logits, 2).rot90(1, (1, 2))).all()
    assert not local_maxima(torch.ones(1, 9, 9), 2).any()
    assert len(disc(1, torch.device("cpu"))[0]) == 5
