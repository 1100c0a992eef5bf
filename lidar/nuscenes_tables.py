"""Where the LiDAR stood when a nuScenes sweep was taken, from the dataset's tables (Caesar et al., 2020)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robovision.errors import UsageError
from robovision.lidar.checks import read_bytes
from robovision.lidar.rotations import quaternion_to_matrix
from robovision.types import Array, Boxes3D


@dataclass(frozen=True, eq=False)
class SensorPose:
    """The token of the sample that a sweep belongs to, and the LiDAR's pose in the global frame, float64 [4, 4]."""

    sample: str
    pose: Array


def find_sensor_pose(cloud: Path) -> SensorPose:
    """Sample and pose of a sweep such as `samples/LIDAR_TOP/X.pcd.bin`, from the tables in `v1.0-*` beside `samples`.

    Raises:
        UsageError: if there are no tables, or they don't know the sweep.
    """
    root = cloud.absolute().parents[min(2, len(cloud.absolute().parents) - 1)]
    name = cloud.absolute().relative_to(root).as_posix()
    for folder in sorted(root.glob("v1.0-*")):
        sweep = next((row for row in read_table(folder, "sample_data") if row.get("filename") == name), None)
        if sweep is not None:
            with fitting(folder):
                parts = (_row(folder, table, sweep[f"{table}_token"]) for table in ("ego_pose", "calibrated_sensor"))
                ego, mount = map(row_pose, parts)
                return SensorPose(sweep["sample_token"], ego @ mount)
    raise UsageError(
        f"nuScenes' boxes are in the global frame, and no table {root}/v1.0-*/sample_data.json knows {name}; "
        "keep the dataset's layout, or write the boxes in the sensor's frame as .npz"
    )


def to_sensor(boxes: Boxes3D, sensor: SensorPose) -> Boxes3D:
    """Boxes of the global frame in the sensor's frame."""
    back = np.linalg.inv(sensor.pose)
    centers = boxes.centers.astype(np.float64) @ back[:3, :3].T + back[:3, 3]
    ahead = np.stack([np.cos(boxes.yaw), np.sin(boxes.yaw), 0 * boxes.yaw], axis=1) @ back[:3, :3].T
    velocities = None if boxes.velocities is None else boxes.velocities @ back[:2, :2].T
    yaw = np.arctan2(ahead[:, 1], ahead[:, 0])
    return Boxes3D(centers, boxes.sizes, yaw, boxes.labels, boxes.classes, boxes.scores, velocities)


def read_table(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows of one table.

    Raises:
        UsageError: if it is missing or damaged.
    """
    path = folder / f"{name}.json"
    try:
        rows = json.loads(read_bytes(path))
    except ValueError as error:
        raise UsageError(f"{path} is no JSON or is cut off ({error}); download it again") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"{path} must hold a list of rows, each with its fields by name")
    return rows


@contextlib.contextmanager
def fitting(folder: Path) -> Iterator[None]:
    """Raise UsageError naming the folder where rows of its tables lack something or point to no row."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{folder}: a row lacks a field, has a wrong one, or points to a row of another table that is not there "
            f"({type(error).__name__}: {error}); download all tables again, of one version"
        ) from error


def _row(folder: Path, name: str, token: str) -> dict[str, Any]:
    found = next((row for row in read_table(folder, name) if row.get("token") == token), None)
    if found is None:
        raise UsageError(f"{folder / name}.json has no row {token}; download the tables again")
    return found


def row_pose(row: dict[str, Any]) -> Array:
    """The pose, float64 [4, 4], that a row of ego_pose or calibrated_sensor tells."""
    pose = np.eye(4)
    pose[:3, :3] = quaternion_to_matrix(np.array([row["rotation"]], np.float64))[0]
    pose[:3, 3] = row["translation"]
    return pose
