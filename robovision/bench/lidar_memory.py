"""Memory of the evaluations of nuScenes and Waymo beside ground truth and detections, over the number of frames."""

from __future__ import annotations

import time

import numpy as np

from robovision.bench.timing import markdown, peak_megabytes
from robovision.lidar import nuscenes_boxes, nuscenes_metric, waymo_boxes, waymo_metric
from robovision.lidar.nuscenes_boxes import NuScenesBoxes
from robovision.lidar.waymo_boxes import WaymoBoxes
from robovision.types import Array, Boxes3D

TRUTHS, DETECTIONS = 20, 40
"""Boxes of a frame."""

Rows = tuple[Array, Array, Array, Array]
"""Centre [N, 3] beside the car, size [N, 3], yaw [N], number [N] of the class."""


def table(frames: tuple[int, ...]) -> str:
    """One row for each evaluation and number of frames."""
    rows = []
    for count in frames:
        for name, measure in (("nuScenes", _nuscenes), ("Waymo", _waymo)):
            held, peak, seconds = measure(count)
            memory = "-" if peak is None else f"{peak:.1f}"
            rows.append([name, str(count), str(count * DETECTIONS), f"{seconds:.2f}", f"{held:.1f}", memory])
    heads = ("evaluation", "frames", "detections", "seconds", "truth and detections, MB", "peak beside them, MB")
    return f"Memory of the other evaluations, made frames of {TRUTHS} boxes\n\n" + markdown(heads, rows)


def nuscenes(frames: int) -> tuple[NuScenesBoxes, NuScenesBoxes]:
    """Ground truth and detections of made samples."""
    made = _made(frames, len(nuscenes_boxes.CLASSES))
    return _nuscenes_boxes(frames, made[0], TRUTHS), _nuscenes_boxes(frames, made[1], DETECTIONS)


def waymo(frames: int) -> tuple[WaymoBoxes, WaymoBoxes]:
    """Ground truth and detections of made frames."""
    made = _made(frames, len(waymo_boxes.CLASSES))
    return _waymo_boxes(frames, made[0], TRUTHS), _waymo_boxes(frames, made[1], DETECTIONS)


def _nuscenes(frames: int) -> tuple[float, float | None, float]:
    both = nuscenes(frames)
    held = sum(getattr(boxes, name).nbytes for boxes in both for name in list(boxes.__dataclass_fields__)[1:]) / 1e6
    began = time.process_time()
    peak = peak_megabytes(lambda: nuscenes_metric.score(*both))
    return held, peak, time.process_time() - began


def _waymo(frames: int) -> tuple[float, float | None, float]:
    both = waymo(frames)
    arrays = [a for part in both for a in (part.boxes.centers, part.boxes.sizes, part.boxes.yaw, part.boxes.labels)]
    arrays += [a for part in both for a in (part.points, part.difficulty, part.boxes.scores) if a is not None]
    held = sum(a.nbytes for a in arrays) / 1e6
    began = time.process_time()
    peak = peak_megabytes(lambda: waymo_metric.score(*both))
    return held, peak, time.process_time() - began


def _made(frames: int, classes: int) -> tuple[Rows, Rows]:
    """Ground truth, and detections: each of the truth moved a little, and as many that are not there."""
    rng = np.random.default_rng(0)
    rows, strange = (_anywhere(rng, frames * TRUTHS, classes) for _ in range(2))
    moved = rows[0] + rng.normal(0, 0.2, rows[0].shape), *rows[1:]
    parts = [
        np.concatenate([a.reshape(frames, TRUTHS, -1), b.reshape(frames, TRUTHS, -1)], axis=1)
        for a, b in zip(moved, strange, strict=True)
    ]
    center, size, yaw, label = (part.reshape(frames * DETECTIONS, -1) for part in parts)
    return rows, (center, size, yaw[:, 0], label[:, 0].astype(np.int64))


def _anywhere(rng: np.random.Generator, count: int, classes: int) -> Rows:
    center, size = rng.uniform([-60, -60, -1], [60, 60, 1], (count, 3)), rng.uniform(1, 4, (count, 3))
    return center, size, rng.uniform(-3, 3, count), rng.integers(0, classes, count)


def _nuscenes_boxes(frames: int, rows: Rows, each: int) -> NuScenesBoxes:
    center, size, yaw, label = rows
    count, scored = frames * each, each == DETECTIONS
    rotation = np.stack([np.cos(yaw / 2), 0 * yaw, 0 * yaw, np.sin(yaw / 2)], axis=1)
    return NuScenesBoxes(
        tuple(f"sample{n:06d}" for n in range(frames)),
        np.repeat(np.arange(frames), each),
        np.array(nuscenes_boxes.CLASSES)[label],
        np.full(count, "vehicle.moving"),
        center + 1000,
        size,
        rotation,
        np.zeros((count, 2)),
        np.linspace(0, 1, count) if scored else np.full(count, -1.0),
        center,
        np.full(count, -1 if scored else 9),
    )


def _waymo_boxes(frames: int, rows: Rows, each: int) -> WaymoBoxes:
    center, size, yaw, label = rows
    count = frames * each
    scores = np.linspace(0, 1, count) if each == DETECTIONS else None
    return WaymoBoxes(
        tuple(name for n in range(frames) for name in (f"segment/{n}",) * each),
        Boxes3D(center, size, yaw, label, waymo_boxes.CLASSES, scores, frame="vehicle"),
        ("",) * count,
        np.full(count, 9),
        np.zeros(count, np.int64),
    )
