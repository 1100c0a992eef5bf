"""`robovision bench probes`: the regression, its judge, the targets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from robovision import weights
from robovision.bench.convnet import ConvNet, equal_width, multiply_adds
from robovision.bench.probes import Sample, features, r_squared, ridge, sample, supervised
from robovision.cli import main
from robovision.encoders.build import build
from robovision.envs.photographs import EPISODE


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_r_squared_by_hand() -> None:
    true = torch.tensor([[0.0, 0.0], [2.0, 20.0]])
    deviation = torch.tensor([1.0, 10.0])
    assert r_squared(true, true, deviation) == 1
    assert r_squared(true.mean(0).expand(2, 2), true, deviation) == 0
    assert r_squared(torch.tensor([[1.0, 0.0], [2.0, 20.0]]), true, deviation) == pytest.approx(1 - 1 / 4)


@pytest.mark.parametrize("width", [5, 400])
def test_a_ridge_finds_what_is_linear_and_nothing_in_noise(width: int) -> None:
    x = random(20 * EPISODE, width)
    linear = x[:, :5] @ random(5, 3, seed=1) + 7
    assert ridge(x[:, :5] if width == 5 else x, linear, 15 * EPISODE) > (0.999 if width == 5 else 0.5)
    assert abs(ridge(x, random(20 * EPISODE, 3, seed=2), 15 * EPISODE)) < 0.15


def test_a_ridge_does_not_look_at_what_it_is_judged_on() -> None:
    """Features that give the targets away only after the fitted samples are worth nothing."""
    y = random(20 * EPISODE, 1)
    x = random(20 * EPISODE, 4, seed=1)
    x[15 * EPISODE :, 0] = y[15 * EPISODE :, 0]
    assert ridge(x, y, 15 * EPISODE) < 0.2


def test_the_targets_are_what_the_robot_feels_and_where_loose_things_are() -> None:
    data = sample("metaworld/drawer-open", 32, 0, 6)
    assert data.images.shape == (6 * EPISODE, 3, 32, 32)
    assert data.fitted == 4 * EPISODE
    assert 3 <= data.targets["proprioception"].shape[1] <= 4  # the gripper may stay as it is
    assert data.targets["objects"].shape[1] > 3
    assert all((values.std(0) > 1e-3).all() for values in data.targets.values())
    walker = sample("dmc/walker-walk", 32, 0, 6)
    assert set(walker.targets) == {"proprioception"}
    assert walker.targets["proprioception"].shape[1] == 6


def test_features_are_those_of_the_encoder() -> None:
    encoder = build("vit-tiny", 32).eval()
    images = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    found = features(encoder, images, batch=2)
    with torch.no_grad():
        seen = encoder(images)
    assert torch.allclose(found["tokens"], seen.tokens.flatten(1), atol=1e-4)
    assert torch.allclose(found["pooled"], torch.cat([seen.pooled, seen.tokens.mean(1)], 1), atol=1e-4)


def test_the_networks_cost_is_that_of_the_encoder() -> None:
    cost = multiply_adds(build("vit-tiny", 64), 64)
    assert cost == pytest.approx(92.6e6, rel=0.01)  # 17 tokens, 12 blocks of 12 * 192^2, and attention
    width = equal_width(64, cost)
    assert 0.85 * cost < multiply_adds(ConvNet(64, 1, width), 64) <= cost


def test_the_network_learns_where_a_dot_is() -> None:
    places = torch.randint(32, (384, 2), generator=torch.Generator().manual_seed(0))
    images = torch.zeros(384, 3, 32, 32, dtype=torch.uint8)
    for image, (x, y) in zip(images, places.tolist(), strict=True):
        image[:, max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] = 255
    found = supervised(Sample(images, {"place": places.float()}, 320), 4, seed=0, epochs=20)
    assert found["place"] > 0.9


def test_the_command_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights.save(tmp_path / "w.safetensors", build("vit-tiny", 32).state_dict())
    options = ["--encoder", "vit-tiny", "--weights", str(tmp_path / "w.safetensors"), "--size", "32", "--episodes", "6"]
    assert main(["bench", "probes", "dmc/pendulum-swingup", *options]) == 0
    output = capsys.readouterr().out
    assert "| dmc/pendulum-swingup, proprioception (1) |" in output
    assert "multiply-adds" in output
    assert main(["bench", "probes", "dmc/pendulum-swingp"]) == 2
    assert main(["bench", "probes", "--size", "60"]) == 2
    assert main(["bench", "probes", "--episodes", "5"]) == 2
    assert "at least 6, got 5" in capsys.readouterr().err
