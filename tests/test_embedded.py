"""vit-tiny-sim, the encoder that the package carries."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from robovision import weights
from robovision.agents.config import EncoderOptions, TrainConfig
from robovision.agents.train import resolve
from robovision.bench.probes import features, pair, ridge, sample
from robovision.encoders.checkpoints import DEFAULT, fetch, find_weights, load_encoder
from robovision.encoders.inventory import check_weights, list_weights
from robovision.envs.registry import EnvOptions
from robovision.testing import check_encoder

NAME = "vit-tiny-sim"


def test_it_is_small_in_half_precision_and_has_a_card() -> None:
    path = weights.find(NAME)
    assert path.stat().st_size <= 12_000_000
    assert {value.dtype for value in weights.load(path).values()} == {torch.float16}
    card = path.with_suffix(".md").read_text()
    assert weights.EMBEDDED[NAME].sha256 in card
    assert "robovision pretrain mae" in card


@pytest.mark.parametrize("size", [64, 96, 224])
def test_it_loads_offline_at_any_size(size: int) -> None:
    encoder = load_encoder(image_size=size)
    assert NAME == DEFAULT
    assert not encoder.training
    check_encoder(encoder, size, size)


def test_it_is_found_listed_and_checked_by_name() -> None:
    assert find_weights(NAME) == fetch(NAME) == weights.find(NAME)
    assert sum(NAME in line for line in list_weights().splitlines()) == 1
    assert "shipped, vit-tiny-sim.safetensors" in list_weights()
    assert "5.5 M parameters" in check_weights(NAME, None)


def test_a_policy_starts_from_it_by_name() -> None:
    config = TrainConfig(env=EnvOptions(size=64), encoder=EncoderOptions(NAME), device="cpu")
    recorded = resolve(config).encoder.weights
    assert recorded == Path(f"{NAME}@{weights.EMBEDDED[NAME].sha256[:12]}")
    assert resolve(resolve(config)).encoder.weights == recorded


def test_it_tells_more_than_random_weights_on_a_task_it_never_saw() -> None:
    data = sample("dmc/finger-spin", 64, 0, 24)
    joints = data.targets["proprioception"]
    told = {
        name: ridge(features(encoder, data.images)["tokens"], joints, data.fitted)
        for name, encoder in pair(NAME, None, 64, 0).items()
    }
    assert told[NAME] > told["random"] + 0.05
