"""`robovision pretrain mae`: what a run leaves behind, resuming, several processes, wrong usage."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robovision import weights
from robovision.cli import main
from robovision.encoders.build import build
from robovision.encoders.checkpoints import load_pretrained
from robovision.encoders.mae_config import MaeConfig
from robovision.encoders.pictures import Frames
from robovision.encoders.pretraining import Pretraining
from robovision.errors import UsageError
from robovision.processes import Processes
from robovision.run import Run
from robovision.seeding import derive

STEPS = 6
CONFIG = MaeConfig(
    sizes=(32, 48), steps=STEPS, batch=4, checkpoint_every=2, device="cpu", precision="float32", threads=1
)
ARGUMENTS = [
    *("--sizes", "32", "48", "--steps", str(STEPS), "--batch", "4", "--checkpoint-every", "2"),
    *("--device", "cpu", "--precision", "float32", "--threads", "1"),
]
PIXELS = np.random.default_rng(0).integers(0, 256, (10, 3, 48, 48), np.uint8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, pixels in enumerate(PIXELS):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    path = tmp_path_factory.mktemp("runs") / "mae"
    assert main(["pretrain", "mae", "--images", str(photos), "--out", str(path), *ARGUMENTS]) == 0
    return path


def test_a_run_leaves_weights_pictures_and_numbers(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    assert results["steps"] == STEPS
    assert results["images"] == 10
    assert results["encoder_sha256"] == weights.sha256(finished / "encoder.safetensors")
    assert 0.5 < results["metrics"]["reconstruction_error"]["value"] < 2
    with Image.open(finished / "reconstructions.png") as picture:
        assert picture.size == (8 * 48, 3 * 48)
    with Image.open(finished / "curve.png") as picture:
        assert picture.size[0] > 300
    assert (finished / "curve.csv").read_text().splitlines()[0] == "step,loss,lr"


def test_its_weights_load_into_the_encoder_at_another_size_with_an_adapter(finished: Path) -> None:
    tensors = weights.load(finished / "encoder.safetensors")
    assert {value.dtype for value in tensors.values()} == {torch.float16}
    encoder = build("vit-tiny", 64, "coin", pretrained=True)
    load_pretrained(encoder, finished / "encoder.safetensors")
    assert torch.equal(encoder.state_dict()["blocks.3.mlp.fc1.weight"], tensors["blocks.3.mlp.fc1.weight"].float())


def test_pictures_in_memory_and_in_files_teach_the_same(finished: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "pretrain mae", CONFIG, 1)
    Pretraining(run, CONFIG, Frames(PIXELS), Processes()).execute()
    assert (run.path / "encoder.safetensors").read_bytes() == (finished / "encoder.safetensors").read_bytes()


def test_a_stopped_run_ends_with_the_same_weights(
    finished: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_step = Pretraining._train_step

    def stop(self: Pretraining) -> object:
        if self._steps.step == 3:
            raise KeyboardInterrupt
        return train_step(self)

    path = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "_train_step", stop)
        assert main(["pretrain", "mae", "--images", str(photos), "--out", str(path), *ARGUMENTS]) == 130
    assert f"pretrain mae --resume {path}" in capsys.readouterr().err
    assert main(["pretrain", "mae", "--resume", str(path), "--steps", "7"]) == 2
    assert "--steps: 6 -> 7" in capsys.readouterr().err
    assert main(["pretrain", "mae", "--resume", str(path)]) == 0
    assert (path / "encoder.safetensors").read_bytes() == (finished / "encoder.safetensors").read_bytes()
    assert (path / "curve.csv").read_bytes() == (finished / "curve.csv").read_bytes()


def test_frames_are_rendered_first(tmp_path: Path) -> None:
    path = tmp_path / "run"
    frames = ["--frames.count", "1", "--frames.size", "48", "--frames.tasks", "dmc/pendulum-swingup"]
    assert main(["pretrain", "mae", *frames, "--out", str(path), *ARGUMENTS, "--workers", "1"]) == 0
    assert json.loads((path / "frames" / "frames.json").read_text())["preset"] == "fastest"
    assert json.loads((path / "results.json").read_text())["images"] == 128


def test_processes_under_torchrun_descend_on_the_mean_of_their_gradients(photos: Path, tmp_path: Path) -> None:
    """Two steps of two processes, against their batches put through one model by hand."""
    path = tmp_path / "run"
    arguments = [*("--images", str(photos), "--out", str(path)), *ARGUMENTS, "--steps", "2"]
    command = [*("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"), "-m", "robovision.cli"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        [sys.executable, *command, "pretrain", "mae", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("2 processes") == 1

    config = dataclasses.replace(CONFIG, steps=2)
    run = Run.create(tmp_path / "by-hand", "pretrain mae", config, 1)
    both = [Pretraining(run, config, Frames(PIXELS), Processes(2, rank)) for rank in range(2)]
    torch.manual_seed(config.seed)
    both[0]._processes = Processes()
    both[0]._prepare()
    both[0]._processes = Processes(2, 0)
    model = both[1].model = both[0].model
    for step in range(2):
        both[0].optimizer.zero_grad()
        (sum(model(*part._batch(step)) for part in both) / 2).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in both[0].optimizer.param_groups:
            group["lr"] = [config.lr, config.lr / 2][step]
        both[0].optimizer.step()
    theirs = weights.load(path / "checkpoints" / "step-000002" / "model.safetensors")
    for name, value in model.state_dict().items():
        assert torch.allclose(theirs[name], value, atol=2e-4), name


def test_parts_of_a_batch_are_disjoint_and_randomness_is_their_own() -> None:
    one, other = Processes(2, 0), Processes(2, 1)
    assert sorted([*one.share(range(6)), *other.share(range(6))]) == list(range(6))
    assert one.generator(0, 3).initial_seed() == derive(0, "step", 3, 0) != other.generator(0, 3).initial_seed()
    with pytest.raises(UsageError, match=r"batch \(4\) must be a multiple of the 3 processes"):
        Pretraining(Run.__new__(Run), CONFIG, Frames(PIXELS), Processes(3, 0))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(CONFIG, lr=1e30)
    run = Run.create(tmp_path / "run", "pretrain mae", config, 1)
    with pytest.raises(UsageError, match=r"the loss is nan at step .*lower --lr than 1e\+30"):
        Pretraining(run, config, Frames(PIXELS), Processes()).execute()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--encoder", "clip-vit-b16"], "start from random weights"),
        (["--encoder", "resnet50"], "start from random weights"),
        (["--sizes", "60"], "nearest: 48 and 64"),
        (["--sizes", "16"], "at least 32 pixels"),
        (["--steps", "0"], "steps must be positive"),
        (["--weight-decay", "-1"], "weight_decay must not be negative"),
        (["--threads", "-1"], "threads must not be negative"),
        (["--sizes", "224"], r"frames.size (128) must be at least the largest of --sizes (224)"),
        (["--images", "photos", "--store", "frames"], "leave out --store"),
        (["--workers", "-1"], "--workers must not be negative"),
    ],
)
def test_wrong_usage_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "mae", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["none", "empty"])
def test_a_folder_without_images_leaves_no_run_behind(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["pretrain", "mae", "--images", str(tmp_path / folder), "--out", str(tmp_path / "run")]) == 2
    assert "images" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_group_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain"]) == 0
    assert "mae" in capsys.readouterr().out
