"""Boxes in NPZ files: arrays named as in `Boxes3D`, everything kept bit by bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from robovision.errors import UsageError
from robovision.lidar.clouds import read_arrays, write_arrays
from robovision.types import Boxes3D

NEEDED = ("centers", "sizes", "yaw", "labels", "classes")
OPTIONAL = ("scores", "velocities")


def read_boxes(path: Path) -> Boxes3D:
    """The boxes of an NPZ file.

    Raises:
        UsageError: naming the file, if arrays are missing or break the convention of `Boxes3D`.
    """
    arrays = read_arrays(path)
    missing = [name for name in NEEDED if name not in arrays]
    if missing:
        raise UsageError(f"{path}: arrays {', '.join(missing)} are missing; it holds {', '.join(arrays) or 'nothing'}")
    centers, sizes, yaw, labels = (arrays[name] for name in NEEDED[:4])
    scores, velocities = (arrays.get(name) for name in OPTIONAL)
    classes = tuple(map(str, arrays["classes"]))
    frame = str(arrays.get("frame", "lidar"))
    try:
        return Boxes3D(centers, sizes, yaw, labels, classes, scores, velocities, frame)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error


def write_boxes(path: Path, boxes: Boxes3D) -> None:
    """Write boxes to an NPZ file, atomically."""
    named = {name: getattr(boxes, name) for name in (*NEEDED[:4], *OPTIONAL)}
    arrays = {name: values for name, values in named.items() if values is not None}
    write_arrays(path, {**arrays, "classes": np.array(boxes.classes, dtype=np.str_), "frame": np.array(boxes.frame)})
