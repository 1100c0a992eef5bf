"""Layouts of `lidar/navigate`: walls, obstacles, start and goal made by chance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
STATIC, MOVING = 7, 3
ROBOT = 0.26
"""Radius of the robot, metres."""
MOVER = 0.22
"""Radius of what moves, metres."""
GOAL = 0.4
"""Metres from the goal at which it is reached."""
GAP = 0.9
"""The least room between things that stand, metres: the robot fits through everywhere."""
FARTHEST = 6.0
"""The most that a wall is away from the middle, metres."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Where everything is.

    Convention:
        half: [2], metres from the middle to the walls along x and y.
        place: [STATIC, 2], metres, the middles of obstacles.
        size: [STATIC, 2], metres: half length and half width of boxes (odd numbers); radius twice of cylinders.
        turn: [STATIC], radians, counter-clockwise.
        height: [STATIC], metres, half of it.
        path: [MOVING, 2, 2], metres, the two ends between which movers go to and fro.
        speed, phase: [MOVING], metres a second; seconds at which the movers begin.
        start: x, y, yaw of the robot.
        goal: [2], metres.
    """

    half: Array
    place: Array
    size: Array
    turn: Array
    height: Array
    path: Array
    speed: Array
    phase: Array
    start: Array
    goal: Array

    def movers(self, time: float | Array) -> Array:
        """Where the movers are at times [...], [..., MOVING, 2], metres."""
        length = np.linalg.norm(self.path[:, 1] - self.path[:, 0], axis=1)
        gone = (np.asarray(time)[..., None] + self.phase) * self.speed / length
        share = 1 - np.abs(gone % 2 - 1)
        places: Array = self.path[:, 0] + share[..., None] * (self.path[:, 1] - self.path[:, 0])
        return places

    def clearance(self, points: Array, time: float | Array) -> Array:
        """Metres [...] from points [..., 2] at times [...] to the nearest thing; not above 0 inside of it."""
        walls = (self.half - np.abs(points)).min(axis=-1)
        movers = np.linalg.norm(points[..., None, :] - self.movers(time), axis=-1) - MOVER
        nearest: Array = np.minimum(np.minimum(walls, movers.min(axis=-1)), self.standing(points))
        return nearest

    def standing(self, points: Array) -> Array:
        """Metres [...] from points [..., 2] to the nearest obstacle that stands."""
        offset = points[..., None, :] - self.place
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        along = np.stack([cos * offset[..., 0] + sin * offset[..., 1], cos * offset[..., 1] - sin * offset[..., 0]], -1)
        beyond = np.abs(along) - self.size
        boxes = np.linalg.norm(np.maximum(beyond, 0), axis=-1) + np.minimum(beyond.max(axis=-1), 0)
        round_ones = np.linalg.norm(offset, axis=-1) - self.size[:, 0]
        nearest: Array = np.where(np.arange(STATIC) % 2, boxes, round_ones).min(axis=-1)
        return nearest


def make_layout(random: np.random.Generator) -> Layout:
    """A layout in which the goal can be reached."""
    while True:
        layout = _try_layout(random)
        if layout is not None:
            return layout


def _try_layout(random: np.random.Generator) -> Layout | None:
    """A layout, or None where chance has left no room for something."""
    half = random.uniform(4.0, 5.5, 2)
    start, goal = random.uniform(-1, 1, (2, 2)) * (half - 0.9)
    path = random.uniform(-1, 1, (MOVING, 2, 2)) * (half - 0.7)
    length = np.linalg.norm(path[:, 1] - path[:, 0], axis=1)
    speed, phase = random.uniform(0.1, 0.4, MOVING), random.uniform(0, 30, MOVING)
    size = random.uniform(0.2, 0.5, (STATIC, 2))
    size[::2, 1] = size[::2, 0]
    around = np.where(np.arange(STATIC) % 2, np.linalg.norm(size, axis=1), size[:, 0])
    place = _place(random, half, start, goal, path, around)
    if place is None or np.linalg.norm(goal - start) < 4 or length.min() < 2:
        return None
    turn, height = random.uniform(0, np.pi, STATIC), random.uniform(0.3, 0.7, STATIC)
    yaw = random.uniform(-np.pi, np.pi)
    layout = Layout(half, place, size, turn, height, path, speed, phase, np.array([*start, yaw]), goal)
    near = np.linalg.norm(layout.movers(0.0) - start, axis=1).min()
    return layout if near > 1.5 else None


def _place(
    random: np.random.Generator, half: Array, start: Array, goal: Array, path: Array, around: Array
) -> Array | None:
    """Places [STATIC, 2] of obstacles with these radii [STATIC], every other one near the way to the goal."""
    places: list[Array] = []
    for number, radius in enumerate(around):
        everywhere = random.uniform(-1, 1, (50, 2)) * (half - radius - GAP)
        on_the_way = start + random.random((50, 1)) * (goal - start) + random.normal(0, 0.7, (50, 2))
        points = on_the_way if number % 2 else everywhere
        free = (np.abs(points) < half - radius - GAP).all(axis=1)
        free &= np.linalg.norm(points - start, axis=1) > radius + ROBOT + 0.5
        free &= np.linalg.norm(points - goal, axis=1) > radius + ROBOT + GOAL
        free &= (_to_segments(points, path) > radius + MOVER + 0.1).all(axis=1)
        for other, size in zip(places, around, strict=False):
            free &= np.linalg.norm(points - other, axis=1) > radius + size + GAP
        if not free.any():
            return None
        places.append(points[int(np.argmax(free))])
    return np.stack(places)


def _to_segments(points: Array, segments: Array) -> Array:
    """Distances [N, S] of points [N, 2] to segments [S, 2, 2]."""
    way = segments[:, 1] - segments[:, 0]
    offset = points[:, None] - segments[:, 0]
    share = np.clip((offset * way).sum(axis=2) / (way * way).sum(axis=1), 0, 1)
    distances: Array = np.linalg.norm(offset - share[..., None] * way, axis=2)
    return distances


def wall_places(half: Array) -> Array:
    """The middles of the walls, [4, 3], metres, 0.1 m beyond where they are felt."""
    x, y = half + 0.1
    return np.array([[x, 0, 0.4], [-x, 0, 0.4], [0, y, 0.4], [0, -y, 0.4]])


def yaw_quaternion(yaw: float) -> tuple[float, float, float, float]:
    """The turn about z as MuJoCo writes it."""
    return math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)
