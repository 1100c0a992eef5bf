"""Where roads run: straight or in an arc, perhaps with another one across, over ground that is not even."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from robovision.lidar.height_fields import HeightField
from robovision.types import Array

WAVES = ((90.0, 0.025), (45.0, 0.018), (24.0, 0.012), (13.0, 0.006))
"""Lengths, metres, and steepest slopes of the waves of the ground."""

TILT = 0.012
"""Standard deviation of the slope of the whole ground along each axis."""

WILD = (10.0, 40.0)
"""Metres from a road's axis at which the waves begin to grow, and at which they are twice as high."""

BESIDE = 60.0
"""Metres of ground that are made beyond the roads."""

BEND = 1.2
"""Radians that a road turns at most on each side of its middle."""


@dataclass(frozen=True)
class Road:
    """A road's axis: a straight line or an arc.

    Convention:
        place, yaw: where it begins to be measured, metres, and its heading there, radians.
        bend: its curvature, 1/m, positive to the left.
        ends: metres along it from its place, which may lie between them, to where it begins and ends.
    """

    place: tuple[float, float]
    yaw: float
    bend: float
    ends: tuple[float, float]

    def at(self, along: float, aside: float) -> tuple[float, float, float]:
        """The place, metres, and the heading, radians, so far along the road and to the left of its axis."""
        turned = self.bend * along
        chord = along * np.sinc(turned / 2 / np.pi)
        half, heading = self.yaw + turned / 2, self.yaw + turned
        x = self.place[0] + chord * np.cos(half) - aside * np.sin(heading)
        y = self.place[1] + chord * np.sin(half) + aside * np.cos(heading)
        return float(x), float(y), float(heading)

    def find(self, places: Array) -> tuple[Array, Array]:
        """How far along the road, and to the left of its axis, places [..., 2] are."""
        x, y = np.moveaxis(np.asarray(places, np.float64) - self.place, -1, 0)
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        ahead, left = cos * x + sin * y, cos * y - sin * x
        if self.bend == 0:
            return ahead, left
        radius = 1 / self.bend
        side = np.sign(radius)
        along = np.arctan2(side * ahead, side * (radius - left)) * radius
        return along, radius - side * np.hypot(ahead, radius - left)

    def turn(self, speed: float, aside: float) -> float:
        """Radians a second of what follows the road at a speed, negative against its heading."""
        return speed * self.bend / (1 - self.bend * aside)


def make_roads(rng: np.random.Generator, length: float) -> tuple[Road, ...]:
    """The road through the origin, along x there, so long to both sides, perhaps in an arc; perhaps one across it.

    What comes from the side crosses it, or ends at it, at any angle from 65 to 115 degrees.
    """
    bend = float(rng.choice([-1, 1]) * rng.uniform(0.3, BEND) / length) if rng.random() < 0.6 else 0.0
    main = Road((0.0, 0.0), 0.0, bend, (-length, length))
    if rng.random() < 0.3:
        return (main,)
    x, y, heading = main.at(float(rng.choice([-1, 1], p=[0.3, 0.7]) * rng.uniform(16, 45)), 0.0)
    yaw = heading + rng.choice([-1, 1]) * np.pi / 2 + rng.uniform(-0.43, 0.43)
    ends = (0.0, 55.0) if rng.random() < 0.4 else (-55.0, 55.0)
    return main, Road((x, y), float(yaw), 0.0, ends)


def clear_of(roads: tuple[Road, ...], places: Array, room: float) -> Array:
    """Which places [..., 2] are farther from the axes of all roads than so many metres."""
    free = np.ones(places.shape[:-1], bool)
    for road in roads:
        along, aside = road.find(places)
        free &= (np.abs(aside) > room) | (along < road.ends[0] - 3) | (along > road.ends[1] + 3)
    return free


def make_ground(rng: np.random.Generator, roads: tuple[Road, ...]) -> HeightField:
    """Slopes and waves under the roads and farther away; the height at the origin is 0."""
    ends = [road.at(end, 0.0)[:2] for road in roads for end in road.ends]
    half = float(np.ceil(np.abs(ends).max() + BESIDE))
    line = np.linspace(-half, half, 2 * int(half) + 1)
    x, y = np.meshgrid(line, line)
    waves = np.zeros_like(x)
    for length, slope in WAVES:
        angle, phase = rng.uniform(0, 2 * np.pi, 2)
        wave = 2 * np.pi / length
        waves += rng.uniform(0.5, 1) * slope / wave * np.sin(wave * (np.cos(angle) * x + np.sin(angle) * y) + phase)
    away = np.min([np.abs(road.find(np.stack([x, y], axis=-1))[1]) for road in roads], axis=0)
    heights = waves * (1 + np.clip((away - WILD[0]) / (WILD[1] - WILD[0]), 0, 1))
    heights += np.tensordot(rng.normal(0, TILT, 2), np.stack([x, y]), 1)
    middle = len(line) // 2
    return HeightField(torch.from_numpy((heights - heights[middle, middle]).astype(np.float32)), (half, half))
