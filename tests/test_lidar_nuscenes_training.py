"""Training on nuScenes: a dataset of two scenes in its own layout, made by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robovision.cli import main
from robovision.errors import UsageError
from robovision.lidar.boxes import points_in_boxes
from robovision.lidar.clouds import write_cloud
from robovision.lidar.detectors.data import find_sequences, read_scene
from robovision.lidar.detectors.files import load_detector
from robovision.lidar.detectors.train_options import TrainOptions
from robovision.types import PointCloud
from tests.lidar_scenes import boxes, scene

CONFIG = TrainOptions(model="tiny", classes=("car", "pedestrian")).detector()


@pytest.fixture(scope="module")
def nuscenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of two key frames; the sensor stands at (100, 50, 1.5) and looks along the world's y."""
    root = tmp_path_factory.mktemp("nuscenes")
    (root / "v1.0-mini").mkdir()
    (root / "samples" / "LIDAR_TOP").mkdir(parents=True)
    points = scene(4).points.numpy()
    tables: dict[str, list[dict[str, Any]]] = {
        "scene": [{"token": f"scene{k}", "name": f"scene-000{k}"} for k in range(2)],
        "sample": [{"token": f"s{k}", "scene_token": f"scene{k // 2}"} for k in range(4)],
        "category": [
            {"token": "c0", "name": "vehicle.car"},
            {"token": "c1", "name": "human.pedestrian.adult"},
            {"token": "c2", "name": "animal"},
        ],
        "instance": [{"token": f"i{k}", "category_token": f"c{k}"} for k in range(3)],
        "ego_pose": [{"token": "e", "rotation": [math.sqrt(0.5), 0, 0, math.sqrt(0.5)], "translation": [100, 50, 0]}],
        "calibrated_sensor": [{"token": "m", "rotation": [1, 0, 0, 0], "translation": [0, 0, 1.5]}],
        "sample_data": [],
        "sample_annotation": [],
    }
    for k in range(4):
        name = f"samples/LIDAR_TOP/{3 - k if k < 2 else k + 2}.pcd.bin"  # not in the order of time
        write_cloud(root / name, PointCloud(points[:, :3], points[:, 3]))
        keys = {"sample_token": f"s{k}", "ego_pose_token": "e", "calibrated_sensor_token": "m"}
        tables["sample_data"].append({**keys, "filename": name, "is_key_frame": True, "timestamp": 1000 + k})
        tables["sample_data"].append(
            {**keys, "filename": f"sweeps/LIDAR_TOP/{k}", "is_key_frame": False, "timestamp": 0}
        )
        for j, (x, y, z, length, width, height, yaw) in enumerate([*boxes().boxes.tolist(), [5.0] * 7]):
            turn = (yaw + math.pi / 2) / 2
            tables["sample_annotation"].append(
                {
                    "sample_token": f"s{k}",
                    "instance_token": f"i{j}",
                    "translation": [100 - y, 50 + x, z + 1.5],
                    "size": [width, length, height],
                    "rotation": [math.cos(turn), 0, 0, math.sin(turn)],
                    "num_lidar_pts": 200,
                }
            )
    for name, rows in tables.items():
        (root / "v1.0-mini" / f"{name}.json").write_text(json.dumps(rows))
    return root


def test_scenes_are_sequences_in_order_of_time(nuscenes: Path) -> None:
    drives = find_sequences([nuscenes])
    assert [drive.name for drive in drives] == ["scene-0000", "scene-0001"]
    assert [path.name for path in drives[0].clouds] == ["3.pcd.bin", "2.pcd.bin"]
    assert [path.name for path in drives[1].clouds] == ["4.pcd.bin", "5.pcd.bin"]


def test_boxes_lie_where_the_sensor_sees_them(nuscenes: Path) -> None:
    found = read_scene(find_sequences([nuscenes])[0].clouds[0], CONFIG)
    truth = boxes()
    assert torch.equal(found.objects.labels, truth.labels)
    assert torch.allclose(found.objects.boxes[:, :6], truth.boxes[:, :6], atol=1e-4)
    assert (found.objects.boxes[:, 6] - truth.boxes[:, 6]).sin().abs().max() < 1e-4
    assert (points_in_boxes(found.points[:, :3], found.objects.boxes).sum(dim=1) >= 190).all()


def test_a_detector_trains_on_it_by_one_word(
    nuscenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["lidar", "train", "--data", str(nuscenes), "--model", "tiny", "--steps", "1", "--batch", "2"]
    arguments += ["--device", "cpu", "--precision", "float32", "--threads", "1", "--out", str(tmp_path / "run")]
    assert main([*arguments, "--classes", "car", "pedestrian"]) == 0
    assert load_detector(tmp_path / "run" / "detector.safetensors").config.classes == ("car", "pedestrian")
    assert json.loads((tmp_path / "run" / "results.json").read_text())["labels"] == {"car": 4, "pedestrian": 4}
    assert main([*arguments[:-1], str(tmp_path / "other")]) == 2
    assert "no label of class Car, Pedestrian, Cyclist" in (said := capsys.readouterr().err)
    assert "these hold car, pedestrian" in said


def test_missing_sweeps_are_said(nuscenes: Path, tmp_path: Path) -> None:
    (tmp_path / "samples" / "LIDAR_TOP").mkdir(parents=True)
    (tmp_path / "v1.0-mini").symlink_to(nuscenes / "v1.0-mini")
    with pytest.raises(UsageError, match="holds none of the sweeps"):
        find_sequences([tmp_path])
    stranger = nuscenes / "samples" / "LIDAR_TOP" / "x.pcd.bin"
    write_cloud(stranger, PointCloud(np.zeros((1, 3)), np.zeros(1)))
    with pytest.raises(UsageError, match=r"x\.pcd\.bin is no key frame"):
        read_scene(stranger, CONFIG)
