from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robovision.cli import main
from robovision.errors import UsageError
from robovision.lidar.box_files import read_boxes
from robovision.lidar.boxes import bev_iou, points_in_boxes, to_tensor
from robovision.lidar.clouds import read_cloud
from robovision.lidar.collisions import keep_apart
from robovision.lidar.flow_metric import read_flow_truth
from robovision.lidar.kitti_calibration import objects_to_boxes, read_calibration
from robovision.lidar.kitti_labels import read_labels
from robovision.lidar.kitti_tracking import read_tracks
from robovision.lidar.sensors import Sensor, spinning
from robovision.lidar.simulate import exact_flow, simulate
from robovision.lidar.simulate_options import SimulateOptions
from robovision.lidar.streets import Actor, Shape, Street
from robovision.lidar.sweep import Sweep, take_sweep
from robovision.lidar.traffic import make_street

OPTIONS = SimulateOptions(scenes=2, frames=2, sensor="vlp-16", seed=3)
SMALL = spinning(np.linspace(2, -20, 16), 180, noise=0.0, loss=0.0, dimmest=1e-9)


def nothing(done: int) -> None:
    pass


def sweep_of(street: Street, sensor: Sensor = SMALL) -> Sweep:
    return take_sweep(sensor, street.shapes, street.ego, 0.0, street.albedo, np.random.default_rng(0))


def test_nobody_meets_anybody_in_a_street() -> None:
    for seed, seconds in ((0, 2.0), (1, 2.0), (3, 6.0)):
        street = make_street(np.random.default_rng(seed), seconds)
        for time in np.linspace(0, seconds, 5):
            boxes = to_tensor(street.boxes(float(time)))
            car = torch.tensor([[0, 0, 0, 4, 1.8, 1.5, 0]], dtype=torch.float64)
            overlap = bev_iou(torch.cat([car, boxes]), torch.cat([car, boxes]))
            assert overlap.fill_diagonal_(0).max() < 1e-9
        assert {actor.name for actor in street.actors} >= {"", "Car", "Pedestrian", "Cyclist"}
        # The sensor's car stays in its street.
        assert len(street.actors) > 90
        places = np.array([actor.place for actor in street.actors])
        end = street.ego(np.array([seconds]))[0, :3, 3]
        assert end[0] > 0
        assert np.linalg.norm(places - end[:2], axis=1).max() > 40


def test_who_meets_an_earlier_one_does_not_stay() -> None:
    poses = np.tile(np.eye(4), (2, 4, 1, 1))
    poses[:, :, 0, 3] = [[0, 10, 3, 10], [5, 10, 40, 12]]
    sizes = np.array([[4, 2, 1], [4, 2, 1], [4, 2, 1], [0, 0, 0]], float)
    # The third and the first at the start; a point meets nobody.
    assert keep_apart(poses, sizes).tolist() == [True, True, False, True]
    poses[1, 0, 0, 3] = 7
    assert keep_apart(poses, sizes).tolist() == [True, False, False, True]


def test_a_sweep_sees_a_wall_where_it_stands() -> None:
    wall = Actor((Shape(0, (0, 0, 0), (0.5, 500, 500), 0.5),), (10.5, 0), 0)
    street = Street((wall,), speed=10.0, turn=0.0)
    sweep = sweep_of(street)
    # The sensor drives while it turns; the points are given as they stand at the start.
    assert len(sweep.cloud) > 500
    np.testing.assert_allclose(sweep.cloud.xyz[:, 0], 10, atol=1e-4)
    flow = exact_flow(street, sweep, 0.0, 0.1)
    np.testing.assert_allclose(flow.flow, np.tile([-1.0, 0, 0], (len(sweep.cloud), 1)), atol=1e-5)
    assert not flow.dynamic.any()


@pytest.mark.parametrize(("albedo", "spread"), [(0.5, 0.015), (0.0625, 0.03), (0.001, 0.1)])
def test_distances_are_less_exact_where_the_signal_is_dim(albedo: float, spread: float) -> None:
    wall = Actor((Shape(0, (0, 0, 0), (0.5, 60, 60), albedo),), (8.5, 0), 0)
    sensor = dataclasses.replace(SMALL, azimuths=np.linspace(-0.05, 0.05, 400), noise=0.015, dim_noise=0.1)
    sweep = sweep_of(Street((wall,), speed=0.0, turn=0.0), sensor)
    ahead = np.abs(sweep.cloud.xyz[:, 2]) < 0.5
    errors = np.linalg.norm(sweep.cloud.xyz[ahead], axis=1) - sweep.ideal[ahead]
    assert len(errors) > 500
    assert errors.std() == pytest.approx(spread, rel=0.1)


@pytest.mark.parametrize("name", ["hdl-64e", "vlp-16", "os1-128", "mini-16", "solid-state"])
def test_what_stands_free_before_any_sensor_is_not_occluded(name: str, tmp_path: Path) -> None:
    simulate(SimulateOptions(scenes=1, frames=1, sensor=name, seed=3), tmp_path, 1, nothing)
    folder = tmp_path / "0000"
    boxes = read_boxes(folder / "boxes" / "000000.npz")
    occlusion = read_labels(folder / "label_2" / "000000.txt").values[:, 1]
    near = np.linalg.norm(boxes.centers[:, :2], axis=1) < 15
    ahead = np.abs(np.arctan2(boxes.centers[:, 1], boxes.centers[:, 0])) < 0.9
    assert (occlusion[near & ahead] == 0).any()
    assert (occlusion > 0).any()


