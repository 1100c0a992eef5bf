"""Argoverse 2 files (Wilson et al., 2021): sweeps, boxes and poses in Apache Feather; needs pyarrow.

Convention: the ego frame, x forward, y to the left, z up, on the ground below the rear axle. Boxes are geometric
centre, length, width, height and a quaternion.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robovision.errors import UsageError
from robovision.files import write_atomically
from robovision.lidar.checks import make_cloud, read_bytes
from robovision.lidar.rotations import quaternion_to_matrix, quaternion_to_yaw, yaw_to_quaternion
from robovision.types import NUMBERS, Array, Boxes3D, PointCloud

SIZES = ("length_m", "width_m", "height_m")
PLACE = ("tx_m", "ty_m", "tz_m")
QUATERNION = ("qw", "qx", "qy", "qz")


@dataclass(frozen=True, eq=False)
class Annotations:
    """The boxes of all sweeps of a log.

    Convention:
        timestamps: int64 [N], nanoseconds, of the sweep that each box belongs to.
        boxes: N boxes in the ego frame of their sweep; detections have scores.
        tracks: the identity of the object in each box.
        points: int64 [N], the points inside; -1 where unknown.
    """

    timestamps: Array
    boxes: Boxes3D
    tracks: tuple[str, ...]
    points: Array

    def at(self, timestamp: int) -> Boxes3D:
        """The boxes of one sweep."""
        return select(self.boxes, self.timestamps == timestamp)


def select(boxes: Boxes3D, wanted: Array) -> Boxes3D:
    """The boxes with those indices, or where that mask is true."""
    centers, sizes, yaw, labels = (a[wanted] for a in (boxes.centers, boxes.sizes, boxes.yaw, boxes.labels))
    scores, velocities = (None if a is None else a[wanted] for a in (boxes.scores, boxes.velocities))
    return Boxes3D(centers, sizes, yaw, labels, boxes.classes, scores, velocities, boxes.frame)


def read_sweep(path: Path) -> PointCloud:
    """A sweep in the ego frame; time is the offset of each point to the sweep's timestamp, which names the file."""
    table = read_feather(path, ("x", "y", "z", "intensity", "laser_number", "offset_ns"))
    xyz = np.stack([table[name] for name in "xyz"], axis=1).astype(np.float32)
    intensity = table["intensity"].astype(np.float32) / 255
    return make_cloud(path, xyz, intensity, table["offset_ns"] * 1e-9, table["laser_number"], frame="ego")


def write_sweep(path: Path, cloud: PointCloud) -> None:
    """Write a sweep at the format's precision: float16 coordinates, 256 intensities, at most 256 lasers."""
    zeros = np.zeros(len(cloud), np.float32)
    intensity, time, ring = (zeros if a is None else a for a in (cloud.intensity, cloud.time, cloud.ring))
    if len(cloud) and (ring.min() < 0 or ring.max() > 255 or np.abs(cloud.xyz).max() > np.finfo(np.float16).max):
        raise UsageError(f"{path}: Argoverse 2 has room for lasers 0..255 and coordinates up to 65504 m; choose .npz")
    columns = {name: cloud.xyz[:, k].astype(np.float16) for k, name in enumerate("xyz")}
    columns |= {"intensity": np.round(intensity * 255).astype(np.uint8), "laser_number": ring.astype(np.uint8)}
    write_feather(path, {**columns, "offset_ns": np.round(time.astype(np.float64) * 1e9).astype(np.int32)})


