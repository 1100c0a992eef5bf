"""Motions of space: isometries (SO(3), O(3), SE(3)), and similarities that keep the ground level.

They act on points [..., 3], vectors [..., 3] and oriented boxes [N, 7] (centre, length, width, height, yaw), in metres
and radians, z up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robovision.errors import UsageError
from robovision.symmetry.elements import Element

ROUNDING = 1e-6
"""By how much a matrix may miss being orthogonal, or level."""


@dataclass(frozen=True, eq=False)
class Isometry(Element):
    """The map x -> matrix x + translation that keeps distances; one of determinant -1 swaps left and right hands.

    Convention:
        matrix: float64 [3, 3], orthogonal.
        translation: float64 [3], metres.

    Raises:
        UsageError: for a matrix that is not orthogonal.
    """

    matrix: Tensor
    translation: Tensor

    def __post_init__(self) -> None:
        off = float((self.matrix @ self.matrix.T - torch.eye(3).to(self.matrix)).abs().max())
        if not off < ROUNDING:
            raise UsageError(f"an isometry needs an orthogonal matrix; its product with its transpose is off by {off}")

    @classmethod
    def turn(cls, axis: Tensor, degrees: float) -> Isometry:
        """The rotation about an axis [3] through the origin, counter-clockwise seen against the axis (Rodrigues)."""
        x, y, z = (axis.double() / axis.double().norm()).tolist()
        cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
        angle = math.radians(degrees)
        matrix = torch.eye(3).double() + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
        return cls(matrix, torch.zeros(3, dtype=torch.float64))

    def inverse(self) -> Isometry:
        return Isometry(self.matrix.T, -self.matrix.T @ self.translation)

    def __matmul__(self, first: Isometry) -> Isometry:
        return Isometry(self.matrix @ first.matrix, self.matrix @ first.translation + self.translation)

    def points(self, points: Tensor) -> Tensor:
        return self.vectors(points) + self.translation.to(points)

    def vectors(self, vectors: Tensor) -> Tensor:
        return vectors @ self.matrix.to(vectors).T

    def boxes(self, boxes: Tensor) -> Tensor:
        check_boxes(boxes)
        if not float(self.matrix[:2, 2].abs().max()) < ROUNDING:
            raise UsageError("an isometry that tilts the ground does not act on boxes of one yaw: use a Similarity")
        heading = torch.stack([boxes[:, 6].cos(), boxes[:, 6].sin()], dim=1) @ self.matrix[:2, :2].to(boxes).T
        yaw = torch.atan2(heading[:, 1], heading[:, 0])
        return torch.cat([self.points(boxes[:, :3]), boxes[:, 3:6], yaw[:, None]], dim=1)


@dataclass(frozen=True)
class Similarity(Element):
    """The map x -> scale * turn(yaw) * mirror * x + translation.

    Convention:
        yaw: radians, counter-clockwise about the z axis.
        translation: metres along x, y and z.
        scale: larger than 0.
        mirror: whether left and right (y and -y) are swapped first.

    `a @ b` acts as b followed by a, and `a.inverse()` undoes a.
    """

    yaw: float = 0.0
    translation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = 1.0
    mirror: bool = False

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.yaw, self.scale, *self.translation))) or self.scale <= 0:
            raise ValueError(f"a similarity needs finite numbers and a scale > 0, got {self}")

    def matrix(self) -> Tensor:
        """Its homogeneous matrix, float64 [4, 4]."""
        cos, sin, sign = math.cos(self.yaw), math.sin(self.yaw), -1 if self.mirror else 1
        result = torch.eye(4, dtype=torch.float64)
        result[:2, :2] = torch.tensor([[cos, -sin * sign], [sin, cos * sign]], dtype=result.dtype)
        result[:3, :3] *= self.scale
        result[:3, 3] = torch.tensor(self.translation, dtype=result.dtype)
        return result

    def points(self, points: Tensor) -> Tensor:
        """The places [..., 3] that points [..., 3] are mapped to."""
        return self.vectors(points) + points.new_tensor(self.translation)

    def vectors(self, vectors: Tensor) -> Tensor:
        """What flow and velocities [..., 3] become: as points, but not moved."""
        return vectors @ self.matrix()[:3, :3].to(vectors).T

    def boxes(self, boxes: Tensor) -> Tensor:
        """The boxes [N, 7] that boxes [N, 7] are mapped to."""
        check_boxes(boxes)
        yaw = (-boxes[:, 6:] if self.mirror else boxes[:, 6:]) + self.yaw
        return torch.cat([self.points(boxes[:, :3]), boxes[:, 3:6] * self.scale, yaw], dim=1)

    def inverse(self) -> Similarity:
        """The similarity that undoes this one."""
        yaw = self.yaw if self.mirror else -self.yaw
        back = Similarity(yaw, scale=1 / self.scale, mirror=self.mirror)
        moved = back.vectors(-torch.tensor(self.translation, dtype=torch.float64))
        return Similarity(yaw, _triple(moved), 1 / self.scale, self.mirror)

    def __matmul__(self, first: Similarity) -> Similarity:
        yaw = self.yaw + (-first.yaw if self.mirror else first.yaw)
        moved = self.points(torch.tensor(first.translation, dtype=torch.float64))
        return Similarity(yaw, _triple(moved), self.scale * first.scale, self.mirror != first.mirror)


def _triple(vector: Tensor) -> tuple[float, float, float]:
    x, y, z = vector.tolist()
    return x, y, z


def check_boxes(boxes: Tensor) -> None:
    """Raise ValueError unless boxes are floating point [N, 7]."""
    if boxes.ndim != 2 or boxes.shape[1] != 7 or not boxes.is_floating_point():
        raise ValueError(f"boxes must be floating point [N, 7], got {boxes.dtype} {list(boxes.shape)}")
