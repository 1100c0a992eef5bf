from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robovision.cli import main
from robovision.errors import UsageError
from robovision.lidar.clouds import read_cloud, write_cloud
from robovision.lidar.detectors.config import Grid
from robovision.lidar.detectors.detector import Detector
from robovision.lidar.detectors.files import save_detector
from robovision.lidar.detectors.models import MODELS
from robovision.lidar.detectors.train_options import TrainOptions
from robovision.lidar.pretraining.also import DEPTH, ask
from robovision.lidar.pretraining.contrast import common, point_info_nce
from robovision.lidar.pretraining.files import FILE, as_pretrained, assign_backbone, save_backbone
from robovision.lidar.pretraining.flow import carry
from robovision.lidar.pretraining.network import Trunk, at_points, cells_of, inside
from robovision.lidar.pretraining.options import MotionOptions, PretrainOptions, Weights
from robovision.lidar.pretraining.rotation import Rotation, classes
from robovision.lidar.pretraining.sweeps import Moment
from robovision.lidar.pretraining.training import Pretraining
from robovision.lidar.pretraining.views import View, make_batch
from robovision.lidar.simulate import write_sequence
from robovision.lidar.simulate_options import SimulateOptions
from robovision.lidar.transforms import Similarity
from robovision.processes import Processes
from robovision.run import Run
from robovision.types import PointCloud
from tests.lidar_scenes import CENTER

GROUND = Grid((0.0, -4.0, -3.0), (8.0, 4.0, 1.0), (1.0, 1.0, 4.0))


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sequences of two frames of a small sensor."""
    out = tmp_path_factory.mktemp("streets")
    for number in range(2):
        write_sequence(SimulateOptions(scenes=2, frames=2, sensor="mini-16"), out, number)
    return out


def options_for(streets: Path, **changes: Any) -> PretrainOptions:
    base = PretrainOptions(
        data=(streets,), model="tiny", steps=2, batch=2, points=64, width=8, checkpoint_every=1, device="cpu",
        precision="float32", threads=1,
    )  # fmt: skip
    return dataclasses.replace(base, **changes).resolved()


@pytest.fixture(scope="module")
def pretrained(streets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of two steps of the whole method."""
    path = tmp_path_factory.mktemp("runs") / "run"
    options = options_for(streets)
    metrics = Pretraining(Run.create(path, "pretrain lidar", options, 0), options, Processes()).execute()
    assert {m.name for m in metrics} == {"contrast", "rotation", "flow", "training_time"}
    return path


def moment() -> Moment:
    generator = torch.Generator().manual_seed(0)
    low, size = torch.tensor(GROUND.low), torch.tensor(GROUND.high) - torch.tensor(GROUND.low)
    now, before = (torch.rand(60, 3, generator=generator) * size + low for _ in range(2))
    return Moment(now, before, torch.tensor([1.0, 0.0, 0.0]).expand(60, 3))


def test_views_tell_their_group_elements() -> None:
    generator = torch.Generator().manual_seed(1)
    batch = make_batch([moment(), moment()], ["before", "here", "turned", "spun"], MotionOptions(), generator)
    for name, view in batch.views.items():
        cloud = moment().before if name == "before" else moment().now
        for number, element in enumerate(view.elements):
            assert torch.allclose(view.points[view.sample == number], element.points(cloud))
    here, turned = batch.views["here"].elements, batch.views["turned"].elements
    assert batch.views["before"].elements == here and here[0] != here[1] and here[0].yaw == 0
    assert turned[0].yaw != 0 and turned[0].scale == 1 and not turned[0].mirror
    now = here[0].vectors(moment().flow)
    assert torch.allclose(batch.flow[:60], now)
    again = make_batch([moment(), moment()], ["spun", "turned", "here", "before"], MotionOptions(),
                       torch.Generator().manual_seed(1))  # fmt: skip
    assert torch.equal(again.views["spun"].points, batch.views["spun"].points) and again.seed == batch.seed


def test_contrast_rewards_equal_features_of_equal_points() -> None:
    unit = torch.eye(4)
    assert point_info_nce(unit, unit, 0.01) < 1e-6
    assert point_info_nce(unit, torch.ones(4, 4) / 2, 0.1) == pytest.approx(4 * math.log(4))
    assert point_info_nce(unit, unit.roll(1, 0), 0.01) > 100
    batch = make_batch([moment(), moment()], ["here", "there"], MotionOptions(), torch.Generator().manual_seed(0))
    here, there = batch.views["here"], batch.views["there"]
    rows = common(here, there, GROUND, 20, batch.generator())
    assert torch.bincount(here.sample[rows]).tolist() == [20, 20] and len(set(rows.tolist())) == 40
    for view in (here, there):
        assert inside(view.points[rows], GROUND).all()


