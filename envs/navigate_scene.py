"""The scene of `lidar/navigate`: its MuJoCo model, and layouts of walls, obstacles, start and goal made by chance."""

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


def mjcf() -> str:
    """The model: what a layout moves are bodies without dynamics (mocap)."""
    shapes = ("cylinder", "box")
    colors = ("0.55 0.60 0.68 1", "0.62 0.55 0.45 1")
    obstacles = [
        f'<body name="obstacle{k}" mocap="true"><geom name="obstacle{k}" type="{shapes[k % 2]}" size="0.3 0.3 0.5" '
        f'rgba="{colors[k % 2]}"/></body>'
        for k in range(STATIC)
    ]
    movers = [
        f'<body name="mover{k}" mocap="true" pos="0 {k} 0.7"><geom name="mover{k}" type="capsule" '
        f'size="{MOVER} {0.7 - MOVER}" rgba="0.85 0.35 0.25 1"/></body>'
        for k in range(MOVING)
    ]
    walls = [
        f'<body name="wall{k}" mocap="true"><geom name="wall{k}" type="box" size="{size}" rgba="0.35 0.4 0.48 1"/>'
        "</body>"
        for k, size in enumerate(
            (f"0.1 {FARTHEST} 0.4", f"0.1 {FARTHEST} 0.4", f"{FARTHEST} 0.1 0.4", f"{FARTHEST} 0.1 0.4")
        )
    ]
    wheels = [
        f'<body name="{name}" pos="0 {y} 0.1"><joint name="{name}" axis="0 1 0" damping="0.02"/>'
        '<geom type="cylinder" size="0.1 0.025" euler="90 0 0" friction="1.2 0.005 0.0001" mass="0.4" '
        'rgba="0.1 0.1 0.1 1"/></body>'
        for name, y in (("left", 0.2), ("right", -0.2))
    ]
    casters = [
        f'<geom type="sphere" size="0.048" pos="{x} 0 0.048" condim="1" priority="1" mass="0.1" rgba="0.1 0.1 0.1 1"/>'
        for x in (-0.18, 0.18)
    ]
    return f"""<mujoco model="navigate">
  <option timestep="0.01" integrator="implicitfast"><flag midphase="disable"/></option>
  <visual><headlight ambient="0.3 0.3 0.3" diffuse="0.15 0.15 0.15"/><map znear="0.01" zfar="40"/></visual>
  <statistic center="0 0 0.5" extent="8"/>
  <asset>
    <texture name="sky" type="skybox" builtin="gradient" rgb1="0.75 0.82 0.9" rgb2="0.95 0.96 0.98"
      width="64" height="384"/>
    <texture name="floor" type="2d" builtin="checker" rgb1="0.90 0.90 0.88" rgb2="0.82 0.82 0.80"
      width="64" height="64"/>
    <material name="floor" texture="floor" texrepeat="12 12"/>
  </asset>
  <worldbody>
    <light pos="3 -4 9" dir="-0.3 0.4 -0.9" directional="true" diffuse="0.4 0.4 0.4"/>
    <camera name="top" pos="0 0 14" fovy="46"/>
    <camera name="corner" pos="-7.5 -7.5 7.5" xyaxes="0.7071 -0.7071 0 0.42 0.42 0.8" fovy="48"/>
    <geom name="floor" type="plane" size="{FARTHEST} {FARTHEST} 0.1" material="floor"/>
    {"".join(walls)}
    <body name="goal" mocap="true"><site name="goal" type="cylinder" size="{GOAL} 0.01" rgba="0.15 0.75 0.3 0.8"/>
      <site name="goal_beam" type="cylinder" size="0.03 0.6" pos="0 0 0.6" rgba="0.15 0.75 0.3 0.8"/></body>
    {"".join(obstacles)}{"".join(movers)}
    <body name="robot">
      <freejoint name="robot"/>
      <geom name="chassis" type="cylinder" size="{ROBOT - 0.01} 0.07" pos="0 0 0.14" mass="6" rgba="0.2 0.4 0.85 1"/>
      <geom type="box" size="0.05 0.06 0.02" pos="0.17 0 0.22" mass="0.1" rgba="0.95 0.8 0.2 1"/>
      <geom type="cylinder" size="0.05 0.05" pos="0 0 0.26" mass="0.3" rgba="0.1 0.1 0.1 1"/>
      <site name="lidar" pos="0 0 0.28" size="0.01" rgba="0 0 0 0"/>
      <camera name="robot" pos="0.2 0 0.3" xyaxes="0 -1 0 0.1 0 1" fovy="80"/>
      {"".join(casters)}{"".join(wheels)}
    </body>
  </worldbody>
  <actuator>
    <velocity joint="left" kv="5" ctrlrange="-15 15" forcerange="-2 2"/>
    <velocity joint="right" kv="5" ctrlrange="-15 15" forcerange="-2 2"/>
  </actuator>
</mujoco>"""


def wall_places(half: Array) -> Array:
    """The middles of the walls, [4, 3], metres, 0.1 m beyond where they are felt."""
    x, y = half + 0.1
    return np.array([[x, 0, 0.4], [-x, 0, 0.4], [0, y, 0.4], [0, -y, 0.4]])


def yaw_quaternion(yaw: float) -> tuple[float, float, float, float]:
    """The turn about z as MuJoCo writes it."""
    return math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)
