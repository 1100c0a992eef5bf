"""Quaternions (w, x, y, z) of boxes and poses."""

from __future__ import annotations

import numpy as np

from robovision.types import Array


def quaternion_to_matrix(quaternions: Array) -> Array:
    """Rotation matrices [N, 3, 3] of quaternions [N, 4] of any length but 0."""
    w, x, y, z = (quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def quaternion_to_yaw(quaternions: Array) -> Array:
    """Headings [N], radians in -pi..pi: where quaternions [N, 4] turn the x axis, seen from above."""
    matrices = quaternion_to_matrix(quaternions)
    yaw: Array = np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])
    return yaw


def yaw_to_quaternion(yaw: Array) -> Array:
    """Quaternions [N, 4] of turns by yaw [N] about the z axis."""
    zero = np.zeros_like(yaw)
    return np.stack([np.cos(yaw / 2), zero, zero, np.sin(yaw / 2)], axis=1)
