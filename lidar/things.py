"""What stands and moves in streets: road users, buildings and plants, out of simple shapes of sizes by chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from robovision.lidar.primitives import BOX, CAPSULE, CYLINDER, ELLIPSOID
from robovision.lidar.streets import Actor, Shape

Place = tuple[float, float, float]
"""Where something stands, x and y in metres, and its yaw, radians."""

CELLAR = 1.5
"""Metres that buildings, and by a fifth poles and trunks, reach into the ground, which may slope."""


def make_building(rng: np.random.Generator, wide: float, deep: float) -> Actor:
    """A block as wide along the street, and as deep, as it is told, that is to be placed."""
    high = rng.uniform(5, 18)
    size = (wide / 2, deep / 2, (high + CELLAR) / 2)
    shape = Shape(BOX, (0, 0, (high - CELLAR) / 2), size, float(rng.uniform(0.2, 0.6)))
    return Actor((shape,), (0, 0), 0, size=(wide, deep, high))


def make_tree(rng: np.random.Generator, place: Place) -> Actor:
    """A trunk and bunches of leaves."""
    high, thick = rng.uniform(2, 4), rng.uniform(0.1, 0.25)
    trunk = _post(high, thick, 0.3)
    crown = _leaves(rng, 6, (0, 0, high + 0.8), (0.9, 0.9, 0.7))
    return Actor((trunk, *crown), place[:2], place[2], size=(2 * thick, 2 * thick, high))


def make_bush(rng: np.random.Generator, place: Place) -> Actor:
    """Bunches of leaves in a row."""
    long = float(rng.uniform(0.4, 1.2))
    leaves = _leaves(rng, 4, (0, 0, 0.5), (long, 0.25, 0.25))
    return Actor(tuple(leaves), place[:2], place[2], size=(2 * long + 0.6, 1.0, 1.0))


def make_pole(rng: np.random.Generator, place: Place) -> Actor:
    """A pole, perhaps with a sign that shines."""
    high = rng.uniform(3, 8)
    shapes = [_post(high, 0.08, 0.4)]
    if rng.random() < 0.4:
        shapes.append(Shape(BOX, (0, 0, 2.5), (0.02, 0.35, 0.35), 0.95))
    return Actor(tuple(shapes), place[:2], place[2], size=(0.16, 0.16, high))


def make_kerb(place: Place, size: tuple[float, float, float]) -> Actor:
    """A piece of sidewalk, as long, wide and high as it is told, that lies on the ground."""
    long, wide, high = size
    shape = Shape(BOX, (0, 0, high - 0.2), (long / 2, wide / 2, 0.2), 0.34)
    return Actor((shape,), place[:2], place[2], stance="flush")


def make_vehicle(rng: np.random.Generator, place: Place) -> Actor:
    """A car, or at times a van or a truck, that stands."""
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
    return Actor(tuple(shapes), place[:2], place[2], name, (length, width, height))


def make_pedestrian(rng: np.random.Generator, place: Place) -> Actor:
    """Somebody in the middle of a step, with swinging arms, who stands."""
    height = rng.uniform(1.5, 1.95)
    legs = height * 0.47
    shapes = _person(rng, legs - height * 0.13, height * 0.66 + height * 0.13, 0.0)
    stride = rng.uniform(0.05, 0.22)
    for x, y in ((stride, 0.1), (-stride, -0.1)):
        shapes.append(Shape(CAPSULE, (x, y, legs / 2), (0.075, legs / 2 - 0.075, 0), 0.3))
        shapes.append(Shape(CAPSULE, (-x, 2.3 * y, height * 0.63), (0.05, height * 0.14, 0), 0.35))
    return Actor(tuple(shapes), place[:2], place[2], "Pedestrian", (2 * stride + 0.35, 0.62, height))


def make_cyclist(rng: np.random.Generator, place: Place) -> Actor:
    """Somebody on a bicycle, who stands."""
    height = rng.uniform(1.6, 1.85)
    shapes = _person(rng, 0.75, height - 0.75, -0.1)
    shapes += [Shape(CYLINDER, (x, 0, 0.34), (0.34, 0.02, 0), 0.2, lying=True) for x in (-0.52, 0.52)]
    shapes.append(Shape(BOX, (0, 0, 0.6), (0.5, 0.03, 0.04), 0.5))
    shapes += [Shape(CAPSULE, (0.05, y, 0.6), (0.08, 0.25, 0), 0.3) for y in (-0.12, 0.12)]
    shapes.append(Shape(BOX, (0.42, 0, 1.0), (0.03, 0.28, 0.03), 0.4))
    return Actor(tuple(shapes), place[:2], place[2], "Cyclist", (1.76, 0.6, height))


def placed(actor: Actor, place: Place) -> Actor:
    """The actor at another place."""
    return replace(actor, place=place[:2], yaw=place[2])


def _post(high: float, thick: float, albedo: float) -> Shape:
    deep = CELLAR / 5
    return Shape(CYLINDER, (0, 0, (high - deep) / 2), (thick, (high + deep) / 2, 0), albedo)


def _leaves(
    rng: np.random.Generator, count: int, middle: tuple[float, float, float], spread: tuple[float, float, float]
) -> list[Shape]:
    """Bunches of leaves, between which rays pass."""
    places = rng.normal(middle, spread, (count, 3)).tolist()
    return [Shape(ELLIPSOID, (x, y, z), tuple(rng.uniform(0.2, 0.8, 3).tolist()), 0.4) for x, y, z in places]


def _person(rng: np.random.Generator, seat: float, height: float, lean: float) -> list[Shape]:
    albedo = float(rng.uniform(0.2, 0.7))
    torso = Shape(CAPSULE, (lean, 0, seat + height * 0.36), (0.17, height * 0.17, 0), albedo)
    head = Shape(ELLIPSOID, (lean, 0, seat + height * 0.935 - 0.02), (0.11, 0.1, 0.13), 0.45)
    return [torso, head]
