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
from typing import cast

import av
import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from robovision import weights
from robovision.agents import clips
from robovision.agents.agent import find_step
from robovision.agents.config import EncoderOptions, Evaluation, Optimisation, TrainConfig
from robovision.agents.evaluate import GROUP, Outcome, evaluate
from robovision.agents.learner import Learner, moving_average
from robovision.agents.policy import History, Policy, histories, make_policy
from robovision.agents.report import evaluate_run
from robovision.agents.train import Training
from robovision.agents.video import FAILED, SOLVED, mosaic
from robovision.encoders.checkpoints import load_pretrained
from robovision.envs.demo_arrays import Demonstrations
from robovision.errors import UsageError
from robovision.optimisers import check_loss, descend, learning_rate, save
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


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    layer = nn.Linear(2, 1)
    run = Run.create(tmp_path / "run", "train", TINY, space=0)
    nn.init.constant_(layer.bias, torch.inf)
    with pytest.raises(UsageError, match="the weight bias is not finite after 5 steps; the last checkpoint is intact"):
        save(run, 5, [], 0.0, layer, torch.optim.AdamW(layer.parameters()))
    assert not run.checkpoints()


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


def test_a_gradient_that_is_not_finite_leaves_the_weights_as_they_were() -> None:
    layer = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(layer.parameters())
    before = layer.weight.detach().clone()
    loss = (layer(torch.ones(1, 2)) * torch.tensor([[0.0]])).sqrt().sum()  # the root's slope at 0 is infinite
    assert loss.isfinite()
    with pytest.raises(UsageError, match="the norm of the gradient is nan"):
        descend(loss, layer, optimizer, 0.1, 1.0)
    assert torch.equal(layer.weight, before)
    with pytest.raises(UsageError, match=r"the loss is 1e\+07 at step 3"):
        check_loss(torch.tensor(1e7), 3, "less")


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


def test_colours_change_together_in_a_clip() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (3, 1, 3, 8, 8), dtype=torch.uint8).expand(3, 4, 3, 8, 8)
    changed = clips.jitter(images, 0.4, generator)
    assert changed.dtype == torch.uint8
    assert all(torch.equal(changed[:, 0], changed[:, k]) for k in range(4))
    assert (changed.float() - images.float()).abs().mean() > 2
    grey = torch.full((1, 1, 3, 8, 8), 100, dtype=torch.uint8)
    changed = clips.jitter(grey, 0.4, generator)
    assert int(changed.min()) == int(changed.max()) != 100
    assert clips.jitter(images, 0.0, generator) is images


def test_a_chunk_holds_the_actions_that_follow_within_the_demonstration() -> None:
    pixels = np.zeros((7, 3, 32, 32), np.uint8)
    numbers = np.arange(7, dtype=np.float32)[:, None]
    demos = clips.Clips(Demonstrations(pixels, numbers, numbers, np.array([3, 4]), None), clips.Drawing(chunk=3))
    for step in range(20):
        batch = demos.batch(step, 4)
        now = batch.proprioception
        last = torch.where(now < 3, 2.0, 6.0)
        assert torch.equal(batch.actions[..., 0], torch.minimum(now + torch.arange(3), last))
        assert torch.equal(batch.planned, now + torch.arange(3) <= last)
    assert demos.where(0, 2).count("demonstration") == 2


def test_history_repeats_the_first_and_forgets_the_oldest() -> None:
    history = History(3)
    for now, expected in ((1.0, [1, 1, 1]), (2.0, [1, 1, 2]), (3.0, [1, 2, 3]), (4.0, [2, 3, 4])):
        assert history.push(torch.full((2, 1), now))[0, :, 0].tolist() == expected


def test_histories_of_training_and_rollout_give_the_same_action() -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(TINY, history=3, optimisation=Optimisation(clip=4, batch=8))
    agent = make_policy(config, 4, 4).eval()
    nn.init.normal_(agent.head[-1].weight)  # type: ignore[arg-type]
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), np.uint8)
    numbers = np.arange(24, dtype=np.float32).reshape(6, 4)
    drawing = clips.Drawing(history=3, clip=4)
    demos = clips.Clips(Demonstrations(pixels, numbers, numbers, np.array([6]), None), drawing)
    history = History(3)
    with torch.no_grad():
        played = torch.cat(
            [agent.act(history.push(agent.embed(torch.from_numpy(p[None]))), torch.from_numpy(n[None]))
             for p, n in zip(pixels, numbers, strict=True)]
        )  # fmt: skip
        for step in range(10):
            batch = demos.batch(step, 2)
            embedded = agent.embed(batch.frames.flatten(0, 1)).view(*batch.frames.shape[:2], -1)
            trained = agent.act(histories(embedded, batch.valid), batch.proprioception)
            time_of = (batch.actions[:, 0, 0] / 4).long()
            assert torch.allclose(trained, played[time_of], atol=1e-4)


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


