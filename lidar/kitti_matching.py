"""Which detection each ground truth takes, in KITTI's greedy order, for all frames and all thresholds at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robovision.lidar.boxes import PAIRS, paired_bev_iou, paired_iou_3d, rectangle_coverage, rectangle_iou
from robovision.lidar.kitti_labels import KittiObjects
from robovision.types import Array

KINDS = ("image", "bev", "3d")
"""Overlap of rectangles in the image, of boxes seen from above, of boxes in space."""

BLOCK = 2048
"""Objects of the frames that are looked at together."""


@dataclass(frozen=True, eq=False)
class Scene:
    """The objects of all frames, one frame after the other, and the number of the frame [N] that each is in."""

    objects: KittiObjects
    frame: Array

    def select(self, wanted: Array) -> Scene:
        """The objects with those indices, or where that mask is true, in order."""
        index = np.arange(len(self.frame))[wanted]
        names = tuple(self.objects.names[i] for i in index)
        return Scene(KittiObjects(names, self.objects.values[index]), self.frame[index])

    def between(self, first: int, last: int) -> Scene:
        """The objects of frames from the first up to the last, without it."""
        part = slice(*np.searchsorted(self.frame, (first, last)).tolist())
        return Scene(KittiObjects(self.objects.names[part], self.objects.values[part]), self.frame[part])


@dataclass(frozen=True, eq=False)
class Candidates:
    """The G ground truths that some detection overlaps enough, each with its up to K such detections.

    Convention:
        truth: int64 [G], rising.
        detection: int64 [G, K], rising, in the order of the file; 0 where there are fewer than K.
        overlap: float64 [G, K], 0 where there are fewer than K.
        turns: in the n-th entry, int64 indices into G of each frame's n-th ground truth.
    """

    truth: Array
    detection: Array
    overlap: Array
    turns: tuple[Array, ...]


def find_candidates(truth: Scene, detections: Scene, kind: str, minimum: float) -> Candidates:
    """The pairs within a frame whose overlap of that kind is larger than the minimum."""
    i, j = pairs_within_frames(truth.frame, detections.frame)
    overlap = _overlaps(kind, truth.objects, detections.objects, i, j)
    enough = overlap > minimum
    return group(i[enough], j[enough], overlap[enough], truth.frame)


def group(i: Array, j: Array, overlap: Array, frame: Array) -> Candidates:
    """Pairs of truth i, rising, and detection j with positive overlap, as candidates; truth k is in frame[k]."""
    rows, row, counts = np.unique(i, return_inverse=True, return_counts=True)
    column = _position_in_run(row)
    detection = np.zeros((len(rows), counts.max(initial=1)), np.int64)
    padded = np.zeros(detection.shape)
    detection[row, column], padded[row, column] = j, overlap
    turn = _position_in_run(frame[rows])
    turns = tuple(np.flatnonzero(turn == n) for n in range(turn.max(initial=-1) + 1))
    return Candidates(rows, detection, padded, turns)


def assign(candidates: Candidates, preference: Array, usable: Array, demoted: Array) -> tuple[Array, Array]:
    """The detection that each ground truth takes in each of S settings: its free candidate of highest preference.

    Args:
        candidates: G ground truths with up to K of D detections each.
        preference: float64 [G, K].
        usable: bool [S, D], the detections that take part in a setting.
        demoted: bool [S, D], the detections that are taken only where no other is left, the first one first.

    Returns:
        int64 [S, G], -1 where nothing is left to take, and bool [S, D], the usable detections that nobody took.
    """
    free = usable.copy()
    taken = np.full((len(free), len(candidates.truth)), -1)
    for rows in candidates.turns:
        detection = candidates.detection[rows]
        rank = np.where(demoted[:, detection], -np.inf, preference[rows])
        # Finite numbers below all preferences keep demoted candidates above absent ones.
        rank = np.maximum(rank, np.finfo(np.float64).min)
        rank[~free[:, detection] | (candidates.overlap[rows] == 0)] = -np.inf
        best = rank.argmax(axis=2)
        found = np.take_along_axis(rank, best[..., None], axis=2)[..., 0] > -np.inf
        choice = detection[np.arange(len(rows)), best]
        setting, row = found.nonzero()
        free[setting, choice[setting, row]] = False
        taken[:, rows] = np.where(found, choice, -1)
    return taken, free


def covered(detections: Scene, areas: Scene, minimum: float) -> Array:
    """Bool [D]: detections with more than the minimum share of their rectangle in one of the areas of their frame."""
    i, j = pairs_within_frames(detections.frame, areas.frame)
    a, b = _tensor(detections.objects.rectangles[i]), _tensor(areas.objects.rectangles[j])
    result = np.zeros(len(detections.frame), bool)
    result[i[(rectangle_coverage(a, b) > minimum).numpy()]] = True
    return result


def blocks(*frames: Array) -> Iterator[tuple[int, int]]:
    """First frame and, one behind it, last of a few frames at a time, of sets of objects in frames [N], [M], ..

    A block has about `BLOCK` objects of all sets together; a frame is never split.
    """
    most = 1 + max(int(numbers.max(initial=-1)) for numbers in frames)
    each = np.zeros(most, np.int64)
    for numbers in frames:
        each += np.bincount(numbers, minlength=most)
    block = (np.cumsum(each) - each) // BLOCK
    for first in np.unique(block, return_index=True)[1].tolist():
        yield first, int(np.searchsorted(block, block[first], side="right"))


def pairs_within_frames(a: Array, b: Array) -> tuple[Array, Array]:
    """All pairs of indices, int64 [P] and [P] and rising, with a[i] == b[j], of rising frame numbers [N] and [M]."""
    first = np.searchsorted(b, a, side="left")
    counts = np.searchsorted(b, a, side="right") - first
    i = np.repeat(np.arange(len(a)), counts)
    return i, _position_in_run(i) + np.repeat(first, counts)


def _position_in_run(rising: Array) -> Array:
    """How many equal numbers [N] stand before each one in a rising sequence."""
    position: Array = np.arange(len(rising)) - np.searchsorted(rising, rising, side="left")
    return position


def _overlaps(kind: str, truth: KittiObjects, detections: KittiObjects, i: Array, j: Array) -> Array:
    """Overlap [P] of truth[i] with detections[j]; 0 where either has no box."""
    measure = {"image": rectangle_iou, "bev": paired_bev_iou, "3d": paired_iou_3d}[kind]
    a, b = ((x.rectangles if kind == "image" else _boxes(x)) for x in (truth, detections))
    result = np.zeros(len(i))
    for first in range(0, len(i), PAIRS):
        part = slice(first, first + PAIRS)
        result[part] = measure(_tensor(a[i[part]]), _tensor(b[j[part]])).numpy()
    return result


def _boxes(objects: KittiObjects) -> Array:
    """Boxes [N, 7] with the camera's x and z as the ground and its -y as up; empty where there is no box."""
    height, width, length = np.where(objects.boxed[:, None], objects.sizes, 0).T
    x, bottom, z = objects.locations.T
    # Seen from above, x to z is counter-clockwise where the rotation about the downward y axis is clockwise.
    return np.stack([x, z, height / 2 - bottom, length, width, height, -objects.rotation_y], axis=1)


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
