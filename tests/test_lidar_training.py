from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robovision import weights
from robovision.cli import main
from robovision.devices import make_deterministic
from robovision.errors import UsageError
from robovision.lidar.boxes import bev_iou, points_in_boxes
from robovision.lidar.clouds import write_cloud
from robovision.lidar.detectors.augment_options import AugmentOptions
from robovision.lidar.detectors.augmentation import Scene
from robovision.lidar.detectors.data import check_classes, drop_unseen, find_sequences, read_scene, take_fraction
from robovision.lidar.detectors.detector import Detector
from robovision.lidar.detectors.files import load_detector, save_detector
from robovision.lidar.detectors.heads import Objects
from robovision.lidar.detectors.hedges import add_hedges
from robovision.lidar.detectors.models import MODELS
from robovision.lidar.detectors.pasting import Cutout, Pasting, collect
from robovision.lidar.detectors.train_options import TrainOptions
from robovision.lidar.detectors.training import GRADIENT_NORM, Sweeps, Training
from robovision.lidar.frames import read_frame
from robovision.lidar.kitti_labels import read_detections
from robovision.lidar.simulate import write_sequence
from robovision.lidar.simulate_options import SimulateOptions
from robovision.optimisers import adamw, descend, learning_rate
from robovision.processes import Processes
from robovision.run import Run
from robovision.types import PointCloud
from tests.lidar_scenes import CENTER, boxes, scene


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sequences of two frames of a small sensor."""
    out = tmp_path_factory.mktemp("streets")
    options = SimulateOptions(scenes=3, frames=2, sensor="mini-16")
    for number in range(3):
        write_sequence(options, out, number)
    return out


def options_for(streets: Path, **changes: object) -> TrainOptions:
    base = TrainOptions(
        data=(streets,), classes=("Car",), steps=3, batch=2, least=1, paste=1, checkpoint_every=1, device="cpu",
        precision="float32", threads=1, augment=AugmentOptions(thin=0.3, hedges=2),
    )  # fmt: skip
    return dataclasses.replace(base, **changes).resolved()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(streets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of three steps."""
    path = tmp_path_factory.mktemp("runs") / "run"
    options = options_for(streets)
    metrics = Training(Run.create(path, "lidar train", options, 0), options, Processes()).execute()
    assert {m.name for m in metrics} == {"heat_loss", "box_loss", "way_loss", "training_time"}
    return path


def test_a_run_leaves_a_detector_and_its_curve(trained: Path) -> None:
    detector = load_detector(trained / "detector.safetensors")
    assert detector.config.classes == ("Car",) and detector.config.merged == (("Van", "Car"),)
    assert (trained / "curve.csv").read_text().startswith("step,heat_loss,box_loss,way_loss\n3,")
    assert '"labels"' in (trained / "results.json").read_text()


