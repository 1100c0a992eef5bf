from __future__ import annotations

import dataclasses
from typing import cast

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from robovision.agents import clips
from robovision.agents.config import Optimisation
from robovision.agents.learner import Learner, moving_average
from robovision.agents.policy import Policy
from robovision.envs.demo_arrays import Demonstrations
from tests.helpers import TINY


def test_a_moving_average_soon_forgets_the_first_weights() -> None:
    layer = nn.Linear(1, 1, bias=False)
    average = AveragedModel(layer, multi_avg_fn=moving_average(0.999))
    for step in range(100):
        nn.init.constant_(layer.weight, 0.0 if step == 0 else 1.0)
        average.update_parameters(layer)
    averaged = cast(nn.Linear, average.module)
    assert averaged.weight.item() > 0.999
    for _ in range(20_000):
        average.update_parameters(layer)
    nn.init.constant_(layer.weight, 2.0)
    average.update_parameters(layer)
    assert averaged.weight.item() == pytest.approx(1.001, abs=1e-5)


def test_behaviour_cloning_learns_a_toy_task() -> None:
    """The action is where a bright square is; only eyes can tell. The moving average of the weights knows it too."""
    torch.manual_seed(0)
    places = torch.randint(0, 24, (300, 2), generator=torch.Generator().manual_seed(0))
    pixels = torch.zeros(300, 3, 32, 32, dtype=torch.uint8)
    for image, (y, x) in zip(pixels, places.tolist(), strict=True):
        image[:, y : y + 8, x : x + 8] = 255
    actions, felt = places / 11.5 - 1, torch.zeros(300, 1)
    images, nothing, answers = (part[:250].numpy() for part in (pixels, felt, actions))
    shown = Demonstrations(images, nothing, answers, np.full(5, 50), None)
    drawn = clips.Clips(shown, clips.Drawing())
    optimisation = Optimisation(batch=25, ema=0.999, precision="float32")
    learner = Learner(dataclasses.replace(TINY, optimisation=optimisation), 1, drawn.actions)
    for step in range(150):
        learner.descend(drawn.batch(step, 25), step, 150)
    assert learner._average is not None
    for policy in (learner.policy, cast(Policy, learner._average.module)):
        policy.eval()
        with torch.no_grad():
            error = policy.act(policy.embed(pixels[250:])[:, None], felt[250:]) - actions[250:]
        assert (error.abs().amax(1) < 0.35).float().mean() >= 0.95
