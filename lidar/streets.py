"""Streets as a LiDAR sees them: things made of simple shapes that stand on the ground, and move."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch

from robovision.lidar.height_fields import HeightField
from robovision.lidar.primitives import BOX, CAPSULE, CYLINDER, ELLIPSOID, FIELD, PLANE, Primitives
from robovision.types import Array, Boxes3D

CLASSES = ("Car", "Van", "Truck", "Pedestrian", "Cyclist")
LANE = 1.75
"""Metres from a road's axis to the middles of its lanes."""

HEIGHT = 1.73
"""Metres of the LiDAR above the ground, as on KITTI's car."""

WORDS = {
    BOX: "box",
    ELLIPSOID: "ellipsoid",
    CYLINDER: "cylinder",
    CAPSULE: "capsule",
    PLANE: "plane",
    FIELD: "hfield",
}


@dataclass(frozen=True)
class Shape:
    """One shape of an actor, upright in its frame, whose origin is on the ground below the middle, x ahead."""

    kind: int
    center: tuple[float, float, float]
    size: tuple[float, float, float]
    albedo: float
    lying: bool = False
    """Whether the shape's z axis points to the actor's left, as that of a wheel."""


@dataclass(frozen=True)
class Actor:
    """Something in the street; what moves does so on a circle, or straight on if it does not turn."""

    shapes: tuple[Shape, ...]
    place: tuple[float, float]
    yaw: float
    name: str = ""
    """Its class; nothing for what can't move."""
    size: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Length, width and height of its box, or, of what can't move, of the place where nobody else can be."""
    speed: float = 0.0
    turn: float = 0.0
    """Radians a second."""
    raised: float = 0.0
    """Metres above the ground, as of who stands on a kerb."""
    stance: Literal["upright", "flush", "fixed"] = "upright"
    """Whether it stands upright on the ground, lies on it as it slopes, or, as the ground itself, knows no ground."""


@dataclass(frozen=True, eq=False)
class Street:
    """All actors of a scene; the sensor's car is not among them, but has a speed and a turn.

    The ground is the first actor, of one shape; its heights, if it is not even, are in `ground`, whose frame is the
    world's. Whoever moves stays upright, and so does the sensor: they follow the ground in height alone.
    """

    actors: tuple[Actor, ...]
    speed: float
    turn: float
    ground: HeightField | None = None

    @cached_property
    def albedo(self) -> Array:
        """Of all shapes [G]."""
        return np.array([shape.albedo for shape in self._flat])

    @cached_property
    def owner(self) -> Array:
        """The actor of each shape, int64 [G]."""
        return np.repeat(np.arange(len(self.actors)), [len(actor.shapes) for actor in self.actors])

    @cached_property
    def moving(self) -> Array:
        """Whether each actor moves, bool [A]."""
        return np.array([actor.speed > 0 for actor in self.actors], bool)

    def poses(self, time: float) -> Array:
        """The actors' poses in the world, float64 [A, 4, 4], at a time in seconds."""
        poses = self._poses.copy()
        movers = np.flatnonzero(self.moving)
        poses[movers] = self.motion(movers, np.full(len(movers), time))
        return poses

    def motion(self, numbers: Array, times: Array) -> Array:
        """The poses in the world, float64 [N, 4, 4], of moving actors [N], each at its own time [N] in seconds."""
        poses = drive(self._state[numbers], times)
        poses[:, 2, 3] = self.heights(poses[:, :2, 3]) + self._raised[numbers]
        return poses

    def ego(self, times: Array) -> Array:
        """The LiDAR's poses in the world, float64 [T, 4, 4], at times [T] in seconds."""
        poses = drive(np.array([[0.0, -LANE, 0.0, self.speed, self.turn]]), np.asarray(times))
        poses[:, 2, 3] = self.heights(poses[:, :2, 3]) + HEIGHT
        return poses

    def heights(self, places: Array) -> Array:
        """The ground's heights in the world, float64 [N], at places [N, 2]."""
        if self._precise is None:
            return np.zeros(len(places))
        return self._precise.at(*torch.from_numpy(np.ascontiguousarray(places.T))).numpy()

    def shapes(self, time: float) -> Primitives:
        """All shapes at a time in seconds."""
        kind, size, center, lying = self._parts
        pose = self.poses(time)[self.owner]
        rotation = pose[:, :3, :3].copy()
        rotation[lying] = rotation[lying] @ np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
        at = np.einsum("gij,gj->gi", pose[:, :3, :3], center) + pose[:, :3, 3]
        places, turns = (torch.from_numpy(values.astype(np.float32)) for values in (at, rotation))
        return Primitives(kind, places, turns, size, self.ground)

    def boxes(self, time: float) -> Boxes3D:
        """The boxes of all road users in the LiDAR's frame, with velocities over ground, in the order of the actors."""
        users = [k for k, actor in enumerate(self.actors) if actor.name]
        local = np.linalg.inv(self.ego(np.array([time]))) @ self.poses(time)[users]
        sizes = np.array([self.actors[k].size for k in users], np.float64).reshape(-1, 3)
        centers = local[:, :3, 3] + np.stack([0 * sizes[:, 2], 0 * sizes[:, 2], sizes[:, 2] / 2], axis=1)
        speed = np.array([self.actors[k].speed for k in users])
        labels = np.array([CLASSES.index(self.actors[k].name) for k in users], np.int64)
        yaw = np.arctan2(local[:, 1, 0], local[:, 0, 0])
        return Boxes3D(centers, sizes, yaw, labels, CLASSES, velocities=speed[:, None] * local[:, :2, 0])

    def mjcf(self, time: float = 0.0) -> str:
        """The scene at a time as a MuJoCo model, one body an actor and one geom a shape, in the same order."""
        shapes = self.shapes(time)
        assets, lowest = "", 0.0
        if self.ground is not None:
            assets, lowest = _mujoco_field(self.ground)
        geoms = []
        for kind, at, turn, size in zip(
            shapes.kind.tolist(), shapes.center.tolist(), shapes.rotation.tolist(), shapes.size.tolist(), strict=True
        ):
            x, y = (" ".join(str(row[k]) for row in turn) for k in range(2))
            extent = 'size="0 0 1"' if kind == PLANE else f'size="{" ".join(map(str, size))}"'
            if kind == FIELD:
                at, extent = [0, 0, lowest], 'hfield="ground"'
            place = " ".join(map(str, at))
            geoms.append(f'<geom type="{WORDS[kind]}" pos="{place}" xyaxes="{x} {y}" {extent}/>')
        parts = []
        first = 0
        for n, actor in enumerate(self.actors):
            last = first + len(actor.shapes)
            parts.append(f'<body name="actor{n}">{"".join(geoms[first:last])}</body>')
            first = last
        return f"<mujoco>{assets}<worldbody>{''.join(parts)}</worldbody></mujoco>"

    @cached_property
    def _flat(self) -> list[Shape]:
        return [shape for actor in self.actors for shape in actor.shapes]

    @cached_property
    def _parts(self) -> tuple[torch.Tensor, torch.Tensor, Array, Array]:
        """Kinds, sizes, centers and whether they lie, of all shapes."""
        return (
            torch.tensor([shape.kind for shape in self._flat], dtype=torch.int64),
            torch.tensor([shape.size for shape in self._flat], dtype=torch.float32).reshape(-1, 3),
            np.array([shape.center for shape in self._flat], np.float64).reshape(-1, 3),
            np.array([shape.lying for shape in self._flat], bool),
        )

    @cached_property
    def _state(self) -> Array:
        return np.array([(*a.place, a.yaw, a.speed, a.turn) for a in self.actors], np.float64).reshape(-1, 5)

    @cached_property
    def _raised(self) -> Array:
        return np.array([actor.raised for actor in self.actors])

    @cached_property
    def _precise(self) -> HeightField | None:
        return None if self.ground is None else HeightField(self.ground.heights.double(), self.ground.half)

    @cached_property
    def _poses(self) -> Array:
        """Of all actors at the start, float64 [A, 4, 4]."""
        poses = self.motion(np.arange(len(self.actors)), np.zeros(len(self.actors)))
        fixed, flush = (
            np.flatnonzero([actor.stance == stance for actor in self.actors]) for stance in ("fixed", "flush")
        )
        poses[fixed, 2, 3] = 0
        if self._precise is not None:
            places = torch.from_numpy(np.ascontiguousarray(poses[flush, :2, 3].T))
            poses[flush, :3, :3] = _lean(poses[flush, :3, 0], self._precise.normal(*places).numpy().T)
        return poses


