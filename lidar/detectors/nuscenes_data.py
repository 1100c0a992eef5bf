"""nuScenes as labelled sweeps to learn from: the LiDAR's key frames by scene, with the boxes of its own tables."""

from __future__ import annotations

import functools
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robovision.errors import UsageError
from robovision.lidar.nuscenes_boxes import CLASSES
from robovision.lidar.nuscenes_tables import SensorPose, read_table, row_pose, to_sensor
from robovision.lidar.nuscenes_truth import CATEGORIES, LIDAR
from robovision.lidar.rotations import quaternion_to_yaw
from robovision.types import Boxes3D

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Keyframe:
    """A sweep of the LiDAR: its file, scene and time, the sensor's pose, and the annotations with their classes."""

    path: Path
    scene: str
    time: int
    sensor: SensorPose
    annotations: tuple[tuple[str, Row], ...]


def is_nuscenes(folder: Path) -> bool:
    """Whether a folder holds the dataset: `samples`, and tables in `v1.0-*`."""
    return (folder / "samples" / LIDAR).is_dir() and any(folder.glob("v1.0-*/sample_data.json"))


def find_scenes(root: Path) -> dict[str, tuple[Path, ...]]:
    """The key frames that are there, in order of time, by the scenes' names.

    Raises:
        UsageError: if a table is missing or damaged, or none of its key frames is there.
    """
    scenes: dict[str, list[Keyframe]] = defaultdict(list)
    for frame in _index(root.resolve()).values():
        if frame.path.is_file():
            scenes[frame.scene].append(frame)
    if not scenes:
        raise UsageError(f"{root} holds none of the sweeps that its tables name; download samples/{LIDAR} too")
    return {name: tuple(f.path for f in sorted(found, key=lambda f: f.time)) for name, found in sorted(scenes.items())}


def find_root(cloud: Path) -> Path | None:
    """The dataset that a sweep `samples/LIDAR_TOP/X.pcd.bin` is of; None if it is of none."""
    if cloud.parent.name != LIDAR or len(cloud.parents) < 3:
        return None
    return cloud.parents[2] if is_nuscenes(cloud.parents[2]) else None


def read_truth(root: Path, cloud: Path) -> Boxes3D:
    """The boxes of a key frame in the sensor's frame; of the classes that nuScenes evaluates, with points in them.

    Raises:
        UsageError: if the tables don't know the sweep.
    """
    frame = _index(root.resolve()).get(cloud.name)
    if frame is None:
        raise UsageError(f"{cloud} is no key frame of the tables in {root}")
    seen = [(name, row) for name, row in frame.annotations if row["num_lidar_pts"] > 0]
    size = np.array([row["size"] for _, row in seen], np.float64).reshape(-1, 3)[:, [1, 0, 2]]
    yaw = quaternion_to_yaw(np.array([row["rotation"] for _, row in seen], np.float64).reshape(-1, 4))
    centers = np.array([row["translation"] for _, row in seen], np.float64).reshape(-1, 3)
    labels = np.array([CLASSES.index(name) for name, _ in seen], np.int64)
    return to_sensor(Boxes3D(centers, size, yaw, labels, CLASSES, frame="global"), frame.sensor)


@functools.lru_cache(maxsize=2)
def _index(root: Path) -> dict[str, Keyframe]:
    """The LiDAR's key frames of all tables of a dataset, by the names of their files."""
    found: dict[str, Keyframe] = {}
    for tables in sorted(root.glob("v1.0-*")):
        found |= {frame.path.name: frame for frame in _keyframes(root, tables)}
    return found


def _keyframes(root: Path, tables: Path) -> list[Keyframe]:
    names = ("sample", "scene", "ego_pose", "calibrated_sensor", "instance", "category")
    rows = {name: {row["token"]: row for row in read_table(tables, name)} for name in names}
    of_sample: dict[str, list[tuple[str, Row]]] = defaultdict(list)
    for row in read_table(tables, "sample_annotation"):
        kind = rows["category"][rows["instance"][row["instance_token"]]["category_token"]]["name"]
        if kind in CATEGORIES:
            of_sample[row["sample_token"]].append((CATEGORIES[kind], row))
    frames = []
    for row in read_table(tables, "sample_data"):
        if row["is_key_frame"] and f"/{LIDAR}/" in row["filename"]:
            token = row["sample_token"]
            pose = row_pose(rows["ego_pose"][row["ego_pose_token"]])
            mount = row_pose(rows["calibrated_sensor"][row["calibrated_sensor_token"]])
            scene = str(rows["scene"][rows["sample"][token]["scene_token"]]["name"])
            sensor = SensorPose(token, pose @ mount)
            path = root / row["filename"]
            frames.append(Keyframe(path, scene, row["timestamp"], sensor, tuple(of_sample[token])))
    return frames
