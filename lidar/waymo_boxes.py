"""Boxes as the Waymo Open Dataset 2.0 keeps them (Sun et al., 2020): Parquet with one row a box; needs pyarrow.

Convention: the vehicle's frame, x forward, y to the left, z up; geometric centre; length, width, height; heading
counter-clockwise from x. Detections are written the same way with a column `score` and, where the dataset's no-label
zones are known, a column `overlap_with_nlz`, which are ours.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robovision.errors import UsageError
from robovision.files import write_atomically
from robovision.lidar.argoverse import pyarrow_part, select
from robovision.lidar.checks import read_bytes
from robovision.types import Array, Boxes3D

CLASSES = ("VEHICLE", "PEDESTRIAN", "SIGN", "CYCLIST")
"""Types 1 to 4; 0 is unknown."""

SEGMENT, TIMESTAMP, OBJECT = "key.segment_context_name", "key.frame_timestamp_micros", "key.laser_object_id"
PART = "[LiDARBoxComponent]"
CENTER = tuple(f"{PART}.box.center.{axis}" for axis in "xyz")
SIZE = tuple(f"{PART}.box.size.{axis}" for axis in "xyz")
HEADING, TYPE = f"{PART}.box.heading", f"{PART}.type"
POINTS, DIFFICULTY = f"{PART}.num_lidar_points_in_box", f"{PART}.difficulty_level.detection"
SCORE, ZONE = "score", "overlap_with_nlz"
NEEDED = (SEGMENT, TIMESTAMP, *CENTER, *SIZE, HEADING, TYPE)


@dataclass(frozen=True, eq=False)
class WaymoBoxes:
    """N boxes of many frames.

    Convention:
        frames: name of the segment and timestamp in microseconds, joined by a slash, for each box.
        boxes: N boxes in the vehicle's frame; detections have scores.
        tracks: the identity of the object in each box.
        points: int64 [N], LiDAR points inside; -1 where unknown.
        difficulty: int64 [N], 1 or 2 as annotated; 0 where it is left to the number of points.
        unlabelled: bool [N], boxes that overlap with a no-label zone, where detections are never wrong; None: none do.
    """

    frames: tuple[str, ...]
    boxes: Boxes3D
    tracks: tuple[str, ...]
    points: Array
    difficulty: Array
    unlabelled: Array | None = None

    def at(self, frame: str) -> Boxes3D:
        """The boxes of one frame."""
        return select(self.boxes, np.array(self.frames) == frame)


def read_waymo_boxes(path: Path) -> WaymoBoxes:
    """The boxes of a Parquet file.

    Raises:
        UsageError: naming the file, if it is cut off, columns are missing, a type is unknown or a number is wrong.
    """
    read_bytes(path)
    try:
        table = pyarrow_part("pyarrow.parquet").read_table(path)
    except Exception as error:  # pyarrow raises many kinds for damaged files
        raise UsageError(f"{path} is no Parquet file or is cut off ({error}); write it again") from error
    missing = [name for name in NEEDED if name not in table.column_names]
    if missing:
        raise UsageError(f"{path}: columns {', '.join(missing)} are missing; there are {', '.join(table.column_names)}")
    columns = {name: table[name].to_numpy() for name in table.column_names}
    count = len(columns[TYPE])
    types = _whole(path, TYPE, columns, 0)
    wrong = np.flatnonzero((types < 1) | (types > len(CLASSES)))
    if len(wrong):
        raise UsageError(f"{path}, row {wrong[0]}: type {types[wrong[0]]} is none of 1..{len(CLASSES)} ({CLASSES})")
    try:
        boxes = Boxes3D(
            np.stack([columns[name] for name in CENTER], axis=1),
            np.stack([columns[name] for name in SIZE], axis=1),
            columns[HEADING],
            types - 1,
            CLASSES,
            columns.get(SCORE),
            frame="vehicle",
        )
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error
    keys = zip(columns[SEGMENT].tolist(), columns[TIMESTAMP].tolist(), strict=True)
    frames = tuple(sys.intern(f"{segment}/{timestamp}") for segment, timestamp in keys)  # one text for many boxes
    tracks = tuple(map(str, columns[OBJECT].tolist())) if OBJECT in columns else ("",) * count
    points, difficulty = _whole(path, POINTS, columns, -1), _whole(path, DIFFICULTY, columns, 0)
    return WaymoBoxes(frames, boxes, tracks, points, difficulty, _zones(path, columns.get(ZONE)))


def write_waymo_boxes(path: Path, content: WaymoBoxes) -> None:
    """Write boxes to a Parquet file, atomically.

    Raises:
        UsageError: if classes are not Waymo's, or the file can't be written.
    """
    boxes = content.boxes
    if boxes.classes != CLASSES:
        raise UsageError(f"{path}: Waymo's classes are {CLASSES}, got {boxes.classes}")
    keys = [frame.rsplit("/", 1) for frame in content.frames]
    columns: dict[str, Any] = {SEGMENT: [segment for segment, _ in keys], OBJECT: list(content.tracks)}
    columns[TIMESTAMP] = np.array([int(timestamp) for _, timestamp in keys], np.int64)
    columns |= {name: boxes.centers[:, k].astype(np.float64) for k, name in enumerate(CENTER)}
    columns |= {name: boxes.sizes[:, k].astype(np.float64) for k, name in enumerate(SIZE)}
    columns |= {HEADING: boxes.yaw.astype(np.float64), TYPE: (boxes.labels + 1).astype(np.int8)}
    columns |= {POINTS: content.points, DIFFICULTY: content.difficulty.astype(np.int8)}
    if boxes.scores is not None:
        columns[SCORE] = boxes.scores
    if content.unlabelled is not None:
        columns[ZONE] = content.unlabelled
    table = pyarrow_part("pyarrow").table(columns)
    with write_atomically(path) as file:
        pyarrow_part("pyarrow.parquet").write_table(table, file)


def _zones(path: Path, values: Array | None) -> Array | None:
    if values is not None and values.dtype != bool:
        raise UsageError(f"{path}: the column {ZONE} must hold true or false in every row, got {values.dtype}")
    return values


def _whole(path: Path, name: str, columns: Mapping[str, Array], missing: int) -> Array:
    """Whole numbers of one column, with `missing` where the column or the cell is empty."""
    if name not in columns:
        return np.full(len(columns[TYPE]), missing)
    try:
        values = columns[name].astype(np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}: the column {name} must hold whole numbers ({error})") from error
    whole: Array = np.where(np.isfinite(values), values, missing).astype(np.int64)
    return whole
