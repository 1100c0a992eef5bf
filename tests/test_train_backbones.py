"""Behaviour cloning trains the encoders that are no plain ViTs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from robovision.agents import clips
from robovision.agents.config import EncoderOptions, Optimisation
from robovision.agents.learner import Learner
from robovision.envs.demo_arrays import Demonstrations
from tests.helpers import TINY

BACKBONES = {"lookhere-vit-t16": 64, "nat-mini": 224, "coswin-tiny": 64, "dualtoken-vit-t": 64, "smoe": 64}
"""Each by name, and a side of images that it takes, in pixels."""


@pytest.mark.parametrize("name", BACKBONES)
def test_cloning_trains_every_backbone(name: str) -> None:
    size, random = BACKBONES[name], np.random.default_rng(0)
    pixels = random.integers(0, 256, (4, 3, size, size), np.uint8)
    numbers = random.normal(size=(4, 2)).astype(np.float32)
    shown = clips.Clips(Demonstrations(pixels, numbers, numbers, np.full(2, 2), None), clips.Drawing())
    config = dataclasses.replace(
        TINY,
        env=dataclasses.replace(TINY.env, size=size),
        encoder=EncoderOptions(name, adapter="none"),
        optimisation=Optimisation(batch=4, precision="float32"),
    )
    torch.manual_seed(0)
    learner = Learner(config, 2, shown.actions)
    before = {key: value.detach().clone() for key, value in learner.policy.encoder.named_parameters()}
    for step in range(2):
        loss, _ = learner.descend(shown.batch(step, 4), step, 20)
        assert loss.isfinite()
    moved = [not torch.equal(value, before[key]) for key, value in learner.policy.encoder.named_parameters()]
    assert np.mean(moved) > 0.9
