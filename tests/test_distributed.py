from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from robovision import weights
from robovision.agents import distributed
from robovision.agents.config import EncoderOptions, Evaluation, TrainConfig
from robovision.agents.learner import Learner
from robovision.agents.sweep import finish
from robovision.agents.train import resolve
from robovision.errors import UsageError
from robovision.run import Run
from tests.distributed_gradients import CONFIG, batch, gradients
from tests.helpers import TINY, TINY_ARGUMENTS

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    file = tmp_path / "gradients.safetensors"
    answer = subprocess.run(
        [*TORCHRUN, "-m", "tests.distributed_gradients", str(file)], capture_output=True, text=True, timeout=300
    )
    assert answer.returncode == 0, answer.stderr
    theirs, ours = weights.load(file), gradients()
    assert theirs.keys() == ours.keys()
    assert any("running_var" in name for name in ours)
    largest = max(float(gradient.abs().max()) for gradient in ours.values())
    assert largest > 1e-3
    for name, gradient in ours.items():
        assert torch.allclose(theirs[name], gradient, rtol=1e-9, atol=1e-12 * largest), name


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    """All of it: demonstrations, steps, checkpoints, evaluation; the first process alone writes and speaks."""
    config = dataclasses.replace(
        TINY,
        encoder=EncoderOptions("cnn", adapter="none"),
        optimisation=dataclasses.replace(TINY.optimisation, epochs=3),
        evaluation=Evaluation(episodes=1, times=1, video=False),
        workers=1,
    )
    options = [*("--encoder.name", "cnn", "--encoder.adapter", "none", "--evaluation.no-video", "--workers", "1")]
    options += ["--optimisation.epochs", "3", "--evaluation.episodes", "1", "--evaluation.times", "1"]
    answer = subprocess.run(
        [*TORCHRUN, "-m", "robovision.cli", "train", "--out", str(tmp_path / "two"), *TINY_ARGUMENTS, *options],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("on fresh starts") == 1
    two = Run.open(tmp_path / "two")
    assert dataclasses.replace(two.config(TrainConfig), data=None) == resolve(config)
    finish(tmp_path / "one", dataclasses.replace(config, data=two.path / "demos"))
    found = [run.latest() for run in (two, Run.open(tmp_path / "one"))]
    curves = [checkpoint.state["curve"] for checkpoint in found if checkpoint is not None]
    assert len(curves) == 2
    assert [row["step"] for row in curves[0]] == [row["step"] for row in curves[1]] == [9]
    assert [row["loss"] for row in curves[0]] == pytest.approx([row["loss"] for row in curves[1]], rel=1e-4)


def test_more_processes_than_clips_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "processes", lambda: 5)
    with pytest.raises(UsageError, match="5 processes can't share a batch of 4 clips"):
        Learner(CONFIG, 4, torch.zeros(8, 3))


def test_shares_are_the_whole() -> None:
    _, whole = batch()
    parts = [whole.share(rank, 2) for rank in range(2)]
    assert parts[0].planned.sum() != parts[1].planned.sum()
    for name in ("frames", "valid", "proprioception", "actions", "planned"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    assert torch.equal(whole.share(0, 1).frames, whole.frames)
