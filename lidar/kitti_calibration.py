"""KITTI's calibration, and its objects as boxes in the LiDAR's frame, both ways (Geiger et al., 2013)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robovision.errors import UsageError, unknown
from robovision.files import write_atomically
from robovision.lidar.checks import read_bytes
from robovision.lidar.kitti_labels import CLASSES, DETECTION, DONT_CARE, LABEL, KittiObjects
from robovision.types import Array, Boxes3D

SHAPES = {"P2": (3, 4), "R0_rect": (3, 3), "Tr_velo_to_cam": (3, 4)}
NEAREST = 0.1
"""Metres ahead of the camera from which on something can be in its image."""

EDGES = tuple((a, b) for a in range(8) for b in range(a, 8) if (a ^ b) in (1, 2, 4))
"""The edges of a box: pairs of its corners that differ in one sign."""

IMAGE = (1242, 375)
"""Width and height of KITTI's images in pixels; single ones differ by a few."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """How the LiDAR and the left colour camera of one frame stand to each other.

    Convention:
        projection: float64 [3, 4], rectified camera frame to pixels of the left colour image (P2).
        to_camera: float64 [4, 4], LiDAR frame to rectified camera frame, metres (R0 Tr).
    """

    projection: Array
    to_camera: Array

    @property
    def to_lidar(self) -> Array:
        """Float64 [4, 4], rectified camera frame to LiDAR frame."""
        inverse: Array = np.linalg.inv(self.to_camera)
        return inverse


def read_calibration(path: Path) -> Calibration:
    """The calibration of an object frame (`R0_rect`, `Tr_velo_to_cam`) or tracking sequence (`R_rect`, `Tr_velo_cam`).

    Raises:
        UsageError: naming the file, if a matrix is missing, incomplete or not of numbers.
    """
    lines = [line.split() for line in read_bytes(path).decode(errors="replace").splitlines() if line.strip()]
    spelling = {"R_rect": "R0_rect", "Tr_velo_cam": "Tr_velo_to_cam"}
    found = {spelling.get(words[0].rstrip(":"), words[0].rstrip(":")): words[1:] for words in lines}
    matrices = {name: _matrix(path, name, found.get(name), shape) for name, shape in SHAPES.items()}
    rectify, move = np.eye(4), np.eye(4)
    rectify[:3, :3], move[:3] = matrices["R0_rect"], matrices["Tr_velo_to_cam"]
    return Calibration(matrices["P2"], rectify @ move)


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write a calibration as KITTI's object files; the rectifying rotation is then part of `Tr_velo_to_cam`."""
    rows = {f"P{k}": calibration.projection for k in range(4)}
    rows |= {"R0_rect": np.eye(3), "Tr_velo_to_cam": calibration.to_camera[:3], "Tr_imu_to_velo": np.eye(4)[:3]}
    text = "".join(f"{name}: {' '.join(map(repr, matrix.ravel().tolist()))}\n" for name, matrix in rows.items())
    with write_atomically(path) as file:
        file.write(text.encode())


def objects_to_boxes(objects: KittiObjects, calibration: Calibration) -> Boxes3D:
    """The objects that have a box in space, in the LiDAR's frame; classes are KITTI's, `DontCare` is left out.

    As everybody does: centre = inv(R0 Tr) place, raised by half the height along the LiDAR's z; yaw = -ry - pi/2.
    """
    chosen = objects.boxed & (np.array(objects.names, dtype=object) != DONT_CARE)
    height, width, length = objects.sizes[chosen].T
    place = np.c_[objects.locations[chosen], np.ones(int(chosen.sum()))] @ calibration.to_lidar.T
    return Boxes3D(
        place[:, :3] + np.stack([0 * height, 0 * height, height / 2], axis=1),
        np.stack([length, width, height], axis=1),
        _wrap(-objects.rotation_y[chosen] - np.pi / 2),
        np.array([CLASSES.index(objects.names[i]) for i in np.flatnonzero(chosen)], dtype=np.int64),
        CLASSES,
        None if objects.scores is None else objects.scores[chosen],
    )


