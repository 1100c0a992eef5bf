"""Runs name the weights that they begin with, so that they can be taken to another installation."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest

import robovision.agents
from robovision import recorded, weights
from robovision.agents.config import EncoderOptions, Evaluation, TrainConfig
from robovision.agents.reinforcement import train as reinforcement
from robovision.agents.reinforcement.config import RLConfig
from robovision.agents.sweep import finish
from robovision.agents.train import create, resolve
from robovision.cli import main
from robovision.encoders.checkpoints import weights_folder
from robovision.envs.demo_options import DemoOptions
from robovision.envs.demos import collect
from robovision.envs.registry import EnvOptions
from robovision.errors import UsageError
from robovision.lidar.detectors.train_options import TrainOptions
from robovision.run import Run
from tests.helpers import TINY

NAME = "vit-tiny-sim"
FILE = weights.EMBEDDED[NAME].file
RECORDED = Path(f"{NAME}@{weights.EMBEDDED[NAME].sha256[:12]}")
OLD = Path("/gone/robovision/data") / FILE
Install = Callable[[str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Moves what the package carries to the folder of this name, and away from where it was."""
    source, files = weights.find(NAME).parent, resources.files

    def move(name: str) -> None:
        for folder in tmp_path.glob("*/robovision"):
            shutil.rmtree(folder)
        shutil.copytree(source, tmp_path / name / "robovision" / "data")
        here = {"robovision": tmp_path / name / "robovision"}
        monkeypatch.setattr(resources, "files", lambda package: here.get(package) or files(package))

    return move


def other_bytes(monkeypatch: pytest.MonkeyPatch) -> str:
    """As if the package carried other weights under the name; the digits of their checksum that are shown."""
    path = weights.find(NAME)
    tensors = weights.load(path)
    tensors["cls_token"] += 1
    checksum = weights.save(path, tensors)
    monkeypatch.setitem(weights.EMBEDDED, NAME, weights.Embedded(FILE, checksum))
    return checksum[:12]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A training of seconds that begins with what the package carries."""
    folder = tmp_path_factory.mktemp("demos")
    collect(DemoOptions(TINY.task, 2, 3, TINY.noise, TINY.env, keep_failures=True), folder, 1)
    return dataclasses.replace(
        TINY,
        data=folder,
        encoder=EncoderOptions(NAME, adapter="none", train="frozen"),
        optimisation=dataclasses.replace(TINY.optimisation, epochs=1),
        evaluation=Evaluation(episodes=1, times=1, video=False),
        workers=1,
    )


def test_what_the_package_carries_is_recorded_by_name(tmp_path: Path, install: Install) -> None:
    install("here")
    assert recorded.record(weights.find(NAME)) == recorded.record(RECORDED) == recorded.record(OLD) == RECORDED
    assert recorded.locate(RECORDED) == recorded.locate(OLD) == weights.find(NAME)
    another = tmp_path / "another" / "robovision" / "data" / FILE
    another.parent.mkdir(parents=True)
    another.write_bytes(b"of another release")
    mine = tmp_path / "vit-tiny-sim@home.pth"
    mine.touch()
    for path in (another, mine):
        assert recorded.locate(recorded.record(path)) == recorded.record(path) == path


def test_what_was_fetched_is_recorded_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cache in ("here", "there"):
        monkeypatch.setenv("ROBOVISION_CACHE", str(tmp_path / cache))
        file = weights_folder("vc1-vit-b16") / "vc1.pth"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"weights")
        named = recorded.record(file)
        assert str(named).startswith("vc1-vit-b16@")
        assert recorded.locate(named) == file
    other_cache = tmp_path / "here" / "weights" / "vc1-vit-b16" / "vc1.pth"
    assert recorded.record(other_cache) == other_cache
    file.write_bytes(b"others")
    with pytest.raises(UsageError, match=r"vc1\.pth holds other weights of vc1-vit-b16, .*than the run starts from"):
        recorded.locate(named)
    file.unlink()
    with pytest.raises(UsageError, match="the weights of vc1-vit-b16 are not here"):
        recorded.locate(named)


def test_a_run_goes_on_and_is_used_under_another_installation(
    tmp_path: Path, config: TrainConfig, install: Install
) -> None:
    install("here")
    path = tmp_path / "run"
    create(path, resolve(config))
    content = json.loads((path / "run.json").read_text())
    assert content["config"]["encoder"]["weights"] == str(RECORDED)
    install("there")
    assert main(["train", "--resume", str(path)]) == 0
    finish(path, config)
    content["config"]["encoder"]["weights"] = str(OLD)
    (path / "run.json").write_text(json.dumps(content))
    finish(path, config)
    robovision.agents.load(path)


def test_a_run_goes_on_with_demonstrations_that_were_moved(
    tmp_path: Path, config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert config.data is not None
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    shutil.copytree(config.data, first)
    shutil.copytree(config.data, second)
    path, encoder = tmp_path / "run", EncoderOptions("cnn", adapter="none")
    begun = dataclasses.replace(config, data=first, encoder=encoder)
    create(path, resolve(begun))
    assert main(["train", "--resume", str(path), "--data", str(second)]) == 2
    assert f"--data: {first} -> {second}" in capsys.readouterr().err
    shutil.rmtree(first)
    assert main(["train", "--resume", str(path), "--data", str(second), "--seed", "9"]) == 2
    assert "--data" not in capsys.readouterr().err
    assert Run.open(path).config(TrainConfig).data == first
    assert main(["train", "--resume", str(path), "--data", str(second)]) == 0
    second.rename(third)
    finish(path, dataclasses.replace(begun, data=third))
    written = json.loads((path / "run.json").read_text())
    assert written["changes"] == [f"--data: {first} -> {second}", f"--data: {second} -> {third}"]


def test_other_weights_of_the_name_are_said_but_a_run_that_has_its_own_needs_none(
    tmp_path: Path,
    config: TrainConfig,
    install: Install,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install("here")
    begun, fresh = tmp_path / "begun", tmp_path / "fresh"
    finish(begun, config)
    create(fresh, resolve(config))
    found = other_bytes(monkeypatch)
    assert main(["train", "--resume", str(fresh)]) == 2
    assert (
        f"other weights of {NAME}, {found}, than the run starts from, {RECORDED.name[-12:]}" in capsys.readouterr().err
    )
    with pytest.raises(UsageError, match=f"--encoder.weights: {RECORDED} -> {NAME}@{found}"):
        finish(begun, config)
    (begun / "results.json").unlink()
    assert main(["train", "--resume", str(begun)]) == 0
    robovision.agents.load(begun)


def test_reinforcement_and_detectors_record_names_too(install: Install, tmp_path: Path) -> None:
    install("here")
    options = RLConfig(env=EnvOptions(size=32, preset="fastest"), encoder=EncoderOptions(NAME, adapter="none"))
    assert reinforcement.resolve(options).encoder.weights == RECORDED
    start = weights.find("lidar-small-sim")
    named = TrainOptions(start=start).resolved().start
    assert named is not None and recorded.locate(named) == start and not named.is_absolute()
