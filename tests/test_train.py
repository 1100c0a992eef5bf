from __future__ import annotations

import csv
import dataclasses
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import av
import pytest
import torch

from robovision.agents import clips
from robovision.agents.agent import find_step
from robovision.agents.config import EncoderOptions, Evaluation
from robovision.agents.evaluate import GROUP, evaluate
from robovision.agents.learner import Learner
from robovision.agents.policy import make_policy
from robovision.agents.report import evaluate_run
from robovision.agents.train import Training
from robovision.errors import UsageError
from robovision.run import Run
from tests.helpers import TINY, TINY_ARGUMENTS

COMMAND = [sys.executable, "-m", "robovision.cli", "train"]
STEPS = 18


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nothing interrupted."""
    run = Run.create(tmp_path_factory.mktemp("runs") / "whole", "train", TINY, space=0)
    Training(run, TINY).execute()
    return run


def final_weights(path: Path) -> bytes:
    return (path / "checkpoints" / f"step-{STEPS:06d}" / "model.safetensors").read_bytes()


def test_a_run_leaves_what_it_promises(finished: Run) -> None:
    results = json.loads((finished.path / "results.json").read_text())
    success = results["metrics"]["success"]
    assert success["count"] == 2
    assert success["low"] <= success["value"] <= success["high"]
    assert {"success_best", "success_any_step", "return", "training_time"} < set(results["metrics"])
    assert results["metrics"]["training_time"]["value"] > 0
    assert (finished.path / "curve.png").read_bytes().startswith(b"\x89PNG")
    with (finished.path / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["success"]] == ["9", "18"]
    assert all(float(row["loss"]) > 0 for row in rows if row["loss"])
    with (finished.path / "episodes.csv").open() as file:
        assert [row["episode"] for row in csv.DictReader(file)] == ["0", "1"]
    with av.open(str(finished.path / "evaluation.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 6 + 30
    assert list((finished.path / "tensorboard").glob("events.out.tfevents.*"))
    assert frames[0].shape == (192, 384, 3)


def test_a_learned_episode_can_be_found_again(finished: Run) -> None:
    again = evaluate(finished, TINY.trial, STEPS, film=False, workers=1)
    record = json.loads((finished.path / "evaluations" / f"step-{STEPS:06d}.json").read_text())
    assert [dataclasses.asdict(outcome) for outcome in again.outcomes] == record["episodes"]


def partial_checkpoint(path: Path) -> bool:
    return any((path / "checkpoints").glob(".step-*"))


def demonstration(path: Path) -> bool:
    return any((path / "demos" / "data").glob("episode-*.hdf5"))


def checkpoint(number: int) -> Callable[[Path], bool]:
    return lambda path: (path / "checkpoints" / f"step-{number:06d}").exists()


def evaluation(path: Path) -> bool:
    return (path / "evaluations").exists()


def kill_when(path: Path, arguments: list[str], moment: Callable[[Path], bool]) -> bool:
    """Start a training and kill -9 it at the moment; False if it ended before."""
    process = subprocess.Popen(COMMAND + arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            if moment(path):
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                return True
            time.sleep(0.0002)
        return False
    finally:
        process.kill()
        process.wait()


def test_a_killed_run_ends_with_the_same_weights(finished: Run, tmp_path: Path) -> None:
    """Killed while collecting, while writing a checkpoint, after one, after an evaluation; then left in peace."""
    path = tmp_path / "killed"
    moments = (demonstration, partial_checkpoint, checkpoint(8), evaluation, checkpoint(16))
    arguments = ["--out", str(path), *TINY_ARGUMENTS]
    for moment in moments:
        assert kill_when(path, arguments, moment)
        arguments = ["--resume", str(path)]
    answer = subprocess.run(COMMAND + arguments, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert "on fresh starts" in answer.stdout
    assert final_weights(path) == final_weights(finished.path)
    assert not list((path / "checkpoints").glob(".step-*"))
    ours, theirs = (json.loads((p / "results.json").read_text())["metrics"] for p in (path, finished.path))
    assert ours["return"] == theirs["return"]


def hear_ctrl_c() -> None:
    """In a new process: tests that a shell runs in the background would hand down to it that Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_run_stopped_by_ctrl_c_says_how_to_go_on_and_ends_the_same(finished: Run, tmp_path: Path) -> None:
    path = tmp_path / "stopped"
    process = subprocess.Popen(
        [*COMMAND, "--out", str(path), *TINY_ARGUMENTS],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
    )
    while process.poll() is None and not checkpoint(4)(path):
        time.sleep(0.0002)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert f"train --resume {path}" in errors
    assert "Traceback" not in errors
    answer = subprocess.run([*COMMAND, "--resume", str(path)], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert final_weights(path) == final_weights(finished.path)


def test_a_disk_that_fills_up_costs_nothing_that_was_written(finished: Run, tmp_path: Path) -> None:
    path = tmp_path / "full"
    process = subprocess.Popen(
        [*COMMAND, "--out", str(path), *TINY_ARGUMENTS], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not checkpoint(8)(path):
        time.sleep(0.0002)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))  # like a disk that takes no more
    _, errors = process.communicate()
    assert process.returncode == 2, errors
    assert "can't write" in errors
    assert "Traceback" not in errors
    latest = Run.open(path).latest()
    assert latest is not None
    assert latest.step >= 8
    answer = subprocess.run([*COMMAND, "--resume", str(path)], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert final_weights(path) == final_weights(finished.path)


def test_the_final_weights_are_not_the_first(finished: Run) -> None:
    torch.manual_seed(TINY.seed)
    start = make_policy(TINY, 4, 4).state_dict()
    assert not torch.equal(finished.at(STEPS).tensors("model")["encoder.cls_token"], start["encoder.cls_token"])


def test_a_checkpoint_is_chosen_by_name_or_step(finished: Run, tmp_path: Path) -> None:
    assert find_step(finished, "final") == STEPS
    assert find_step(finished, "best") in (9, STEPS)
    assert find_step(finished, "9") == 9
    with pytest.raises(UsageError, match=r"no checkpoint '10' in .*; there are final, best and steps"):
        find_step(finished, "10")
    empty = Run.create(tmp_path / "empty", "train", TINY, space=0)
    with pytest.raises(UsageError, match="has no checkpoint yet"):
        find_step(empty, "final")


def test_evaluate_writes_its_own_folder(finished: Run, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, seed=8, evaluation=dataclasses.replace(TINY.evaluation, episodes=GROUP + 1))
    judged = evaluate_run(finished, config, "9", tmp_path / "out")
    assert judged.metrics()[0].count == GROUP + 1
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["step"] == 9
    assert results["seed"] == 8
    assert (tmp_path / "out" / "evaluation.mp4").stat().st_size > 1000


def test_a_loss_that_explodes_stops_the_run_with_its_checkpoint_intact(tmp_path: Path) -> None:
    wild = dataclasses.replace(TINY, optimisation=dataclasses.replace(TINY.optimisation, lr=1e30))
    run = Run.create(tmp_path / "wild", "train", wild, space=0)
    message = (
        r"(?s)(the loss is \S+ at step \d+.*lower --optimisation.lr than 1e\+30|the norm of the gradient is)"
        r".*the batch of step \d+: demonstration [01] frames \d+\.\.\d+"
    )
    with pytest.raises(UsageError, match=message):
        Training(run, wild).execute()


def test_a_loss_that_is_not_finite_leaves_the_last_checkpoint_as_it_was(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(TINY, data=finished.path / "demos", evaluation=Evaluation(episodes=1, times=1))
    run = Run.create(tmp_path / "nan", "train", config, space=0)
    losses = Learner.loss
    steps: list[torch.Tensor] = []

    def loss(learner: Learner, batch: clips.Batch, encoded: bool = False) -> torch.Tensor:
        steps.append(losses(learner, batch, encoded))
        return steps[-1] * (float("nan") if len(steps) == 11 else 1.0)

    monkeypatch.setattr(Learner, "loss", loss)
    with pytest.raises(UsageError, match=r"(?s)the loss is nan at step 10; .*the batch of step 10: demonstration"):
        Training(run, config).execute()
    latest = run.latest()
    assert latest is not None
    assert latest.step == 8
    assert all(value.isfinite().all() for value in latest.tensors("model").values())


def test_a_moving_average_is_what_is_evaluated_and_resumes(finished: Run, tmp_path: Path) -> None:
    averaged = dataclasses.replace(
        TINY,
        data=finished.path / "demos",
        encoder=EncoderOptions("cnn", adapter="none"),
        chunk=2,
        optimisation=dataclasses.replace(TINY.optimisation, ema=0.5, colour=0.3, epochs=3),
        evaluation=Evaluation(episodes=1, times=1, video=False),
    )

    def train(name: str) -> Run:
        path = tmp_path / name
        run = Run.open(path) if path.exists() else Run.create(path, "train", averaged, space=0)
        Training(run, averaged).execute()
        return run

    whole = train("whole")
    checkpoint = whole.latest()
    assert checkpoint is not None
    model, trained = (checkpoint.tensors(name) for name in ("model", "trained"))
    assert model.keys() == trained.keys()
    assert not torch.equal(model["head.1.weight"], trained["head.1.weight"])
    resumed = train("resumed")
    for file in ("results.json", "evaluations"):
        (shutil.rmtree if (resumed.path / file).is_dir() else Path.unlink)(resumed.path / file)
    shutil.rmtree(resumed.checkpoints()[-1])
    train("resumed")
    names = [path.name for path in whole.checkpoints()]
    assert [path.name for path in resumed.checkpoints()] == names
    files = [run.path / "checkpoints" / names[-1] / "model.safetensors" for run in (whole, resumed)]
    assert files[0].read_bytes() == files[1].read_bytes()
