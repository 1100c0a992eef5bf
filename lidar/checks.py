"""What is checked about point clouds and boxes that come from outside."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from robovision.errors import UsageError
from robovision.types import NUMBERS, Array, Boxes3D, PointCloud

if TYPE_CHECKING:
    from torch import Tensor

BEYOND = (100.0, 20.0)
"""Metres beyond a cloud's ends, on the ground and in height, at which no box of the same place can be."""

FEW = 5
"""Boxes, below which no other convention is suspected."""


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        UsageError: naming the file and the reason, if it can't be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror or error}") from error


def make_cloud(
    path: Path,
    xyz: Array,
    intensity: Array | None = None,
    time: Array | None = None,
    ring: Array | None = None,
    *,
    frame: str = "lidar",
) -> PointCloud:
    """The cloud of a file; points that are not finite, which stand for no return, are left out with a warning.

    Raises:
        UsageError: naming the file, if intensity lies outside 0..1 or is not finite where the point is, or anything
            is not a number for each point.
    """
    for name, values in (("xyz", xyz), ("intensity", intensity), ("time", time), ("ring", ring)):
        if values is not None and (values.dtype.kind not in NUMBERS or values.shape[:1] != xyz.shape[:1]):
            found = f"{values.dtype} {list(values.shape)}"
            raise UsageError(f"{path}: {name} must be numbers for each of {len(xyz)} points, got {found}")
    finite = np.isfinite(xyz).all(axis=1)
    if not finite.all():
        warnings.warn(
            f"{path}: {int((~finite).sum())} of {len(xyz)} points are not finite and were left out; "
            "write it without them",
            stacklevel=2,
        )
        xyz = xyz[finite]
        intensity, time, ring = (None if a is None else a[finite] for a in (intensity, time, ring))
    try:
        return PointCloud(xyz, intensity, time, ring, frame)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error


def warn_of_far_boxes(boxes: Boxes3D, cloud: PointCloud, what: str) -> None:
    """Warn if most boxes lie where the cloud can't be, or hold points only if they are read with a camera's axes."""
    if not len(boxes) or not len(cloud):
        return
    low, high = cloud.xyz.min(axis=0), cloud.xyz.max(axis=0)
    room = np.array([BEYOND[0], *BEYOND])
    outside = ((boxes.centers < low - room) | (boxes.centers > high + room)).any(axis=1)
    if outside.mean() > 0.5:
        warnings.warn(
            f"{what}: {int(outside.sum())} of {len(boxes)} box centres lie {BEYOND[0]:.0f} m, or {BEYOND[1]:.0f} m in "
            f"height, beyond the point cloud; are they in another frame or convention? Expected: {_expected(cloud)}",
            stacklevel=2,
        )
    elif len(boxes) >= FEW:
        _warn_of_camera_axes(boxes, cloud, what)


def _warn_of_camera_axes(boxes: Boxes3D, cloud: PointCloud, what: str) -> None:
    import torch

    from robovision.lidar.boxes import to_tensor

    points, given = torch.from_numpy(cloud.xyz.copy()).double(), to_tensor(boxes)
    held = _holding(points, given)
    if 2 * held >= len(boxes):
        return  # the other reading can't hold that many more
    camera = given[:, [2, 0, 1, 3, 4, 5, 6]] * given.new_tensor([1, -1, -1, 1, 1, 1, -1])
    camera[:, 6] -= torch.pi / 2
    camera[:, 2] += camera[:, 5] / 2
    meant = _holding(points, camera)
    if meant > max(2 * held, held + FEW - 1, len(boxes) / 2):
        warnings.warn(
            f"{what}: {held} of {len(boxes)} boxes hold points, but {meant} if they are read with a camera's axes, x "
            f"right, y down, z forward; are they in another convention? Expected: {_expected(cloud)}",
            stacklevel=2,
        )


def _holding(points: Tensor, boxes: Tensor) -> int:
    """How many boxes [N, 7] hold any of the points [P, 3]."""
    from robovision.lidar.boxes import points_in_boxes

    return int(points_in_boxes(points, boxes).any(dim=1).sum())


def _expected(cloud: PointCloud) -> str:
    return f"geometric centre in the frame {cloud.frame!r}, x forward, z up"
