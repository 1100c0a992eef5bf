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
    detections. Boxes that reach behind the camera get the rectangle of what is in front, or of zero size.

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
    """Rectangles [N, 4] in the image, and the share [N] of each that the image cuts off."""
    height, width, length = sizes.T
    signs = np.array([(x, y, z) for x in (-1, 1) for y in (0, 1) for z in (-1, 1)])
    x, y, z = (signs[None] * np.stack([length / 2, -height, width / 2], axis=1)[:, None]).transpose(2, 0, 1)
    cos, sin = np.cos(rotation)[:, None], np.sin(rotation)[:, None]
    points = np.stack([cos * x + sin * z, y, -sin * x + cos * z, np.ones_like(x)], axis=2)
    points[..., :3] += place[:, None]
    points[..., 2] = np.maximum(points[..., 2], 0.1)
    projected = points @ calibration.projection.T
    pixels = projected[..., :2] / projected[..., 2:]
    full = np.concatenate([pixels.min(axis=1), pixels.max(axis=1)], axis=1)
    edge = np.array([*image, *image]) - 1
    rectangles = np.clip(full, 0, edge)
    area, left = (np.prod(r[:, 2:] - r[:, :2], axis=1) for r in (full, rectangles))
    cut = 1 - np.divide(left, area, out=np.zeros_like(area), where=area > 0)
    return rectangles, np.clip(cut, 0, 1)


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