def _lean(ahead: Array, up: Array) -> Array:
    """Rotations [N, 3, 3] that head towards `ahead` [N, 3] as far as they can when z points along `up` [N, 3]."""
    up = up / np.linalg.norm(up, axis=1, keepdims=True)
    left = np.cross(up, ahead)
    left = left / np.linalg.norm(left, axis=1, keepdims=True)
    return np.stack([np.cross(left, up), left, up], axis=2)


def drive(state: Array, time: Array | float) -> Array:
    """Poses [A, 4, 4], after times [A] or [1], of what starts at x, y, yaw, speed and turn, [A, 5] or [1, 5]."""
    x, y, yaw, speed, turn = state.T
    half = turn * time / 2
    chord = speed * time * np.sinc(half / np.pi)
    heading = yaw + turn * time
    poses = np.tile(np.eye(4), (np.size(heading), 1, 1))
    poses[:, 0, 0], poses[:, 0, 1] = np.cos(heading), -np.sin(heading)
    poses[:, 1, 0], poses[:, 1, 1] = np.sin(heading), np.cos(heading)
    poses[:, 0, 3], poses[:, 1, 3] = x + chord * np.cos(yaw + half), y + chord * np.sin(yaw + half)
    return poses


def _mujoco_field(field: HeightField) -> tuple[str, float]:
    """The asset of a height field, whose heights MuJoCo counts from the lowest, and that one; its file's rows fall."""
    lowest, highest = (float(end) for end in torch.aminmax(field.heights))
    deep = max(highest - lowest, 1e-6)
    values = " ".join(map(str, ((field.heights.flip(0) - lowest) / deep).flatten().tolist()))
    rows, columns = field.heights.shape
    size = f"{field.half[0]} {field.half[1]} {deep} 1"
    asset = f'<hfield name="ground" nrow="{rows}" ncol="{columns}" size="{size}" elevation="{values}"/>'
    return f"<asset>{asset}</asset>", lowest
