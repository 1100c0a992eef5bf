"""Streets made by chance: buildings, trees, poles, bumps, and road users that move, out of simple shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from robovision.lidar.collisions import keep_apart
from robovision.lidar.primitives import BOX, CAPSULE, CYLINDER, ELLIPSOID, PLANE, Primitives
from robovision.types import Array, Boxes3D

CLASSES = ("Car", "Van", "Truck", "Pedestrian", "Cyclist")
ROAD, LANE, SIDEWALK = 7.0, 1.75, 5.0
"""Metres: width of the road, of its lanes' middles from its axis, of the middle of the sidewalk from its axis."""

HEIGHT = 1.73
"""Metres of the LiDAR above the ground, as on KITTI's car."""

SECONDS = 2.0
"""How long a street is made for, unless it is said."""

CAR = (4.6, 1.9, 1.6)
"""Length, width and height, metres, of the sensor's car."""

FASTEST = 14.0
"""Metres a second."""

WORDS = {BOX: "box", ELLIPSOID: "ellipsoid", CYLINDER: "cylinder", CAPSULE: "capsule", PLANE: "plane"}


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


@dataclass(frozen=True, eq=False)
class Street:
    """All actors of a scene; the sensor's car is not among them, but has a speed and a turn."""

    actors: tuple[Actor, ...]
    speed: float
    turn: float

    @property
    def albedo(self) -> Array:
        """Of all shapes [G]."""
        return np.array([shape.albedo for actor in self.actors for shape in actor.shapes])

    @property
    def owner(self) -> Array:
        """The actor of each shape, int64 [G]."""
        return np.repeat(np.arange(len(self.actors)), [len(actor.shapes) for actor in self.actors])

    def poses(self, time: float) -> Array:
        """The actors' poses in the world, float64 [A, 4, 4], at a time in seconds."""
        state = np.array([(*a.place, a.yaw, a.speed, a.turn) for a in self.actors], np.float64).reshape(-1, 5)
        return drive(state, time)

    def ego(self, times: Array) -> Array:
        """The LiDAR's poses in the world, float64 [T, 4, 4], at times [T] in seconds."""
        poses = drive(np.array([[0.0, -LANE, 0.0, self.speed, self.turn]]), np.asarray(times))
        poses[:, 2, 3] = HEIGHT
        return poses

    def shapes(self, time: float) -> Primitives:
        """All shapes at a time in seconds."""
        flat = [shape for actor in self.actors for shape in actor.shapes]
        pose = self.poses(time)[self.owner]
        center = np.array([shape.center for shape in flat], np.float64).reshape(-1, 3)
        rotation = pose[:, :3, :3].copy()
        lying = np.array([shape.lying for shape in flat], bool)
        rotation[lying] = rotation[lying] @ np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
        return Primitives(
            torch.tensor([shape.kind for shape in flat], dtype=torch.int64),
            torch.from_numpy((np.einsum("gij,gj->gi", pose[:, :3, :3], center) + pose[:, :3, 3]).astype(np.float32)),
            torch.from_numpy(rotation.astype(np.float32)),
            torch.tensor([shape.size for shape in flat], dtype=torch.float32).reshape(-1, 3),
        )

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
        geoms = []
        for kind, at, turn, size in zip(
            shapes.kind.tolist(), shapes.center.tolist(), shapes.rotation.tolist(), shapes.size.tolist(), strict=True
        ):
            x, y = (" ".join(str(row[k]) for row in turn) for k in range(2))
            extent = "0 0 1" if kind == PLANE else " ".join(map(str, size))
            place = " ".join(map(str, at))
            geoms.append(f'<geom type="{WORDS[kind]}" pos="{place}" xyaxes="{x} {y}" size="{extent}"/>')
        parts = []
        first = 0
        for n, actor in enumerate(self.actors):
            last = first + len(actor.shapes)
            parts.append(f'<body name="actor{n}">{"".join(geoms[first:last])}</body>')
            first = last
        return f"<mujoco><worldbody>{''.join(parts)}</worldbody></mujoco>"


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


def make_street(rng: np.random.Generator, seconds: float = SECONDS) -> Street:
    """A straight street along x with some 100 things in it, more if the drive takes longer; nobody meets anybody."""
    length = 80 + FASTEST * max(0.0, seconds - SECONDS)
    speed = float(rng.uniform(3, FASTEST))
    bend = 1.0 / (speed * max(seconds, SECONDS) ** 2)  # half a metre to the side in the end
    turn = float(np.clip(rng.normal(0, 0.01), -bend, bend))
    actors = [Actor((Shape(PLANE, (0, 0, 0), (0, 0, 0), 0.34),), (0, 0), 0)]
    for side in (-1, 1):
        actors += _buildings(rng, side, length)
        actors += [
            _tree(rng, x, side) for x in np.arange(-length, length, 14) + rng.uniform(-4, 4) if rng.random() < 0.7
        ]
        actors += [_bush(rng, x, side) for x in np.arange(-length, length, 20) if rng.random() < 0.4]
        actors += [_pole(rng, x, side) for x in np.arange(-length, length, 25) + rng.uniform(-4, 4)]
        actors.append(_kerb(side, length))
        actors += _parked(rng, side, length)
        actors += _driving(rng, side, length, speed if side < 0 else float(rng.uniform(5, FASTEST - 2)))
    many = length / 80
    actors += [_bump(rng, length) for _ in range(int(8 * many))]
    actors += [_pedestrian(rng, length) for _ in range(int(rng.integers(8, 17) * many))]
    actors += [_cyclist(rng, length) for _ in range(int(rng.integers(3, 8) * many))]
    ego = Actor((), (0.0, -LANE), 0.0, size=CAR, speed=speed, turn=turn)
    return Street(tuple(_apart([ego, *actors], seconds)[1:]), speed, turn)