def boxes_to_objects(boxes: Boxes3D, calibration: Calibration, image: tuple[int, int] = IMAGE) -> KittiObjects:
    """The boxes as KITTI's objects: place, rotation, observation angle and the rectangle around the corners' image.

    Truncation is the share of that rectangle that the image cuts off; occlusion is 0 for ground truth, -1 for
    detections. Boxes that reach behind the camera get the rectangle of what is in front. Boxes outside of the image,
    which KITTI has not labelled at all, keep their place, so that all around can be used, but have no rectangle
    (-1 -1 -1 -1) and are truncated wholly (1): at no difficulty does the evaluation look for them.

    Raises:
        UsageError: if a class is none of KITTI's.
    """
    for name in boxes.classes:
        if name not in CLASSES:
            raise unknown("KITTI class", name, CLASSES)
    length, width, height = boxes.sizes.astype(np.float64).T
    bottom = boxes.centers.astype(np.float64) - np.stack([0 * height, 0 * height, height / 2], axis=1)
    place = (np.c_[bottom, np.ones(len(boxes))] @ calibration.to_camera.T)[:, :3]
    rotation = _wrap(-boxes.yaw.astype(np.float64) - np.pi / 2)
    rectangles, cut = _rectangles(place, np.stack([height, width, length], axis=1), rotation, calibration, image)
    columns = [cut, np.full(len(boxes), 0.0 if boxes.scores is None else -1.0)]
    columns += [_wrap(rotation - np.arctan2(place[:, 0], place[:, 2]))]
    values = np.column_stack([*columns, rectangles, height, width, length, place, rotation])
    if boxes.scores is not None:
        values = np.column_stack([values, boxes.scores])
    names = tuple(boxes.classes[label] for label in boxes.labels.tolist())
    return KittiObjects(names, values.reshape(len(names), LABEL if boxes.scores is None else DETECTION))


def _rectangles(
    place: Array, sizes: Array, rotation: Array, calibration: Calibration, image: tuple[int, int]
) -> tuple[Array, Array]:
    """Rectangles [N, 4] in the image, -1 for what is outside of it, and the share [N] of each that the image cuts off.

    Edges that pass the camera are cut there: what lies behind would be projected to the wrong side.
    """
    points = _corners(place, sizes, rotation)
    start, end = (points[:, list(ends)] for ends in zip(*EDGES, strict=True))
    depth = end[..., 2] - start[..., 2]
    crossed = (start[..., 2] < NEAREST) != (end[..., 2] < NEAREST)
    share = np.divide(NEAREST - start[..., 2], depth, out=np.zeros_like(depth), where=crossed)
    points = np.concatenate([points, start + share[..., None] * (end - start)], axis=1)
    ahead = np.concatenate([points[:, :8, 2] >= NEAREST, crossed], axis=1)[..., None]
    projected = np.insert(points, 3, 1, axis=2) @ calibration.projection.T
    pixels = projected[..., :2] / np.where(ahead, projected[..., 2:], 1)
    low, high = (np.where(ahead, pixels, none) for none in (np.inf, -np.inf))
    full = np.concatenate([low.min(axis=1), high.max(axis=1)], axis=1)
    rectangles = np.clip(full, 0, np.array([*image, *image]) - 1)
    left = np.prod(rectangles[:, 2:] - rectangles[:, :2], axis=1)
    seen = ahead.any(axis=(1, 2)) & (left > 0)
    area = np.prod(np.where(seen[:, None], full[:, 2:] - full[:, :2], 1), axis=1)
    return np.where(seen[:, None], rectangles, -1.0), np.where(seen, np.clip(1 - left / area, 0, 1), 1.0)


def _corners(place: Array, sizes: Array, rotation: Array) -> Array:
    """The corners [N, 8, 3] of boxes in the camera's frame: sign of x first, then bottom and top, then sign of z."""
    height, width, length = sizes.T
    signs = np.array([(x, y, z) for x in (-1, 1) for y in (0, 1) for z in (-1, 1)])
    x, y, z = (signs[None] * np.stack([length / 2, -height, width / 2], axis=1)[:, None]).transpose(2, 0, 1)
    cos, sin = np.cos(rotation)[:, None], np.sin(rotation)[:, None]
    corners: Array = np.stack([cos * x + sin * z, y, -sin * x + cos * z], axis=2) + place[:, None]
    return corners


def _wrap(angle: Array) -> Array:
    """The angle in -pi..pi."""
    wrapped: Array = (angle + np.pi) % (2 * np.pi) - np.pi
    return wrapped


def _matrix(path: Path, name: str, words: list[str] | None, shape: tuple[int, int]) -> Array:
    if words is None:
        raise UsageError(f"{path}: the matrix {name} is missing; give KITTI's calibration of the frame")
    try:
        matrix = np.array(words, dtype=np.float64).reshape(shape)
    except ValueError as error:
        raise UsageError(f"{path}: {name} must be {shape[0] * shape[1]} numbers ({error})") from error
    if not np.isfinite(matrix).all():
        raise UsageError(f"{path}: {name} has a number that is not finite")
    return matrix