def read_annotations(path: Path) -> Annotations:
    """The boxes of a log, or detections if there is a column `score`; pitch and roll are left out.

    Raises:
        UsageError: naming the file, if columns are missing or numbers are wrong.
    """
    table = read_feather(path, ("timestamp_ns", "category", *SIZES, *QUATERNION, *PLACE), ("category",))
    names = tuple(table["category"].tolist())
    classes = tuple(sorted(set(names)))
    count = len(names)
    tracks = tuple(map(str, table["track_uuid"].tolist())) if "track_uuid" in table else ("",) * count
    try:
        boxes = Boxes3D(
            _stack(table, PLACE),
            _stack(table, SIZES),
            quaternion_to_yaw(_stack(table, QUATERNION)),
            np.array([classes.index(name) for name in names], np.int64),
            classes,
            table.get("score"),
            frame="ego",
        )
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error
    return Annotations(table["timestamp_ns"], boxes, tracks, table.get("num_interior_pts", np.full(count, -1)))


def write_annotations(path: Path, annotations: Annotations) -> None:
    """Write the boxes of a log; with scores, as detections."""
    boxes = annotations.boxes
    columns: dict[str, Array] = {"timestamp_ns": annotations.timestamps, "track_uuid": np.array(annotations.tracks)}
    columns["category"] = np.array(boxes.classes)[boxes.labels] if len(boxes) else np.array([], str)
    for names, values in ((SIZES, boxes.sizes), (QUATERNION, yaw_to_quaternion(boxes.yaw)), (PLACE, boxes.centers)):
        columns |= {name: values[:, k].astype(np.float64) for k, name in enumerate(names)}
    columns["num_interior_pts"] = annotations.points
    if boxes.scores is not None:
        columns["score"] = boxes.scores
    write_feather(path, columns)


def read_poses(path: Path) -> tuple[Array, Array]:
    """Timestamps [N], nanoseconds, and poses of the ego in the city, float64 [N, 4, 4]."""
    table = read_feather(path, ("timestamp_ns", *QUATERNION, *PLACE))
    poses = np.tile(np.eye(4), (len(table["timestamp_ns"]), 1, 1))
    poses[:, :3, :3] = quaternion_to_matrix(_stack(table, QUATERNION))
    poses[:, :3, 3] = _stack(table, PLACE)
    return table["timestamp_ns"], poses


def read_feather(path: Path, needed: Sequence[str], text: Sequence[str] = ()) -> dict[str, Array]:
    """All columns of a Feather file.

    Raises:
        UsageError: if it can't be read, is cut off, or a needed column is missing, has empty cells or, unless it is
            one of `text`, no numbers.
    """
    feather = pyarrow_part("pyarrow.feather")
    read_bytes(path)
    try:
        table = feather.read_table(path)
        table.validate(full=True)
    except Exception as error:  # pyarrow raises many kinds for damaged files
        raise UsageError(f"{path} is no Feather file or is cut off ({error}); write it again") from error
    missing = [name for name in needed if name not in table.column_names]
    if missing:
        raise UsageError(f"{path}: columns {', '.join(missing)} are missing; there are {', '.join(table.column_names)}")
    empty = [name for name in needed if table[name].null_count]
    if empty:
        raise UsageError(f"{path}: columns {', '.join(empty)} have empty cells")
    columns = {name: table[name].to_numpy() for name in table.column_names}
    words = [name for name in needed if name not in text and columns[name].dtype.kind not in NUMBERS]
    if words:
        raise UsageError(f"{path}: columns {', '.join(words)} must hold numbers, got {columns[words[0]].dtype}")
    return columns


def write_feather(path: Path, columns: Mapping[str, Array]) -> None:
    """Write columns of equal length to a Feather file, atomically."""
    table = pyarrow_part("pyarrow").table({name: _plain(values) for name, values in columns.items()})
    with write_atomically(path) as file:
        pyarrow_part("pyarrow.feather").write_feather(table, file)


def _plain(values: Array) -> Any:
    return values.tolist() if values.dtype.kind in "UO" else np.ascontiguousarray(values)


def _stack(table: Mapping[str, Array], names: Sequence[str]) -> Array:
    return np.stack([table[name] for name in names], axis=1).astype(np.float64)


def pyarrow_part(name: str) -> Any:
    """The module `pyarrow`, or a part of it such as `pyarrow.feather`; UsageError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError("Feather and Parquet files need pyarrow: pip install pyarrow") from error
