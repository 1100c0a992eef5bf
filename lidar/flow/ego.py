"""How the sensor itself moved between two sweeps: level the ground of each, then turn and shift one over the other."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robovision.lidar.flow.distance import DistanceField

FLAT = 0.5
"""Metres of height below which a cloud has no ground: a planar LiDAR's."""
GROUND = 0.2
"""Metres above the fitted plane up to which points are ground."""
TRIES = 40
"""Steps of the fit."""


def level(points: Tensor) -> tuple[Tensor, Tensor]:
    """A motion, float64 [4, 4], that brings the ground under points [N, 3] to z = 0, and which points are ground, [N].

    The identity and none where there is no ground.
    """
    motion = torch.eye(4, dtype=torch.float64)
    spread = points[:, 2].quantile(torch.tensor([0.01, 0.99]))
    if len(points) < 10 or float(spread[1] - spread[0]) < FLAT:
        return motion, torch.zeros(len(points), dtype=torch.bool)
    xyz = points.double()
    normal, height = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), _lowest(xyz)
    for width in (0.5, 0.3, GROUND, GROUND):
        near = xyz[((xyz @ normal - height).abs() < width) & (xyz[:, :2].norm(dim=1) < 30)]
        if len(near) < 10:
            break
        middle = near.mean(dim=0)
        normal = torch.linalg.svd(near - middle, full_matrices=False)[2][2]
        normal = normal * normal[2].sign()
        height = normal @ middle
    ground = xyz @ normal - height < GROUND
    motion[:3, :3] = _upright(normal)
    motion[2, 3] = -height
    return motion, ground


def ego_motion(before: Tensor, field: DistanceField, start: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Tensor:
    """The turn about z and the shift along x and y, float64 [4, 4], that bring points [N, 3] closest to a field's.

    Gauss-Newton on the distances (Fitzgibbon, 2003), each weighted by how small it is, so that what moves by itself
    counts little.

    Args:
        before: points of the first sweep, its ground level and left out.
        field: of those of the second.
        start: yaw, x and y to begin with.
    """
    yaw, x, y = (torch.tensor(value, dtype=torch.float64) for value in start)
    for step in range(TRIES):
        moved = act(_planar(yaw, x, y), before).requires_grad_()
        distance = field(moved)
        slope = torch.autograd.grad(distance.sum(), moved)[0].double()
        distance, place = distance.detach().double(), moved.detach().double()
        scale = field.furthest * max(0.5 * 0.85**step, 0.1)
        weight = (distance < field.furthest) * (scale**2 / (scale**2 + distance**2)).square()
        turning = slope[:, 1] * (place[:, 0] - x) - slope[:, 0] * (place[:, 1] - y)
        jacobian = torch.stack([turning, slope[:, 0], slope[:, 1]], dim=1)
        system = jacobian.T @ (weight[:, None] * jacobian) + 1e-6 * torch.eye(3, dtype=torch.float64)
        change = torch.linalg.solve(system, -jacobian.T @ (weight * distance))
        yaw, x, y = yaw + change[0], x + change[1], y + change[2]
        if float(change.abs().max()) < 1e-5:
            break
    return _planar(yaw, x, y)


def act(motion: Tensor, points: Tensor) -> Tensor:
    """Where a motion [4, 4] takes points [N, 3]."""
    return points @ motion[:3, :3].T.to(points) + motion[:3, 3].to(points)


def _lowest(xyz: Tensor) -> Tensor:
    """The height of most of the lowest points, of squares of 2 m within 20 m."""
    near = xyz[xyz[:, :2].abs().amax(dim=1) < 20]
    if not len(near):
        return xyz[:, 2].median()
    square = ((near[:, :2] + 20) / 2).long() @ torch.tensor([20, 1])
    lowest = near.new_full((400,), math.inf).scatter_reduce(0, square, near[:, 2], "amin")
    return lowest[lowest.isfinite()].median()


def _planar(yaw: Tensor, x: Tensor, y: Tensor) -> Tensor:
    motion = torch.eye(4, dtype=torch.float64)
    motion[0, 0] = motion[1, 1] = yaw.cos()
    motion[0, 1], motion[1, 0] = -yaw.sin(), yaw.sin()
    motion[0, 3], motion[1, 3] = x, y
    return motion


def _upright(normal: Tensor) -> Tensor:
    """The shortest rotation [3, 3] of a unit vector with z > 0 to the z axis (Rodrigues)."""
    axis = torch.stack([normal[1], -normal[0], torch.zeros_like(normal[0])])
    cross = torch.zeros(3, 3, dtype=normal.dtype)
    cross[0, 1], cross[0, 2], cross[1, 2] = -axis[2], axis[1], -axis[0]
    cross = cross - cross.T
    return torch.eye(3, dtype=normal.dtype) + cross + cross @ cross / (1 + normal[2])
