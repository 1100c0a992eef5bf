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
    if name == "Car":
        return _make_car(rng, place)
    mean = {"Van": (5.0, 1.95, 2.2), "Truck": (9.0, 2.5, 3.3)}[name]
    length, width, height = (np.array(mean) * rng.normal(1, 0.06, 3)).tolist()
    albedo = float(rng.uniform(0.1, 0.8))
    wheel = min(0.36, height / 4)
    body = height * (0.35 if name == "Truck" else 0.5)
    shapes = _rounded((length, width), (wheel - 0.2, body + 0.1), min(0.3, rng.uniform(0.02, 0.4)), albedo)
    front, back = {"Van": (-0.05, 0.44), "Truck": (-0.12, 0.38)}[name]
    cabin = (length * front, 0.0, (body + height) / 2 - 0.05)
    shapes.append(Shape(BOX, cabin, (length * back, width * 0.45, (height - body) / 2 + 0.05), albedo * 0.6))
    if name == "Truck":
        shapes.append(Shape(BOX, (length * 0.4, 0, height * 0.42), (length * 0.1, width / 2, height * 0.3), albedo))
    shapes += _wheels(length, width, wheel)
    return Actor(tuple(shapes), place[:2], place[2], name, (length, width, height))


def _make_car(rng: np.random.Generator, place: Place) -> Actor:
    """From small European to large American ones, curved all around; the box has room for mirrors."""
    large = rng.random()
    size = (
        float(3.75 + 1.05 * large + rng.normal(0, 0.15)),
        float(1.62 + 0.35 * large + rng.normal(0, 0.05)),
        float(1.45 + (0.4 if rng.random() < 0.4 else 0.1) * large + rng.normal(0, 0.05)),
    )
    length, width = size[0] - rng.uniform(0, 0.15), size[1] - rng.uniform(0.02, 0.28)
    albedo, wheel = float(rng.uniform(0.1, 0.8)), float(rng.uniform(0.29, 0.36))
    shapes = [*_car_body(rng, length, width, size[2], albedo), *_wheels(length, width, wheel)]
    return Actor(tuple(shapes), place[:2], place[2], "Car", size)


def _car_body(rng: np.random.Generator, length: float, width: float, height: float, albedo: float) -> list[Shape]:
    """A rounded block with a bulge before and behind, a dome as the bonnet, and another one with windows."""
    sill, belt, bulge = rng.uniform(0.2, 0.3), height * rng.uniform(0.56, 0.64), rng.uniform(0.1, 0.35)
    bonnet = belt - rng.uniform(0.05, 0.25)
    shapes = _rounded((length - 2 * bulge, width), (sill, bonnet), rng.uniform(0.08, 0.4), albedo)
    middle, half, deep = (sill + bonnet) / 2, (bonnet - sill) / 2, rng.uniform(0.5, 0.9)
    for side in (-1, 1):
        end = (side * (length / 2 - deep), 0.0, middle)
        shapes.append(Shape(ELLIPSOID, end, (deep, width / 2, 1.1 * half), albedo))
    # Metres from the middle to where the windows begin and end, below.
    front, back = length * rng.uniform(0.1, 0.28), -length * rng.uniform(0.3, 0.48)
    shapes.append(Shape(ELLIPSOID, (front, 0, bonnet), (length / 2 - front, width * 0.47, belt - bonnet), albedo))
    shapes.append(_block((back, front), width * 0.97, (sill, belt), albedo))
    # Through windows as good as no light comes back, or they shine like the rest.
    glass, up, along = float(rng.choice([0.001, 0.3])), height - belt, (front - back) / 2
    at = ((front + back) / 2, 0.0, belt - 0.3 * up)
    shapes.append(Shape(ELLIPSOID, at, (1.1 * along, width * rng.uniform(0.45, 0.5), 1.3 * up), glass))
    for level, share in ((0.5, rng.uniform(0.65, 0.85)), (1.0, rng.uniform(0.35, 0.6))):
        roof = (at[0] - share * along, at[0] + share * along)
        shapes.append(
            _block(roof, width * (0.95 - 0.2 * level), (belt - 0.1, belt + level * up), (glass, albedo)[level == 1])
        )
    return shapes


def _rounded(size: tuple[float, float], ends: tuple[float, float], radius: float, albedo: float) -> list[Shape]:
    """A block of a length and width, from one height to another, whose upright edges are rounded."""
    long, wide = size[0] / 2, size[1] / 2
    middle, half = sum(ends) / 2, (ends[1] - ends[0]) / 2
    blocks = [
        Shape(BOX, (0, 0, middle), (x, y, half), albedo) for x, y in ((long, wide - radius), (long - radius, wide))
    ]
    corners = [(x * (long - radius), y * (wide - radius), middle) for x in (-1, 1) for y in (-1, 1)]
    return blocks + [Shape(CYLINDER, corner, (radius, half, 0), albedo) for corner in corners]


def _block(along: tuple[float, float], width: float, ends: tuple[float, float], albedo: float) -> Shape:
    """A block between two places along x, of a width, from one height to another."""
    sizes = ((along[1] - along[0]) / 2, width / 2, (ends[1] - ends[0]) / 2)
    return Shape(BOX, (sum(along) / 2, 0.0, sum(ends) / 2), sizes, albedo)


def _wheels(length: float, width: float, radius: float) -> list[Shape]:
    axles = [(x * length, y * width, radius) for x in (-0.32, 0.32) for y in (-0.46, 0.46)]
    return [Shape(CYLINDER, at, (radius, width * 0.04, 0), 0.1, lying=True) for at in axles]


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