def test_turns_fall_into_ten_classes() -> None:
    yaw = torch.linspace(-math.pi / 2, math.pi / 2, 10 * 2 + 1)[1::2]
    assert classes(yaw, math.pi / 2).tolist() == list(range(10))
    assert classes(torch.tensor([-math.pi / 2, math.pi / 2]), math.pi / 2).tolist() == [0, 9]


def test_a_turn_is_told_from_features_that_know_it() -> None:
    """A map that says how its sweep was turned where points are, and anything elsewhere, is read soon."""
    torch.manual_seed(0)
    options = PretrainOptions(model="tiny", objectives=("rotation",), width=16)
    trunk = Trunk(options.detector())
    rotation = Rotation(trunk, options)
    optimizer = torch.optim.Adam(rotation.parameters(), 0.02)
    generator = torch.Generator().manual_seed(0)
    curve = []
    for _ in range(100):
        batch = make_batch([moment() for _ in range(8)], ["turned"], options.motion, generator)
        view = batch.views["turned"]
        yaw = torch.tensor([element.yaw for element in view.elements])
        features = torch.randn(8, trunk.channels, 16, 16, generator=generator) / 10
        said = torch.stack([(2 * yaw).cos(), (2 * yaw).sin(), (4 * yaw).cos(), (4 * yaw).sin()], dim=1)
        _, cells = cells_of(view.points[:, :3], view.sample, trunk.config.grid, (16, 16))
        flat = features.permute(0, 2, 3, 1).reshape(-1, trunk.channels)
        flat[cells, :4] = said.repeat_interleave(16 * 16, 0)[cells]
        loss = rotation(batch, {"turned": flat.view(8, 16, 16, -1).permute(0, 3, 1, 2)})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    assert sum(curve[-10:]) / 10 < 0.5 * math.log(10) < sum(curve[:3]) / 3


def test_features_are_carried_along_the_flow() -> None:
    features = torch.arange(64.0).view(1, 1, 8, 8)
    place = torch.tensor([[2.5, -1.5, 0.0], [4.5, -1.5, 0.0], [7.5, 0.5, 0.0]])  # cells (2, 2), (2, 4), (4, 7)
    view = View(place, torch.zeros(3, dtype=torch.int64), (Similarity(),))
    assert at_points(features, place, view.sample, GROUND)[:, 0].tolist() == [18.0, 20.0, 39.0]
    flow = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0], [1.0, 0, 0]])  # two meet, and one leaves the map
    carried, reached = carry(features, view, flow, GROUND)
    assert reached.nonzero()[:, 0].tolist() == [2 * 8 + 3]
    assert carried[2 * 8 + 3, 0] == 19.0 and carried.count_nonzero() == 1


def test_rays_are_empty_before_their_ends() -> None:
    element = Similarity(translation=(0.0, 1.0, 0.0))
    points = element.points(torch.tensor([[5.0, 0.0, 0.0], [0.0, 0.0, 3.0]]))
    view = View(points, torch.zeros(2, dtype=torch.int64), (element,))
    places, _, full = ask(view, 9, torch.Generator().manual_seed(0))
    assert full.tolist() == [1, 1, 0, 0, 0, 0]
    reach = (places - torch.tensor([0.0, 1.0, 0.0])).norm(dim=1).view(3, 2).sort(dim=1).values
    assert torch.allclose(reach[0], torch.tensor([3 + DEPTH, 5 + DEPTH]), atol=1e-5)
    assert torch.allclose(reach[1], torch.tensor([3 - DEPTH, 5 - DEPTH]), atol=1e-5)
    assert (reach[2] <= torch.tensor([3.0, 5.0]) - DEPTH + 1e-5).all()


@pytest.mark.parametrize("name", ["pointcontrast", "strl", "also"])
def test_baselines_train(name: str, streets: Path, tmp_path: Path) -> None:
    options = options_for(streets, objectives=(name,), steps=1)
    metrics = Pretraining(Run.create(tmp_path / "run", "pretrain lidar", options, 0), options, Processes()).execute()
    assert metrics[0].name == name and metrics[0].value > 0
    assert (tmp_path / "run" / FILE).is_file()


def test_resumed_pretraining_is_the_same_bit_by_bit(pretrained: Path, tmp_path: Path) -> None:
    path = tmp_path / "again"
    shutil.copytree(pretrained, path)
    shutil.rmtree(path / "checkpoints" / "step-000002")
    (path / FILE).unlink()
    assert main(["pretrain", "lidar", "--resume", str(path)]) == 0
    assert (path / FILE).read_bytes() == (pretrained / FILE).read_bytes()
    assert (path / "curve.png").stat().st_size > 3000


