"""A detector's backbone as the eye of an agent: encoder, recording, pretraining, reinforcement learning."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import robovision.agents
from robovision.agents.config import Evaluation
from robovision.agents.reinforcement.config import Learning, LidarOptions, Replay, RLConfig
from robovision.agents.reinforcement.environments import sensor_of, spaces_of
from robovision.agents.reinforcement.extractor import PixelExtractor, fit_batch_norms
from robovision.agents.reinforcement.train import Training, resolve
from robovision.cli import main
from robovision.encoders.base import Features
from robovision.envs.registry import EnvOptions
from robovision.errors import UsageError
from robovision.lidar.clouds import read_cloud
from robovision.lidar.detectors.models import MODELS
from robovision.lidar.detectors.sweep_encoder import Rings, SweepEncoder
from robovision.lidar.pretraining.files import FILE, assign_backbone
from robovision.lidar.pretraining.network import cells_of
from robovision.run import Run
from robovision.symmetry.data import Image
from robovision.symmetry.groups import turns

ROOM = MODELS["room"]


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of three sweeps."""
    out = tmp_path_factory.mktemp("rooms")
    assert main(["lidar", "record", "--episodes", "2", "--frames", "3", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def eye(rooms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a pretraining of two steps."""
    out = tmp_path_factory.mktemp("runs") / "eye"
    arguments = [
        "--data",
        str(rooms),
        "--model",
        "room",
        "--absolute",
        "--objectives",
        "contrast",
        "--steps",
        "2",
        "--batch",
        "2",
    ]
    assert main(["pretrain", "lidar", *arguments, "--points", "64", "--threads", "1", "--out", str(out)]) == 0
    return out


def config_for(eye: Path | None, **changes: Any) -> RLConfig:
    base = RLConfig(
        task="lidar/navigate",
        steps=16,
        envs=2,
        env=EnvOptions(horizon=6, observe=("lidar", "proprioception")),
        lidar=LidarOptions("room", eye, frozen=eye is not None),
        learning=Learning(batch=4, features=8, width=8),
        replay=Replay(size=100, warm_up=8, n_steps=2),
        every=8,
        evaluation=Evaluation(episodes=1, times=1, video=False),
        device="cpu",
        threads=1,
        workers=1,
    )
    return dataclasses.replace(base, **changes)


def sweeps(count: int = 2) -> Tensor:
    """Distances of a planar sensor to a wavy wall."""
    angle = torch.linspace(0, 2 * torch.pi, 181)[:-1]
    return torch.stack([3 + (angle * (k + 2)).sin() for k in range(count)])[:, None]


def test_a_sweep_becomes_tokens_on_the_ground() -> None:
    torch.manual_seed(0)
    encoder = SweepEncoder(ROOM, "planar").eval()
    seen = encoder(sweeps())
    assert isinstance(seen, Features)
    rows, columns = encoder.grid(1, 180)
    assert seen.tokens.shape == (2, rows * columns, encoder.width) and rows == columns == 12
    assert torch.allclose(seen.pooled, seen.tokens.mean(1))
    empty = encoder(torch.full((1, 1, 180), 10.0)).tokens.view(rows, columns, -1)
    one = torch.full((1, 1, 180), 10.0)
    one[0, 0, 45] = 2.5  # column 45 of 180, clockwise from behind over the left: to the left, which is +y
    changed = (encoder(one).tokens.view(rows, columns, -1) - empty).abs().sum(2)
    row, column = np.unravel_index(int(changed.argmax()), (rows, columns))
    assert abs(row - (2.5 + 4.8) / 0.8) < 2 and abs(column - 6) <= 1
    assert changed[0, 0] == 0


def test_turns_of_a_sweep_turn_what_is_seen_on_the_ground() -> None:
    encoder = SweepEncoder(ROOM, "planar")

    def seen(distances: Tensor) -> Tensor:
        points = (distances[..., None] * encoder.rays.double())[0].reshape(-1, 3)
        _, cells = cells_of(points, torch.zeros(len(points), dtype=torch.int64), ROOM.grid, (24, 24))
        return torch.bincount(cells, minlength=24 * 24).view(1, 1, 24, 24).double()

    still = sweeps(1).double()
    still[..., ::45] = 10.0  # these rays run along the border of two cells
    for magnitude in turns("D4").magnitudes:
        for element in turns("D4").at(magnitude, still):
            moved = Rings(encoder.rays).act(element, still)
            assert torch.equal(seen(moved), Image().act(element, seen(still)).round())
            assert not torch.equal(moved, still)
    with pytest.raises(UsageError, match="none of its own"):
        Rings(SweepEncoder(ROOM, "solid-state").rays).act(turns("C4").at(90.0, still)[0], still)


def test_wrong_sweeps_and_models_are_named() -> None:
    encoder = SweepEncoder(ROOM, "planar").eval()
    for wrong, message in (
        (torch.zeros(1, 1, 90), "1 rings of 180 columns, got sweeps of 1 x 90"),
        (torch.zeros(1, 180), r"\[B, rings, columns\], got"),
        (torch.full((1, 1, 180), torch.nan), "hold NaN: 180 of 180"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder(wrong)
    with pytest.raises(UsageError, match="sees intensity"):
        SweepEncoder(MODELS["pointpillars"], "planar")
    with pytest.raises(UsageError, match=r"lidar\.model second sees intensity"):
        LidarOptions("second")
    with pytest.raises(UsageError, match="nearest: room"):
        LidarOptions("rooms_")
    with pytest.raises(UsageError, match=r"give --lidar\.model room"):
        LidarOptions(frozen=True)
    with pytest.raises(UsageError, match=r"reads a LiDAR, but env\.observe is proprioception"):
        config_for(None, env=EnvOptions(observe=("proprioception",)))


def test_recorded_sweeps_are_what_the_robot_observes(rooms: Path) -> None:
    assert len(sorted(rooms.glob("*/velodyne/*.bin"))) == 6
    cloud = read_cloud(rooms / "0001" / "velodyne" / "000002.bin")
    assert 100 < len(cloud) <= 180 and np.abs(cloud.xyz[:, 2]).max() < 1e-6
    assert 0.2 < np.linalg.norm(cloud.xyz, axis=1).max() < 10


def test_a_pretrained_backbone_is_what_the_agent_sees_with(eye: Path, tmp_path: Path) -> None:
    config = resolve(config_for(eye))
    assert "lidar, backbone room" in config.sees
    run = Run.create(tmp_path / "run", "rl", config, 0)
    Training(run, config).execute()
    learnt = run.at(16).tensors("model")
    given = SweepEncoder(ROOM, sensor_of(config.task, config.env))
    prefix = "extractor.readers.lidar.encoder.trunk."
    mine = {name.removeprefix(prefix): value for name, value in learnt.items() if name.startswith(prefix)}
    assign_backbone(given.trunk, eye)
    assert mine.keys() == given.trunk.state_dict().keys()
    assert all(torch.equal(mine[name], value) for name, value in given.trunk.state_dict().items())
    policy = robovision.agents.load(run.path)
    space, _ = spaces_of(config)
    assert policy({name: part.sample() for name, part in space.spaces.items()}).shape == (2,)


def test_a_backbone_from_random_weights_learns(tmp_path: Path) -> None:
    space, _ = spaces_of(resolve(config_for(None)))
    torch.manual_seed(0)
    extractor = PixelExtractor(space, config_for(None).encoder, 8, LidarOptions("room"))
    assert extractor.sweep_encoder is not None
    fit_batch_norms(extractor.sweep_encoder, sweeps(8))
    extractor.train()
    seen = {"lidar": sweeps(4), "proprioception": torch.zeros(4, 4)}
    before = extractor(seen)
    assert before[:, :64].std(0).mean() > 0.01
    statistics = {k: v.clone() for k, v in extractor.state_dict().items() if "running" in k}
    before.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in extractor.sweep_encoder.parameters())
    extractor(seen)
    assert all(torch.equal(extractor.state_dict()[k], v) for k, v in statistics.items())


def test_a_backbone_of_another_model_or_sensor_is_refused(eye: Path) -> None:
    with pytest.raises(UsageError, match="another model"):
        resolve(config_for(None, lidar=LidarOptions("tiny", eye)))
    with pytest.raises(UsageError, match="has not ended"):
        (eye / "empty").mkdir(exist_ok=True)
        resolve(config_for(None, lidar=LidarOptions("room", eye / "empty")))
    space, _ = spaces_of(resolve(config_for(None)))
    with pytest.raises(UsageError, match="can't read the observation 'lidar': this sensor has 16 rings"):
        PixelExtractor(space, config_for(None).encoder, 8, LidarOptions("room"), "mini-16")
    assert (eye / FILE).is_file()


def test_the_curves_of_runs_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, successes in (("a", (0, 1)), ("b", (1, 3))):
        (tmp_path / name / "evaluations").mkdir(parents=True)
        for step, count in zip((5000, 10000), successes, strict=True):
            episodes = [{"success": k < count, "total_reward": float(k)} for k in range(4)]
            path = tmp_path / name / "evaluations" / f"step-{step:06d}.json"
            path.write_text(json.dumps({"step": step, "episodes": episodes}))
    script = Path(__file__).parent.parent / "benchmarks" / "lidar_navigate.py"
    spec = importlib.util.spec_from_file_location("lidar_navigate", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    out = tmp_path / "out"
    arguments = [f"from scratch={tmp_path / 'a'}", f"pretrained={tmp_path / 'b'}", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["lidar_navigate.py", *arguments])
    module.main()
    rows = [line.split(",") for line in (out / "lidar-navigate.csv").read_text().splitlines()[1:]]
    assert [(row[0], row[1], float(row[2])) for row in rows] == [
        ("from scratch", "5000", 0.0),
        ("from scratch", "10000", 0.25),
        ("pretrained", "5000", 0.25),
        ("pretrained", "10000", 0.75),
    ]
    assert float(rows[3][3]) < 0.75 < float(rows[3][4]) and rows[3][6] == "1.5"
    assert (out / "lidar-navigate.png").stat().st_size > 5000
    with pytest.raises(SystemExit, match="holds no evaluations"):
        module.evaluations("c", tmp_path)