def test_only_what_is_asked_for_is_trained() -> None:
    def trained(train: str, adapter: str = "coin") -> set[str]:
        options = EncoderOptions(train=train, adapter=adapter)  # type: ignore[arg-type]
        agent = make_policy(dataclasses.replace(TINY, encoder=options), 4, 4)
        return {name.split(".")[1] for name, p in agent.encoder.named_parameters(prefix="e") if p.requires_grad}

    assert "blocks" in trained("full")
    assert trained("adapter") == {"injector"}
    assert trained("frozen") == set()
    with pytest.raises(UsageError, match="nothing to train"):
        EncoderOptions(train="adapter", adapter="none")


def test_pretrained_weights_learn_at_their_own_rate(tmp_path: Path) -> None:
    file = tmp_path / "vit.safetensors"
    plain = make_policy(dataclasses.replace(TINY, encoder=EncoderOptions(adapter="none")), 4, 4).encoder
    weights.save(file, plain.state_dict())
    paced = dataclasses.replace(
        TINY, encoder=EncoderOptions(weights=file), optimisation=Optimisation(lr=1e-3, pretrained_lr=1e-5)
    )
    moved = {}
    for config in (paced, dataclasses.replace(paced, encoder=EncoderOptions())):
        learner = Learner(config, 4, torch.zeros(2, 4))
        before = {name: p.detach().clone() for name, p in learner.policy.named_parameters()}
        loss = torch.stack([p.sum() for p in learner.policy.parameters()]).sum()
        descend(loss, learner.policy, learner.optimizer, 1e-3, 1.0)
        after = learner.policy.named_parameters()
        moved[config.encoder.weights] = {name: float((p.detach() - before[name]).abs().max()) for name, p in after}
    for name, far in moved[file].items():
        slow = name.startswith("encoder.") and ".injector." not in name
        assert far == pytest.approx(1e-5 if slow else 1e-3, rel=0.05), name
    assert all(far == pytest.approx(1e-3, rel=0.05) for far in moved[None].values())
    with pytest.raises(UsageError, match=r"optimisation\.pretrained_lr must be positive, got 0"):
        Optimisation(pretrained_lr=0)


def test_pretrained_weights_load_strictly_and_leave_coins_gate_shut(tmp_path: Path) -> None:
    file = tmp_path / "vit.safetensors"
    plain = make_policy(dataclasses.replace(TINY, encoder=EncoderOptions(adapter="none")), 4, 4).encoder
    weights.save(file, plain.state_dict())
    agent = make_policy(dataclasses.replace(TINY, encoder=EncoderOptions(weights=file)), 4, 4)
    load_pretrained(agent.encoder, file)
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(agent.encoder.eval()(images).tokens, plain.eval()(images).tokens)
    weights.save(file, {"norm.weight": torch.zeros(3)})
    with pytest.raises(UsageError, match=r"(?s)missing: cls_token.*misshapen: norm.weight is \[3\], not \[192\]"):
        load_pretrained(agent.encoder, file)


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [learning_rate(step, 100, 1.0) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == pytest.approx(rates[4])
    assert rates[-1] < 0.001


def test_a_mosaic_marks_success_green_and_failure_red() -> None:
    films = [np.zeros((3, 16, 16, 3), np.uint8)] * 3
    outcomes = [
        Outcome(0, 0, success=True, success_any=True, first_success=3, score=None, total_reward=0.0, steps=6),
        Outcome(1, 0, success=False, success_any=True, first_success=1, score=None, total_reward=0.0, steps=6),
        Outcome(2, 0, success=False, success_any=False, first_success=None, score=None, total_reward=0.0, steps=6),
    ]
    corners = [(0, 0), (0, 16), (16, 0)]
    before, middle, end = (mosaic(films, outcomes, t, over) for t, over in ((0, False), (1, False), (2, True)))
    assert [tuple(before[c]) == SOLVED for c in corners] == [False, True, False]
    assert [tuple(middle[c]) == SOLVED for c in corners] == [True, True, False]
    assert [tuple(end[c]) for c in corners] == [SOLVED, FAILED, FAILED]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "metaworld/hamer"}, "nearest: metaworld/hammer"),
        ({"demos": 0}, "at least 1 demonstration"),
        ({"noise": 5}, r"noise must lie in 0\.\.1"),
        ({"env": dataclasses.replace(TINY.env, horizon=501)}, "ends after 500 steps: horizon 501"),
        ({"history": 0}, "at least 1 image"),
        ({"env": dataclasses.replace(TINY.env, size=40)}, "multiple of the patch"),
        ({"threads": -1}, "must not be negative"),
    ],
)
def test_wrong_options_are_said(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainConfig(**changes)  # type: ignore[arg-type]


def test_wrong_optimisation_is_said() -> None:
    with pytest.raises(UsageError, match="epochs must be positive, got 0"):
        Optimisation(epochs=0)
    with pytest.raises(UsageError, match=r"batch \(10\) must be a multiple of clip \(4\)"):
        Optimisation(batch=10, clip=4)
    with pytest.raises(UsageError, match=r"batch \(4\) must hold at least two clips \(4\)"):
        Optimisation(batch=4, clip=4)