def test_a_backbone_that_sees_no_places_starts_a_detector_that_sees_none(tmp_path: Path) -> None:
    path = tmp_path / FILE
    placeless = dataclasses.replace(CENTER, absolute=False)
    save_backbone(path, Trunk(placeless))
    assert as_pretrained(CENTER, path) == placeless == as_pretrained(placeless, path)
    assign_backbone(Detector(as_pretrained(CENTER, path)), path)
    with pytest.raises(UsageError, match=r"absolute: False, not True\nWhether .* --no-absolute"):
        assign_backbone(Detector(CENTER), path)
    save_backbone(path, Trunk(CENTER))
    assert as_pretrained(CENTER, path) == CENTER
    assert PretrainOptions(model="small").detector() == dataclasses.replace(MODELS["small"], absolute=False)
    assert PretrainOptions(model="small", absolute=True).detector() == MODELS["small"]


def test_a_backbone_starts_a_detector_of_its_model_only(pretrained: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    detector = Detector(MODELS["tiny"])
    head = detector.head.state_dict()
    assign_backbone(detector, pretrained)
    other = Detector(MODELS["tiny"])
    assert any(not torch.equal(a, b) for a, b in zip(detector.parameters(), other.parameters(), strict=True))
    assign_backbone(other, pretrained / FILE)
    for part in ("encoder", "backbone"):
        first, second = (getattr(model, part).state_dict() for model in (detector, other))
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(value, head[name]) for name, value in detector.head.state_dict().items())
    with pytest.raises(UsageError, match=r"another model:\n  grid: "):
        assign_backbone(Detector(MODELS["small"]), pretrained)
    with pytest.raises(UsageError, match="has not ended"):
        assign_backbone(detector, tmp_path)
    save_detector(tmp_path / "whole.safetensors", detector)
    with pytest.raises(UsageError, match="--start"):
        assign_backbone(detector, tmp_path / "whole.safetensors")
    with pytest.raises(UsageError, match="give one of them"):
        TrainOptions(start=tmp_path, pretrained=tmp_path)


def test_wrong_sweeps_are_named(streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    shutil.copytree(streets / "0000", data / "0000")
    arguments = ["pretrain", "lidar", "--data", str(data), "--model", "tiny", "--batch", "1", "--steps", "1"]
    flow = data / "0000" / "flow" / "000000.npz"
    arrays = dict(np.load(flow))
    np.savez(flow, **{name: value[:-1] for name, value in arrays.items()})
    assert main([*arguments, "--out", str(tmp_path / "a")]) == 2
    assert "is the flow of another sweep" in capsys.readouterr().err
    np.savez(flow, **{**arrays, "flow": np.full_like(arrays["flow"], np.nan)})
    assert main([*arguments, "--out", str(tmp_path / "e")]) == 2
    assert "points is not finite" in capsys.readouterr().err
    flow.unlink()
    assert main([*arguments, "--out", str(tmp_path / "b")]) == 2
    assert "has no flow" in capsys.readouterr().err
    (data / "0000" / "velodyne" / "000001.bin").unlink()
    assert main([*arguments, "--out", str(tmp_path / "c")]) == 2
    assert "two sweeps" in capsys.readouterr().err
    assert main([*arguments, "--ema", "1", "--out", str(tmp_path / "d")]) == 2


def test_sweeps_outside_the_grid_are_named(streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    shutil.copytree(streets / "0000", data / "0000")
    for path in (data / "0000" / "velodyne").iterdir():
        cloud = read_cloud(path)
        write_cloud(path, PointCloud(cloud.xyz + np.array([5000.0, 0, 0], np.float32), cloud.intensity))
    arguments = ["--data", str(data), "--model", "tiny", "--batch", "1", "--steps", "1", "--device", "cpu"]
    assert main(["pretrain", "lidar", *arguments, "--objectives", "contrast", "--out", str(tmp_path / "a")]) == 2
    said = capsys.readouterr().err
    assert "0 of" in said and "00000" in said and "lie where this model looks" in said
    arguments += ["--classes", "Car", "--out", str(tmp_path / "b")]
    with pytest.warns(UserWarning, match="beyond the point cloud"):
        assert main(["lidar", "train", *arguments]) == 2
    assert "lie where this model looks" in capsys.readouterr().err


def test_options_are_checked() -> None:
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"objectives": ()}, "at least one objective"),
        ({"objectives": ("flow", "flow")}, "each once"),
        ({"ema": 1.0}, "ema"),
        ({"temperature": 0.0}, "temperature"),
        ({"model": "tinny"}, "nearest"),
    )
    for changes, word in cases:
        with pytest.raises(UsageError, match=word):
            PretrainOptions(**changes)
    with pytest.raises(UsageError, match=r"weights\.flow must be positive"):
        Weights(flow=0)
    with pytest.raises(UsageError, match="turn positive"):
        MotionOptions(turn=0)