@pytest.mark.parametrize("distance", [10.0, 40.0])
def test_intensity_depends_on_incidence_and_distance_as_the_sensor_says(distance: float) -> None:
    wall = Actor((Shape(0, (0, 0, 0), (0.5, 60, 60), 0.8),), (distance + 0.5, 0), 0)
    street = Street((wall,), speed=0.0, turn=0.0)
    plain = sweep_of(street)
    assert plain.cloud.intensity is not None
    ahead = plain.cloud.xyz[:, 0] > distance - 1e-3
    cosine = distance / plain.ideal[ahead]
    assert cosine.min() < 0.6
    expected = 0.8 * cosine * np.minimum(1, 20 / plain.ideal[ahead])
    np.testing.assert_allclose(plain.cloud.intensity[ahead], expected, atol=1e-4)
    calibrated = sweep_of(street, dataclasses.replace(SMALL, incidence=0.0, fades=(20.0, 50.0))).cloud.intensity
    assert calibrated is not None
    expected = 0.8 * np.clip((50 - plain.ideal[ahead]) / 30, 0, 1)
    np.testing.assert_allclose(calibrated[ahead], expected, atol=1e-4)


@pytest.mark.parametrize("wrong", [{"incidence": -1.0}, {"grain": -0.1}, {"fades": (50.0, 20.0)}])
def test_wrong_intensities_of_a_sensor_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="fades that rise"):
        dataclasses.replace(SMALL, **wrong)


def test_flow_of_what_moves_is_exact() -> None:
    car = Actor((Shape(0, (0, 0, 1), (2, 1, 1), 0.5),), (12, -1.75), np.pi, "Car", (4, 2, 2), speed=8.0)
    street = Street((car,), speed=0.0, turn=0.0)
    flow = exact_flow(street, sweep_of(street), 0.0, 0.1)
    np.testing.assert_allclose(flow.flow, np.tile([-0.8, 0, 0], (len(flow.flow), 1)), atol=1e-5)
    assert flow.dynamic.all()
    assert flow.foreground.all()


def test_sequences_are_complete_true_and_reproducible(tmp_path: Path) -> None:
    simulate(OPTIONS, tmp_path / "a", 2, nothing)
    folder = tmp_path / "a" / "0001"
    assert len((folder / "poses.txt").read_text().splitlines()) == 2
    tracks = read_tracks(folder / "labels.txt")
    assert set(tracks.frames.tolist()) == {0, 1}
    for frame in ("000000", "000001"):
        cloud = read_cloud(folder / "velodyne" / f"{frame}.bin")
        boxes = read_boxes(folder / "boxes" / f"{frame}.npz")
        truth = read_flow_truth(folder / "flow" / f"{frame}.npz")
        assert len(truth.flow) == len(cloud) > 10000
        inside = points_in_boxes(torch.from_numpy(cloud.xyz.copy()).double(), to_tensor(boxes))
        # Points on road users that stand lie in boxes, but for noise; what moves does so while the sweep is taken.
        grown = to_tensor(boxes) + torch.tensor([0, 0, 0, 0.4, 0.4, 0.4, 0], dtype=torch.float64)
        held = points_in_boxes(torch.from_numpy(cloud.xyz.copy()).double(), grown).any(dim=0).numpy()
        assert held[truth.foreground & ~truth.dynamic].mean() > 0.97
        assert inside.any(dim=1).float().mean() > 0.8
        labels = read_labels(folder / "label_2" / f"{frame}.txt")
        again = objects_to_boxes(labels, read_calibration(folder / "calib" / f"{frame}.txt"))
        np.testing.assert_allclose(again.centers, boxes.centers, atol=1e-4)
    simulate(OPTIONS, tmp_path / "b", 1, nothing)
    for path in sorted((tmp_path / "a").rglob("*.bin")) + sorted((tmp_path / "a").rglob("*.txt")):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_what_was_interrupted_is_made_again_and_what_is_done_stays(tmp_path: Path) -> None:
    options = SimulateOptions(scenes=1, frames=1, sensor="vlp-16")
    simulate(options, tmp_path, 1, nothing)
    before = (tmp_path / "0000" / "velodyne" / "000000.bin").stat().st_mtime_ns
    (tmp_path / "0001" / "velodyne").mkdir(parents=True)
    (tmp_path / "0001" / "velodyne" / "000007.bin").write_bytes(b"left over")
    heard: list[int] = []
    simulate(SimulateOptions(scenes=2, frames=1, sensor="vlp-16"), tmp_path, 1, heard.append)
    assert heard == [1, 2]
    assert (tmp_path / "0000" / "velodyne" / "000000.bin").stat().st_mtime_ns == before
    assert [p.name for p in (tmp_path / "0001" / "velodyne").iterdir()] == ["000000.bin"]
    with pytest.raises(UsageError, match="holds sequences of seed 0, not 1"):
        simulate(SimulateOptions(scenes=1, frames=1, sensor="vlp-16", seed=1), tmp_path, 1, nothing)


def test_the_command_refuses_wrong_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lidar", "simulate", "--sensor", "vlp16"]) == 2
    assert "nearest: vlp-16" in capsys.readouterr().err
    with pytest.raises(UsageError, match="at least 1"):
        SimulateOptions(scenes=0)
