"""What is checked about point clouds and boxes that come from outside."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from robovision.errors import UsageError
from robovision.types import Array, Boxes3D, PointCloud

MARGIN = 5.0
"""Metres that a box may lie outside the cloud's extent before its convention is doubted."""

SEVERAL = 10
"""Ground truths that are needed to know where boxes can be."""


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
        UsageError: naming the file, if intensity lies outside 0..1 or is not finite where the point is.
    """
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
    """Warn if more than half of the boxes lie outside the cloud: their frame or convention is likely another one."""
    if not len(boxes) or not len(cloud):
        return
    low, high = cloud.xyz.min(axis=0) - MARGIN, cloud.xyz.max(axis=0) + MARGIN
    outside = ((boxes.centers < low) | (boxes.centers > high)).any(axis=1)
    if outside.mean() > 0.5:
        warnings.warn(
            f"{what}: {int(outside.sum())} of {len(boxes)} box centres lie outside the point cloud; are the boxes in "
            f"another frame or convention? Expected: geometric centre in the frame {cloud.frame!r}, x forward, z up",
            stacklevel=2,
        )


def warn_of_other_frame(truth: Iterable[Array], detections: Iterable[Array], what: str) -> None:
    """Warn if more than half of the detections' centres lie outside of where any ground truth is.

    Args:
        truth, detections: centres [N, 3], some at a time.
        what: the frame and convention that is expected.
    """
    ends = [(part.min(axis=0), part.max(axis=0), len(part)) for part in truth if len(part)]
    if sum(many for *_, many in ends) < SEVERAL:
        return
    low = np.min([least for least, *_ in ends], axis=0) - MARGIN
    high = np.max([most for _, most, _ in ends], axis=0) + MARGIN
    counts = [(len(part), int(((part < low) | (part > high)).any(axis=1).sum())) for part in detections]
    count, outside = np.sum([(0, 0), *counts], axis=0).tolist()
    if outside > count / 2:
        warnings.warn(
            f"{outside} of {count} detections lie outside of where any ground truth is; are they in another frame or "
            f"convention? Expected: {what}",
            stacklevel=2,
        )
