"""One sweep of a LiDAR through a world that moves: distances, intensities, what is lost, and the exact truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from robovision.lidar.fans import Fans, cast_fans
from robovision.lidar.primitives import Primitives
from robovision.lidar.sensors import Sensor
from robovision.types import Array, PointCloud

Pose = Callable[[Array], Array]
"""The sensor's poses in the world, float64 [C, 4, 4], at times [C] in seconds."""

World = Callable[[float], Primitives]
"""The shapes at a time in seconds; their number and order never change."""

SECTORS = 8
"""Parts of a sweep within which the world stands still; the sensor moves from column to column."""

BRIGHT = 20.0
"""Metres up to which the signal does not fall with distance; beyond, as its inverse."""


CLEAR = 0.25
"""Strength of the signal, 0..1, from which on distances are measured as well as the sensor can."""


@dataclass(frozen=True, eq=False)
class Sweep:
    """What a sensor returns, and what is true of it.

    Convention:
        cloud: N points in the sensor's frame at the start of the sweep, with intensity, time and ring.
        shape: int64 [N], the shape that each point is on.
        ideal: float32 [N], metres, the distance without noise.
    """

    cloud: PointCloud
    shape: Array
    ideal: Array


def take_sweep(
    sensor: Sensor, world: World, pose: Pose, start: float, albedo: Array, rng: np.random.Generator, mask: float = 0.0
) -> Sweep:
    """A sweep that starts at a time, in seconds.

    The sensor moves while it turns (rolling), and every point is given where its surface was at its own time, in
    the sensor's frame at the start: as after motion compensation by the true poses.

    Args:
        sensor: its rays, reach and noise.
        world: the shapes at a time.
        pose: the sensor's poses at times.
        start: when the first column fires.
        albedo: float [G], share of the light that each shape sends back, 0..1.
        rng: of noise and losses.
        mask: metres around the sensor within which points are of the car that carries it, and left out.
    """
    times, directions = sensor.times(), sensor.directions()
    columns, lasers = len(sensor.azimuths), len(sensor.elevations)
    frames = pose(np.asarray(start + times[::lasers]))
    firsts = [part[0] for part in np.array_split(np.arange(columns), min(SECTORS, columns))]
    worlds = [world(float(start + times[first * lasers])) for first in firsts]
    hits = cast_fans(worlds, sensor_fans(sensor, frames))
    distance, index, facing = (values.flatten().numpy() for values in (hits.distance, hits.index, hits.facing()))
    seen = np.flatnonzero(index >= 0)
    light, falls = albedo[index[seen]], np.minimum(1, BRIGHT / distance[seen])
    signal = light * facing[seen] * falls
    if sensor.fades is not None:
        falls = np.clip((sensor.fades[1] - distance[seen]) / (sensor.fades[1] - sensor.fades[0]), 0, 1)
    intensity = light * facing[seen] ** sensor.incidence * falls + rng.normal(0, sensor.grain, len(seen))
    noise = np.clip(
        sensor.noise * np.sqrt(CLEAR / np.maximum(signal, 1e-6)), sensor.noise, max(sensor.noise, sensor.dim_noise)
    )
    measured = distance[seen] + rng.normal(0, noise)
    kept = (measured >= max(sensor.reach[0], mask)) & (measured <= sensor.reach[1])
    # A dim return is lost more often than a bright one.
    lost = sensor.loss + np.exp(-signal / sensor.dimmest)
    kept &= rng.random(len(seen)) >= lost
    seen, measured, intensity = seen[kept], measured[kept], intensity[kept]
    column = seen // lasers
    relative = np.linalg.inv(frames[0]) @ frames
    local = directions[seen].astype(np.float64) * measured[:, None]
    xyz = np.einsum("nij,nj->ni", relative[column, :3, :3], local) + relative[column, :3, 3]
    cloud = PointCloud(xyz, np.clip(intensity, 0, 1), times[seen], seen % lasers)
    return Sweep(cloud, index[seen], distance[seen])


def sensor_fans(sensor: Sensor, frames: Array) -> Fans:
    """The rays of a sensor whose columns fire from poses [C, 4, 4] in the world."""
    turn = frames[:, :3, :3]
    ahead = np.cos(sensor.azimuths)[:, None] * turn[:, :, 0] + np.sin(sensor.azimuths)[:, None] * turn[:, :, 1]
    parts = (frames[:, :3, 3], ahead, turn[:, :, 2], sensor.elevations)
    return Fans(*(torch.from_numpy(np.ascontiguousarray(part, np.float32)) for part in parts))
