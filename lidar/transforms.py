"""Similarities that keep the ground level: the group that acts on point clouds, boxes and flow of a vehicle's LiDAR."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robovision.lidar.boxes import check_boxes


@dataclass(frozen=True)
class Similarity:
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
