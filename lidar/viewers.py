"""Point clouds with boxes in other people's viewers: Open3D's window, Rerun's viewer, Rerun's files."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from robovision.errors import UsageError
from robovision.lidar.birdseye import KINDS, colors_of, kind_of
from robovision.lidar.boxes import corners, to_tensor
from robovision.lidar.frames import Frame
from robovision.lidar.mujoco_rays import import_open3d
from robovision.lidar.rotations import yaw_to_quaternion
from robovision.lidar.view_options import Colouring
from robovision.types import Array, Boxes3D

Viewer = Literal["open3d", "rerun"]
EDGES = np.array([(k, (k + 1) % 4) for k in range(4)] * 2) + np.repeat([[0], [4]], 4, axis=0)
LINES = np.concatenate([EDGES, [(k, k + 4) for k in range(4)]])
"""The 12 edges of a box, as pairs of its corners."""


def show(frames: Iterable[Frame], viewer: Viewer, color: Colouring = "height") -> None:
    """Open a viewer on this machine's display; Open3D shows one frame after another, as its window is closed.

    Raises:
        UsageError: if there is no display, or the viewer is not installed.
    """
    need_display()
    if viewer == "rerun":
        rerun = _rerun()
        rerun.init("robovision", spawn=True)
        _log(rerun, frames, color)
        return
    open3d = import_open3d()
    for frame in frames:
        things = [_open3d_points(open3d, frame, color)]
        things += [_open3d_boxes(open3d, boxes) for boxes in (frame.truth, frame.detections) if boxes is not None]
        open3d.visualization.draw_geometries(things, window_name=frame.name)


def write_rerun(path: Path, frames: Iterable[Frame], color: Colouring = "height") -> None:
    """Write a sequence to a Rerun file, one frame a step of the timeline `frame`.

    Raises:
        UsageError: if Rerun is not installed, or the file can't be written.
    """
    rerun = _rerun()
    if not path.parent.is_dir():
        raise UsageError(f"can't write {path}: there is no folder {path.parent}")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    recording = rerun.RecordingStream("robovision")
    try:
        recording.save(partial)
        with recording:
            _log(rerun, frames, color)
        recording.flush()
        recording.disconnect()
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        raise UsageError(f"can't write {path}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def need_display() -> None:
    """Raise UsageError where no window can be opened, naming what works instead."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise UsageError(
            "there is no display here (DISPLAY and WAYLAND_DISPLAY are not set): write a picture with --out, or a "
            "recording with --rerun FILE.rrd and open it where there is one"
        )


def _log(rerun: Any, frames: Iterable[Frame], color: Colouring) -> None:
    rerun.log("lidar", rerun.ViewCoordinates.FLU, static=True)
    for number, frame in enumerate(frames):
        rerun.set_time("frame", sequence=number)
        rerun.log("lidar/points", rerun.Points3D(frame.cloud.xyz, colors=colors_of(frame.cloud, color), radii=0.03))
        for name, boxes in (("truth", frame.truth), ("detections", frame.detections)):
            if boxes is not None:
                rerun.log(f"lidar/{name}", _rerun_boxes(rerun, boxes))


def _rerun_boxes(rerun: Any, boxes: Boxes3D) -> Any:
    names = [boxes.classes[label] for label in boxes.labels.tolist()]
    if boxes.scores is not None:
        names = [f"{name} {score:.2f}" for name, score in zip(names, boxes.scores.tolist(), strict=True)]
    return rerun.Boxes3D(
        centers=boxes.centers,
        half_sizes=boxes.sizes / 2,
        quaternions=yaw_to_quaternion(boxes.yaw.astype(np.float64))[:, [1, 2, 3, 0]],
        colors=_box_colors(boxes),
        labels=names,
    )


def _open3d_points(open3d: Any, frame: Frame, color: Colouring) -> Any:
    points = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(frame.cloud.xyz.astype(np.float64)))
    points.colors = open3d.utility.Vector3dVector(colors_of(frame.cloud, color) / 255)
    return points


def _open3d_boxes(open3d: Any, boxes: Boxes3D) -> Any:
    """The edges of all boxes as one set of lines."""
    ends = corners(to_tensor(boxes)).numpy().reshape(-1, 3)
    pairs = (LINES[None] + 8 * np.arange(len(boxes))[:, None, None]).reshape(-1, 2)
    lines = open3d.geometry.LineSet(open3d.utility.Vector3dVector(ends), open3d.utility.Vector2iVector(pairs))
    lines.colors = open3d.utility.Vector3dVector(np.repeat(_box_colors(boxes) / 255, len(LINES), axis=0))
    return lines


def _box_colors(boxes: Boxes3D) -> Array:
    """RGB, uint8 [N, 3], by kind."""
    colors = [KINDS[kind_of(boxes.classes[label])][0] for label in boxes.labels.tolist()]
    return np.array([list(bytes.fromhex(color[1:])) for color in colors], np.uint8).reshape(-1, 3)


def _rerun() -> Any:
    try:
        return importlib.import_module("rerun")
    except ImportError as error:
        raise UsageError(f"Rerun can't be used ({error}); install it: pip install 'robovision[rerun]'") from error