def _apart(actors: Sequence[Actor], seconds: float) -> list[Actor]:
    """The actors without those that would run into an earlier one."""
    state = np.array([(*a.place, a.yaw, a.speed, a.turn) for a in actors], np.float64)
    times = np.linspace(0, seconds, 2 + int(8 * seconds))
    poses = np.stack([drive(state, time) for time in times])
    stays = keep_apart(poses, np.array([actor.size for actor in actors], np.float64))
    return [actor for actor, stay in zip(actors, stays.tolist(), strict=True) if stay]


def _buildings(rng: np.random.Generator, side: int, length: float) -> list[Actor]:
    actors, x = [], -length
    while x < length:
        wide, deep, high = rng.uniform(8, 20), rng.uniform(6, 12), rng.uniform(5, 18)
        shape = Shape(BOX, (0, 0, high / 2), (wide / 2, deep / 2, high / 2), float(rng.uniform(0.2, 0.6)))
        if rng.random() < 0.75:
            place = (x + wide / 2, side * (9 + deep / 2 + rng.uniform(0, 4)))
            actors.append(Actor((shape,), place, 0, size=(wide, deep, high)))
        x += wide + rng.uniform(0, 6)
    return actors


def _tree(rng: np.random.Generator, x: float, side: int) -> Actor:
    high, thick = rng.uniform(2, 4), rng.uniform(0.1, 0.25)
    trunk = Shape(CYLINDER, (0, 0, high / 2), (thick, high / 2, 0), 0.3)
    crown = _leaves(rng, 6, (0, 0, high + 0.8), (0.9, 0.9, 0.7))
    place = (x, side * rng.uniform(8, 8.7))
    return Actor((trunk, *crown), place, 0, size=(2 * thick, 2 * thick, high))


def _bush(rng: np.random.Generator, x: float, side: int) -> Actor:
    long = float(rng.uniform(0.4, 1.2))
    leaves = _leaves(rng, 4, (0, 0, 0.5), (long, 0.25, 0.25))
    return Actor(tuple(leaves), (x, side * 8.3), 0, size=(2 * long + 0.6, 1.0, 1.0))


def _leaves(
    rng: np.random.Generator, count: int, middle: tuple[float, float, float], spread: tuple[float, float, float]
) -> list[Shape]:
    """Bunches of leaves, between which rays pass."""
    places = rng.normal(middle, spread, (count, 3)).tolist()
    return [Shape(ELLIPSOID, (x, y, z), tuple(rng.uniform(0.2, 0.8, 3).tolist()), 0.4) for x, y, z in places]


def _pole(rng: np.random.Generator, x: float, side: int) -> Actor:
    high = rng.uniform(3, 8)
    shapes = [Shape(CYLINDER, (0, 0, high / 2), (0.08, high / 2, 0), 0.4)]
    if rng.random() < 0.4:
        shapes.append(Shape(BOX, (0, 0, 2.5), (0.02, 0.35, 0.35), 0.95))
    return Actor(tuple(shapes), (x, side * 5.9), 0, size=(0.16, 0.16, high))


def _kerb(side: int, length: float) -> Actor:
    return Actor((Shape(BOX, (0, 0, 0.06), (length + 40, 2.5, 0.06), 0.34),), (0, side * (ROAD / 2 + 2.7)), 0)


def _bump(rng: np.random.Generator, length: float) -> Actor:
    shape = Shape(ELLIPSOID, (0, 0, 0), (*rng.uniform(2, 8, 2).tolist(), rng.uniform(0.05, 0.25)), 0.34)
    return Actor((shape,), tuple(rng.uniform([-length, -30], [length, 30]).tolist()), float(rng.uniform(0, 3)))