def test_resumed_training_is_the_same_bit_by_bit(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "again"
    shutil.copytree(trained, path)
    shutil.rmtree(path / "checkpoints" / "step-000003")
    (path / "detector.safetensors").unlink()
    run = Run.open(path)
    Training(run, run.config(TrainOptions), Processes()).execute()
    assert (path / "detector.safetensors").read_bytes() == (trained / "detector.safetensors").read_bytes()


def test_resume_refuses_other_options(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lidar", "train", "--resume", str(trained), "--lr", "0.1"]) == 2
    assert "--lr" in capsys.readouterr().err


def test_processes_share_a_batch(streets: Path) -> None:
    options = options_for(streets)
    clouds = [cloud for drive in find_sequences([streets]) for cloud in drive.clouds]
    both = [Sweeps(clouds, options, Processes(2, rank), None)[1] for rank in (0, 1)]
    assert [len(batch[2]) for batch in both] == [1, 1]
    assert not torch.equal(both[0][0][:100], both[1][0][:100])
    again = Sweeps(clouds, options, Processes(2, 1), None)[1]
    assert torch.equal(again[0], both[1][0])
    with pytest.raises(UsageError, match="multiple"):
        Training(Run(streets, {"job": "", "environment": {}, "config": {}}), options, Processes(3))


def test_fractions_are_whole_sequences(streets: Path) -> None:
    drives = find_sequences([streets])
    assert [len(drive.clouds) for drive in drives] == [2, 2, 2]
    for fraction, count in ((1.0, 3), (0.6, 2), (0.05, 1)):
        chosen = take_fraction(drives, fraction, 1)
        assert len(chosen) == count and set(chosen) <= set(drives)
        assert chosen == take_fraction(drives, fraction, 1)
    picks = {take_fraction(drives, 0.3, seed)[0].name for seed in range(8)}
    assert len(picks) > 1
    with pytest.raises(UsageError, match="above 0"):
        take_fraction(drives, 0.0, 0)


def test_a_class_without_labels_is_named(streets: Path) -> None:
    config = dataclasses.replace(MODELS["small"], classes=("Car", "Tram"), merged=())
    with pytest.raises(UsageError, match=r"class Tram .*--fraction"):
        check_classes(find_sequences([streets]), config)
    counts = check_classes(find_sequences([streets]), dataclasses.replace(config, classes=("Car",)))
    assert counts["Car"] > 10


def test_scenes_as_taught(streets: Path, tmp_path: Path) -> None:
    path = find_sequences([streets])[0].clouds[0]
    full = read_scene(path, MODELS["small"])
    assert full.points.shape[1] == 3
    frame = read_frame(path)
    assert frame.truth is not None
    vans = sum(frame.truth.classes[label] in ("Car", "Van") for label in frame.truth.labels.tolist())
    assert (full.objects.labels == 0).sum() == vans
    seen = read_scene(path, MODELS["small"], view=True)
    assert 0 < len(seen.points) < len(full.points)
    ahead, across = seen.points[:, 0], seen.points[:, 1].abs()
    assert (ahead > 0).all() and (across < ahead + 1).all()
    few = drop_unseen(full, 8)
    counts = points_in_boxes(few.points, few.objects.boxes).sum(dim=1)
    assert len(few.objects.labels) < len(full.objects.labels) and counts.min() >= 8
    with pytest.raises(UsageError, match="no sequence"):
        find_sequences([tmp_path])
    lonely = tmp_path / "velodyne" / "0.bin"
    lonely.parent.mkdir()
    write_cloud(lonely, PointCloud(np.ones((3, 3))))
    with pytest.raises(UsageError, match="label_2"):
        find_sequences([tmp_path])
    with pytest.raises(UsageError, match="no labels"):
        read_scene(lonely, MODELS["small"])


def test_objects_are_pasted_where_there_is_room(streets: Path) -> None:
    clouds = find_sequences([streets])[0].clouds
    pasting = collect(list(clouds), options_for(streets, paste=50, least=3))
    assert len(pasting.cutouts[0]) > 3
    for cutout in pasting.cutouts[0]:
        assert points_in_boxes(cutout.points[:, :3], cutout.box[None]).all()
    before = Scene(torch.zeros(0, 3), Objects(torch.zeros(0, 7), torch.zeros(0, dtype=torch.int64)))
    after = pasting(before, torch.Generator().manual_seed(0))
    overlap = bev_iou(after.objects.boxes, after.objects.boxes).fill_diagonal_(0)
    assert 0 < len(after.objects.boxes) <= len(pasting.cutouts[0]) and overlap.max() == 0
    # What was inside a pasted box gives way, and an occupied place stays as it is.
    here = boxes().boxes[0]
    box = Cutout(here, here[None, :3])
    mine = scene(3)
    empty = Objects(torch.zeros(0, 7), torch.zeros(0, dtype=torch.int64))
    placed = Pasting(((box,),), 1)(Scene(mine.points, empty), torch.Generator())
    assert points_in_boxes(placed.points, here[None]).sum() == 1
    assert Pasting(((box,),), 1)(mine, torch.Generator()) is mine


def test_hedges_shorten_rays_and_spare_objects() -> None:
    before = scene(4, 3)
    after = add_hedges(before, 20, -1.73, torch.Generator().manual_seed(2))
    length, then = before.points[:, :3].norm(dim=1), after.points[:, :3].norm(dim=1)
    moved = then < length - 1e-4
    assert 10 < moved.sum() < len(length) and (then <= length + 1e-4).all()
    turned = torch.nn.functional.cosine_similarity(before.points[:, :3], after.points[:, :3])
    assert (turned > 1 - 1e-5).all() and torch.equal(before.points[:, 3], after.points[:, 3])
    inside = points_in_boxes(after.points[moved][:, :3], after.objects.boxes)
    assert not inside.any()
    none = Scene(torch.zeros(0, 3), before.objects)
    assert len(add_hedges(none, 5, -1.73, torch.Generator()).points) == 0


def test_detect_writes_everything(trained: Path, streets: Path, tmp_path: Path) -> None:
    out = tmp_path / "found"
    eager = load_detector(trained / "detector.safetensors")
    torch.nn.init.constant_(eager.head.parts["hm"][1].bias, 3.0)  # type: ignore[index,union-attr]
    eager.config = dataclasses.replace(eager.config, most=2000)  # some of them ahead, where the camera looks
    weights = str(tmp_path / "eager.safetensors")
    save_detector(Path(weights), eager)
    assert (
        main(["lidar", "detect", str(streets / "0000"), "--weights", weights, "--score", "0.2", "--out", str(out)]) == 0
    )
    assert sorted(path.name for path in out.iterdir()) == ["boxes", "pictures", "results", "video.mp4"]
    found = read_detections(out / "results" / "000001.txt")
    assert found.scores is not None and set(found.names) == {"Car"}
    assert (found.locations[:, 2] > 0).all()
    assert (out / "pictures" / "000000.png").stat().st_size > 5000


def test_detect_says_what_is_wrong(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    far = tmp_path / "far.bin"
    write_cloud(far, PointCloud(np.full((5, 3), 900.0)))
    weights = str(trained / "detector.safetensors")
    arguments = ["lidar", "detect", str(far), "--no-pictures", "--out", str(tmp_path / "out")]
    with pytest.warns(UserWarning, match=r"none of 5 points lies where this detector looks"):
        assert main([*arguments, "--weights", weights]) == 0
    assert "0 objects" in capsys.readouterr().out
    for wrong, word in (
        (["--weights", "x.pth"], "--model"),
        (["--weights", "x.pth", "--model", "pointpilars"], "nearest: pointpillars"),
        (["--weights", str(far)], "needs its model"),
        (["--score", "2"], "0..1"),
        (["--model", "second"], "--weights"),
    ):
        assert main([*arguments, *wrong]) == 2
        assert word in capsys.readouterr().err


def test_detect_passes_over_clouds_that_cannot_be_read(
    trained: Path, streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = (streets / "0000" / "velodyne" / "000000.bin").read_bytes()
    bad = {
        "cut.bin": (good[:-3], "no multiple of the 16 bytes"),
        "five.bin": (np.full((8, 5), 7.0, np.float32).tobytes(), "reflectance, lies in 0..1"),
        "four.pcd.bin": (np.full((10, 4), 0.5, np.float32).tobytes(), "name the file .bin"),
        "text.npz": (b"no archive", "no NPZ file"),
        "torn.feather": (b"ARROW1", "torn.feather"),
        "half.ply": (b"ply", "half.ply"),
    }
    for name, (content, _) in bad.items():
        (tmp_path / name).write_bytes(content)
    fine = {"good.bin": good, "empty.bin": b"", "nan.bin": np.full((4, 4), np.nan, np.float32).tobytes()}
    for name, content in fine.items():
        (tmp_path / name).write_bytes(content)
    weights, out = str(trained / "detector.safetensors"), tmp_path / "out"
    arguments = ["lidar", "detect", "--weights", weights, "--no-pictures", "--out", str(out)]
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert main([*arguments, str(tmp_path)]) == 2
    told = [str(warning.message) for warning in heard]
    assert sum("holds no points" in text for text in told) == 2 and sum("not finite" in text for text in told) == 1
    said = capsys.readouterr()
    assert "in 3 clouds" in said.out and "6 of 9 could not be read" in said.err
    for name, (_, reason) in bad.items():
        (line,) = (line for line in said.err.splitlines() if name in line)
        assert reason in line
    assert sorted(path.name for path in (out / "boxes").iterdir()) == ["empty.npz", "good.npz", "nan.npz"]
    # Alone, one that can't be read is an error.
    assert main([*arguments, str(tmp_path / "cut.bin")]) == 2
    assert "no multiple" in capsys.readouterr().err


def test_options_are_checked() -> None:
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"classes": ("Cat",), "model": "second"}, "anchor"),
        ({"model": "pointpillar"}, "nearest"),
        ({"steps": 0}, "steps"),
        ({"fraction": 1.5}, "fraction"),
        ({"paste": -1}, "paste"),
        ({"data": ()}, "--data"),
    )
    for changes, word in cases:
        with pytest.raises(UsageError, match=word):
            TrainOptions(**changes)
    assert TrainOptions(model="second", classes=("Cyclist",)).detector().anchors[0].size[0] == 1.76
    assert not TrainOptions(model="second", intensity=False).detector().intensity
    assert CENTER.features == 4


def test_processes_under_torchrun_descend_on_the_mean_of_their_gradients(streets: Path, tmp_path: Path) -> None:
    """Two steps of two processes, against their shares put through one detector by hand."""
    path = tmp_path / "run"
    command = [*("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"), "-m", "robovision.cli"]
    arguments = ["--data", str(streets), "--model", "tiny", "--classes", "Car", "--steps", "2", "--batch", "2"]
    arguments += ["--least", "1", "--device", "cpu", "--precision", "float32", "--threads", "1", "--out", str(path)]
    answer = subprocess.run(
        [sys.executable, *command, "lidar", "train", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert answer.returncode == 0, answer.stderr
    options = Run.open(path).config(TrainOptions)
    clouds = [cloud for sequence in find_sequences(options.data) for cloud in sequence.clouds]
    shares = [Sweeps(clouds, options, Processes(2, rank), None) for rank in range(2)]
    assert not torch.equal(shares[0][0][0], shares[1][0][0])
    make_deterministic(options.seed, 1)
    detector = Detector(options.detector()).train()
    optimizer = adamw(detector, options.weight_decay)
    for step in range(2):
        parts = []
        for points, sample, truth in (share[step] for share in shares):
            parts += list(detector.losses(detector(points, sample, len(truth)), truth).values())
        rate = learning_rate(step, options.steps, options.lr)
        descend(torch.stack(parts).sum() / 2, detector, optimizer, rate, GRADIENT_NORM)
    theirs = weights.load(path / "checkpoints" / "step-000002" / "model.safetensors")
    for name, value in detector.named_parameters():
        assert torch.allclose(theirs[name], value, atol=2e-4), name
