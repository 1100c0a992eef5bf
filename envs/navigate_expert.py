"""The scripted expert of `lidar/navigate`: the dynamic window approach (Fox, Burgard, Thrun, 1997) over a distance map.

It knows where everything is and will be. Of some hundred pairs of a speed and a turn rate it takes the one that, held
for two seconds, comes nearest to the goal along the shortest way around what stands, without touching anything.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from robovision.envs.navigate_scene import FARTHEST, ROBOT, Layout

Array = NDArray[Any]
CELL = 0.2
"""Metres of a cell of the map."""
STEPS, STEP = 20, 0.1
"""How far ahead, in steps of so many seconds."""
SAFE, ROOM = 0.08, 0.25
"""Metres between the robot and anything that must, and that should, remain."""
BLOCKED = 8.0
"""How many times as long a way through what stands counts, so that the map is finite everywhere."""
SPEEDS = np.array([-0.4, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
TURNS = np.linspace(-1, 1, 17)


class Planner:
    """What to do in one layout, by the robot's pose and the time."""

    def __init__(self, layout: Layout, speed: float, turn: float) -> None:
        self._layout = layout
        self._actions = np.stack(np.meshgrid(SPEEDS, TURNS, indexing="ij"), axis=-1).reshape(-1, 2)
        self._limits = np.array([speed, turn])
        self._map = _distances(layout)

    def __call__(self, pose: Array, time: float) -> NDArray[np.float32]:
        """The best action, float32 [2]."""
        ahead = STEP * np.arange(1, STEPS + 1)
        points = _drive(pose, self._actions * self._limits, ahead)
        clear = self._layout.clearance(points, time + ahead) - ROBOT
        remaining = self._look_up(points)
        # What comes after the goal does not count.
        remaining = np.minimum.accumulate(np.where(remaining < 0.25, 0.0, remaining), axis=1)
        ends = np.minimum.accumulate(remaining > 0, axis=1)
        harm = np.where(ends, np.maximum(ROOM - clear, 0) * 2 + 100 * (clear < SAFE) * (1 + ahead[::-1]), 0)
        cost = remaining.mean(axis=1) + harm.mean(axis=1)
        best: NDArray[np.float32] = self._actions[int(np.argmin(cost))].astype(np.float32)
        return best

    def _look_up(self, points: Array) -> Array:
        """Metres [...] to the goal from points [..., 2], between the map's cells."""
        at = np.clip((points + FARTHEST) / CELL - 0.5, 0, len(self._map) - 1.001)
        low = at.astype(int)
        x, y = (at - low)[..., 0], (at - low)[..., 1]
        i, j = low[..., 0], low[..., 1]
        one, other = self._map[i, j] * (1 - y) + self._map[i, j + 1] * y, self._map[i + 1, j] * (1 - y)
        between: Array = one * (1 - x) + (other + self._map[i + 1, j + 1] * y) * x
        return between


def _drive(pose: Array, commands: Array, times: Array) -> Array:
    """Where [K, T, 2] the robot is at times [T] if it holds speeds and turn rates [K, 2]."""
    x, y, yaw = pose
    speed, turn = commands[:, :1], commands[:, 1:]
    half = turn * times / 2
    chord = speed * times * np.sinc(half / np.pi)
    return np.stack([x + chord * np.cos(yaw + half), y + chord * np.sin(yaw + half)], axis=-1)


def _distances(layout: Layout) -> Array:
    """Metres of the shortest way to the goal, around what stands, from each cell's middle."""
    axis = np.arange(-FARTHEST + CELL / 2, FARTHEST, CELL)
    middles = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    walls = (layout.half - np.abs(middles)).min(axis=-1)
    free = np.minimum(walls, layout.standing(middles)) > ROBOT + SAFE
    price = np.where(free, 1.0, BLOCKED)
    away = np.linalg.norm(middles - layout.goal, axis=-1)
    found = np.where(away < 1.5 * CELL, away, np.inf)
    steps = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
    while True:
        padded = np.pad(found, 1, constant_values=np.inf)
        size = len(axis)
        ways = [padded[1 + i : 1 + i + size, 1 + j : 1 + j + size] + CELL * np.hypot(i, j) * price for i, j in steps]
        shorter: Array = np.minimum(found, np.min(ways, axis=0))
        if np.allclose(shorter, found):
            return shorter
        found = shorter