def _vehicle(rng: np.random.Generator, place: tuple[float, float], yaw: float, speed: float = 0.0) -> Actor:
    name = str(rng.choice(["Car", "Van", "Truck"], p=[0.8, 0.13, 0.07]))
    mean = {"Car": (4.1, 1.65, 1.5), "Van": (5.0, 1.95, 2.2), "Truck": (9.0, 2.5, 3.3)}[name]
    length, width, height = (np.array(mean) * rng.normal(1, 0.06, 3)).tolist()
    albedo = float(rng.uniform(0.1, 0.8))
    wheel = min(0.36, height / 4)
    body = height * (0.52 if name == "Car" else 0.35 if name == "Truck" else 0.5)
    shapes = [Shape(BOX, (0, 0, (wheel + body) / 2 - 0.05), (length / 2, width / 2, (body - wheel) / 2 + 0.15), albedo)]
    front, back = {"Car": (-0.15, 0.28), "Van": (-0.05, 0.44), "Truck": (-0.12, 0.38)}[name]
    cabin = (length * front, 0.0, (body + height) / 2 - 0.05)
    shapes.append(Shape(BOX, cabin, (length * back, width * 0.45, (height - body) / 2 + 0.05), albedo * 0.6))
    if name == "Truck":
        shapes.append(Shape(BOX, (length * 0.4, 0, height * 0.42), (length * 0.1, width / 2, height * 0.3), albedo))
    axles = [(x * length, y * width, wheel) for x in (-0.32, 0.32) for y in (-0.46, 0.46)]
    shapes += [Shape(CYLINDER, at, (wheel, width * 0.04, 0), 0.1, lying=True) for at in axles]
    return Actor(tuple(shapes), place, yaw, name, (length, width, height), speed)


def _parked(rng: np.random.Generator, side: int, length: float) -> list[Actor]:
    places = [x for x in np.arange(-length, length, 7.5) if rng.random() < 0.45]
    return [_vehicle(rng, (x, side * (ROAD / 2 + 1.35)), rng.normal(0, 0.04) + (side > 0) * np.pi) for x in places]


def _driving(rng: np.random.Generator, side: int, length: float, lane: float) -> list[Actor]:
    """Vehicles of a lane at about its speed: who is ahead is faster, so that nobody runs into anybody."""
    places = [x for x in np.arange(-length, length, 22) + rng.uniform(0, 9) if rng.random() < 0.6 and abs(x) > 12]
    ahead = -side * np.array(places)
    more = np.sort(rng.uniform(0, 2, len(places)))[np.argsort(np.argsort(np.abs(ahead)))]
    speeds = np.maximum(lane + np.sign(ahead) * more, 1.0).tolist()
    heading = 0.0 if side < 0 else np.pi
    return [_vehicle(rng, (x, side * LANE), heading, speed) for x, speed in zip(places, speeds, strict=True)]


def _person(rng: np.random.Generator, seat: float, height: float, lean: float) -> list[Shape]:
    albedo = float(rng.uniform(0.2, 0.7))
    torso = Shape(CAPSULE, (lean, 0, seat + height * 0.36), (0.17, height * 0.17, 0), albedo)
    head = Shape(ELLIPSOID, (lean, 0, seat + height * 0.935 - 0.02), (0.11, 0.1, 0.13), 0.45)
    return [torso, head]


def _pedestrian(rng: np.random.Generator, length: float) -> Actor:
    height = rng.uniform(1.5, 1.95)
    legs = height * 0.47
    shapes = _person(rng, legs - height * 0.13, height * 0.66 + height * 0.13, 0.0)
    stride = rng.uniform(0.05, 0.22)
    for x, y in ((stride, 0.1), (-stride, -0.1)):
        shapes.append(Shape(CAPSULE, (x, y, legs / 2), (0.075, legs / 2 - 0.075, 0), 0.3))
        shapes.append(Shape(CAPSULE, (-x, 2.3 * y, height * 0.63), (0.05, height * 0.14, 0), 0.35))
    place = (float(rng.uniform(-length * 0.6, length * 0.6)), float(rng.choice([-1, 1]) * rng.uniform(6.4, 7.4)))
    yaw = float(rng.choice([0, np.pi]) + rng.normal(0, 0.06))
    size = (2 * stride + 0.35, 0.62, height)
    return Actor(tuple(shapes), place, yaw, "Pedestrian", size, float(rng.uniform(0, 1.8)))


def _cyclist(rng: np.random.Generator, length: float) -> Actor:
    height = rng.uniform(1.6, 1.85)
    shapes = _person(rng, 0.75, height - 0.75, -0.1)
    shapes += [Shape(CYLINDER, (x, 0, 0.34), (0.34, 0.02, 0), 0.2, lying=True) for x in (-0.52, 0.52)]
    shapes.append(Shape(BOX, (0, 0, 0.6), (0.5, 0.03, 0.04), 0.5))
    shapes += [Shape(CAPSULE, (0.05, y, 0.6), (0.08, 0.25, 0), 0.3) for y in (-0.12, 0.12)]
    shapes.append(Shape(BOX, (0.42, 0, 1.0), (0.03, 0.28, 0.03), 0.4))
    side = int(rng.choice([-1, 1]))
    place = (float(rng.uniform(-length * 0.6, length * 0.6)), side * 3.2)
    return Actor(
        tuple(shapes), place, 0.0 if side < 0 else np.pi, "Cyclist", (1.76, 0.6, height), float(rng.uniform(2, 7))
    )
