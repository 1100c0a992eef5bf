"""Whether detections are in the convention that they should be in: another one is suspected only if it fits better."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import torch

from robovision.lidar.boxes import paired_iou_3d
from robovision.lidar.kitti_matching import pairs_within_frames
from robovision.types import Array

PAIRS = 4_000
"""Pairs of a ground truth and a detection of the same frame that are looked at, of frames by chance."""

BETTER, MORE, SHARE = 1.5, 2.0, 0.2
"""How many times the overlap, and how much more of it, another reading must have, and the mean overlap of what it could
find: noise and false detections reach none of them."""

TOO_FAR = (100.0, 20.0)
"""Metres from every ground truth of a frame, on the ground and in height, at which no sensor sees anything."""

FEW = 5
"""Detections, below which nothing is suspected."""

FULL_TURN = 2 * np.pi


def some_frames(truth: Array, detections: Array) -> tuple[Array, Array]:
    """Rows of ground truth and of detections, by their frames, of some that hold both; given the frame of each."""
    (frames, many), (others, more) = (np.unique(part, return_counts=True) for part in (truth, detections))
    both, i, j = np.intersect1d(frames, others, assume_unique=True, return_indices=True)
    order = np.random.default_rng(0).permutation(len(both))
    pairs = np.cumsum((many[i] * more[j])[order])
    chosen = both[order[: max(1, int(np.searchsorted(pairs, PAIRS, "right")))]]
    rows = [np.flatnonzero(np.isin(part, chosen)) for part in (truth, detections)]
    first, second = (
        row[np.argsort(part[row], kind="stable")] for row, part in zip(rows, (truth, detections), strict=True)
    )
    return first, second


def upright_readings(boxes: Array) -> dict[str, Array]:
    """Boxes [N, 7], z up, as they are, and as they are meant if they are in another convention, by its name."""
    height, yaw = boxes[:, 5], boxes[:, 6]
    camera = boxes[:, [2, 0, 1, 3, 4, 5, 6]] * [1, -1, -1, 1, 1, 1, -1] - [0, 0, 0, 0, 0, 0, np.pi / 2]
    found = {name: np.column_stack([boxes[:, :3], sizes, yaw]) for name, sizes in _orders(boxes[:, 3:6]).items()}
    found["with the middles of their bottoms in place of their centres"] = _raised(boxes, height / 2)
    found["with a camera's axes, x right, y down, z forward, and the middles of their bottoms"] = _raised(
        camera, height / 2
    )
    found["with a camera's axes, x right, y down, z forward"] = camera
    if (np.abs(yaw) > FULL_TURN).any():
        found["with angles in degrees"] = np.column_stack([boxes[:, :6], np.radians(yaw)])
    return found


def camera_readings(places: Array, sizes: Array, turns: Array) -> dict[str, Array]:
    """KITTI's boxes, z up, as they are, and as they are meant if they are in another convention, by its name.

    Args:
        places: the middles of the bottoms [N, 3], x right, y down, z forward.
        sizes: height, width, length [N, 3].
        turns: the rotations [N] about y.
    """
    axes = places[:, [2, 0, 1]] * [1, -1, -1]
    yaw = -turns - np.pi / 2

    def standing(center: Array, size: Array, turn: Array) -> Array:
        return _raised(np.column_stack([center, size, turn]), size[:, 2] / 2)

    found = {name: standing(axes, size, yaw) for name, size in _orders(sizes[:, ::-1]).items()}
    found["with geometric centres in place of the middles of their bottoms"] = np.column_stack(
        [axes, sizes[:, ::-1], yaw]
    )
    found["with the LiDAR's axes, x forward, y left, z up, and geometric centres"] = np.column_stack(
        [places, sizes[:, ::-1], turns]
    )
    found["with the LiDAR's axes, x forward, y left, z up"] = standing(places, sizes[:, ::-1], turns)
    if (np.abs(turns) > FULL_TURN).any():
        found["with angles in degrees"] = standing(axes, sizes[:, ::-1], -np.radians(turns) - np.pi / 2)
    return found


def _orders(sizes: Array) -> dict[str, Array]:
    """Length, width and height [N, 3] as they are, and in other orders."""
    return {
        "": sizes,
        "with length and width swapped": sizes[:, [1, 0, 2]],
        "with length and height swapped": sizes[:, [2, 1, 0]],
    }


def _raised(boxes: Array, by: Array) -> Array:
    raised: Array = boxes + by[:, None] * np.array([0, 0, 1, 0, 0, 0, 0])
    return raised


def warn_of_other_convention(
    truth: tuple[Array, Array], read: Mapping[str, Array], frame: Array, expected: str
) -> None:
    """Warn if detections fit the ground truth of their frames clearly better in another convention, or not at all.

    The fit is the overlap in space of each ground truth with the best detection of its frame. What overlaps nothing,
    such as false detections, says nothing.

    Args:
        truth: boxes [G, 7], z up, and the frame of each, int64 [G], rising.
        read: the detections [D, 7] of the same frames as they are, under the name "", and in other conventions.
        frame: int64 [D], of each detection, rising.
        expected: the convention.
    """
    if len(frame) < FEW or not len(truth[0]):
        return
    boxes, frames = truth
    i, j = pairs_within_frames(frames, frame)
    fits = {name: _fit(boxes, found, i, j) for name, found in read.items()}
    given = fits[""]
    best = max(fits, key=lambda name: fits[name])
    count = min(len(frames), len(frame))
    if fits[best] > max(BETTER * given, given + MORE, SHARE * count):
        shown = [f"{fit / count:.2f}" for fit in (given, fits[best])]
        warnings.warn(
            f"detections overlap the ground truth of their frames by {shown[0]} as they are, and by {shown[1]} if they "
            f"are read {best}; are they in another convention? Expected: {expected}",
            stacklevel=2,
        )
        return
    far = _far(boxes, read[""], i, j)
    if given == 0 and far.mean() > 0.5:
        warnings.warn(
            f"{int(far.sum())} of {len(far)} detections lie over {TOO_FAR[0]:.0f} m, or {TOO_FAR[1]:.0f} m in height, "
            f"from all ground truth of their frames; are they in another frame or convention? Expected: {expected}",
            stacklevel=2,
        )


def _fit(truth: Array, boxes: Array, i: Array, j: Array) -> float:
    """The sum over ground truth of its overlap with the best of the detections that it is paired with."""
    near = np.abs(truth[i, :3] - boxes[j, :3]).max(axis=1) < truth[i, 3:6].max(axis=1) + boxes[j, 3:6].max(axis=1)
    i, j = i[near], j[near]
    overlap = paired_iou_3d(*(torch.from_numpy(np.ascontiguousarray(part)) for part in (truth[i], boxes[j])))
    best = np.zeros(len(truth))
    np.maximum.at(best, i, overlap.numpy())
    return float(best.sum())


def _far(truth: Array, boxes: Array, i: Array, j: Array) -> Array:
    """Which detections are too far from every ground truth of their frame to be of the same place, bool [D]."""
    offset = truth[i, :3] - boxes[j, :3]
    near = (np.hypot(offset[:, 0], offset[:, 1]) <= TOO_FAR[0]) & (np.abs(offset[:, 2]) <= TOO_FAR[1])
    far = np.ones(len(boxes), bool)
    far[j[near]] = False
    return far
