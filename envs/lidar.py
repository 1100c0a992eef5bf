"""A LiDAR on any MuJoCo model: what `observe=("lidar", ...)` reads, at one instant; exact, or with its noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import robovision.envs.rendering  # noqa: F401  first: it chooses the backend that mujoco reads

# isort: split
import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from robovision.errors import UsageError, unknown
from robovision.lidar.sensors import make_sensor

EXAMPLE = "sensor=planar on=torso pos=0,0,0.3 euler=0,0,90"
BEYOND = 1e-4
"""Metres behind a part of the robot itself at which a ray goes on."""


@dataclass(frozen=True)
class Mount:
    """Which sensor, and where it is.

    Convention:
        sensor: a name that `robovision.lidar.sensors.make_sensor` knows.
        on: a body or site of the model; nothing for the body that the first movable joint belongs to.
        pos: metres, in the frame of `on`.
        euler: degrees, turns about the frame's x, then y, then z axis; the sensor looks along x, z is up.
        noise: whether distances are off by the sensor's noise, and its share of returns is lost.
    """

    sensor: str = "planar"
    on: str = ""
    pos: tuple[float, float, float] = (0.0, 0.0, 0.0)
    euler: tuple[float, float, float] = (0.0, 0.0, 0.0)
    noise: bool = False


def parse_mount(text: str, default: Mount | None = None) -> Mount:
    """A mount from text; what the text leaves out is as in the default, and `default` leaves out everything.

    >>> parse_mount("on=torso pos=0,0,0.3")
    Mount(sensor='planar', on='torso', pos=(0.0, 0.0, 0.3), euler=(0.0, 0.0, 0.0), noise=False)

    Raises:
        UsageError: if it is written otherwise.
    """
    default = default or Mount()
    if text == "default":
        return default
    parts = {name: value for name, _, value in (part.partition("=") for part in text.split())}
    try:
        sensor, on = parts.pop("sensor", default.sensor), parts.pop("on", default.on)
        pos = _three(parts.pop("pos")) if "pos" in parts else default.pos
        euler = _three(parts.pop("euler")) if "euler" in parts else default.euler
        noise = _on(parts.pop("noise")) if "noise" in parts else default.noise
    except ValueError as error:
        raise UsageError(f"the LiDAR {text!r} is not written like {EXAMPLE!r}: {error}") from error
    if parts:
        raise UsageError(f"the LiDAR {text!r} is not written like {EXAMPLE!r}: {', '.join(parts)} is unknown")
    return Mount(sensor, on, pos, euler, noise)


class MountedLidar:
    """Distances that a sensor measures from a model, all rays at once, of everything but its own robot.

    The robot is all that hangs on the same body of the world as the sensor; rays pass through it (an ego mask).
    Geoms that the simulator's pictures don't show, and fully transparent ones, are not hit.

    Args:
        model: the model.
        mount: which sensor, and where.
        geomgroups: the groups of geoms that can be hit.

    Raises:
        UsageError: for an unknown sensor, body or site, naming the nearest ones.
    """

    def __init__(self, model: mujoco.MjModel, mount: Mount, geomgroups: Sequence[int]) -> None:
        self._model = model
        sensor = make_sensor(mount.sensor)
        self._shape = len(sensor.elevations), len(sensor.azimuths)
        self._near, self._far = sensor.reach
        self._noise, self._loss = (sensor.noise, sensor.loss) if mount.noise else (0.0, 0.0)
        self._site, self._body = _find(model, mount.on)
        self._pos = np.array(mount.pos)
        self._rays = sensor.directions().astype(np.float64) @ _rotation(mount.euler).T
        self._groups = np.isin(np.arange(mujoco.mjNGROUP), geomgroups).astype(np.uint8)
        root = model.body_rootid[self._body]
        self._own = (model.body_rootid == root)[model.geom_bodyid] & (root != 0)
        self.space = spaces.Box(0.0, self._far, self._shape, np.float32)

    def read(self, data: mujoco.MjData, random: np.random.Generator) -> NDArray[np.float32]:
        """Metres, float32 [L, C]: ring 0 first, columns as they fire; the farthest reach where nothing comes back.

        `random` is drawn from only if the mount asks for noise.
        """
        if self._site >= 0:
            turn, at = data.site_xmat[self._site].reshape(3, 3), data.site_xpos[self._site]
        else:
            turn, at = data.xmat[self._body].reshape(3, 3), data.xpos[self._body]
        rays = self._rays @ turn.T
        starts = np.tile(at + turn @ self._pos, (len(rays), 1))
        distances, passed = np.zeros(len(rays)), np.zeros(len(rays))
        going = np.arange(len(rays))
        while len(going):
            found, own = self._cast(data, starts[going], rays[going])
            distances[going] = passed[going] + found
            going, beyond = going[own], found[own, None] + BEYOND
            passed[going] += beyond[:, 0]
            starts[going] += beyond * rays[going]
        if self._noise or self._loss:
            lost = random.random(len(rays)) < self._loss
            distances = np.where(lost, np.inf, distances + random.normal(0, self._noise, len(rays)))
        measured = (distances >= self._near) & (distances <= self._far)
        rings = np.where(measured, distances, self._far).reshape(self._shape[::-1]).T
        return np.ascontiguousarray(rings, np.float32)

    def _cast(
        self, data: mujoco.MjData, starts: NDArray[np.float64], rays: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Metres [R] to what each ray meets first, inf for nothing, and whether that is the robot itself.

        One by one: `mj_multiRay` of MuJoCo 3.3.0 leaves out geoms of bodies that reach far around the origin.
        """
        model, groups, body, geom = self._model, self._groups, self._body or -1, np.zeros(1, np.int32)
        distances, hit = [], []
        for start, ray in zip(starts, rays, strict=True):
            distances.append(mujoco.mj_ray(model, data, start, ray, groups, 1, body, geom))
            hit.append(int(geom[0]))
        found = np.array(distances)
        return np.where(found < 0, np.inf, found), (found >= 0) & self._own[hit]


def check_mount(model: mujoco.MjModel, mount: Mount) -> None:
    """Raise UsageError for an unknown sensor, body or site, naming the nearest ones."""
    make_sensor(mount.sensor)
    _find(model, mount.on)


def _find(model: mujoco.MjModel, name: str) -> tuple[int, int]:
    """The number of the site, -1 for none, and of the body on which a sensor is."""
    sites = [model.site(k).name for k in range(model.nsite)]
    bodies = [model.body(k).name for k in range(model.nbody)]
    if not name:
        return -1, int(model.body_rootid[model.jnt_bodyid[0]]) if model.njnt else 0
    if name in sites:
        site = sites.index(name)
        return site, int(model.site_bodyid[site])
    if name not in bodies:
        raise unknown("body or site", name, filter(None, [*bodies, *sites]))
    return -1, bodies.index(name)


def _three(text: str) -> tuple[float, float, float]:
    x, y, z = (float(word) for word in text.split(","))
    if not np.isfinite([x, y, z]).all():
        raise ValueError(f"{text} is not finite")
    return x, y, z


def _on(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError(f"noise is on or off, not {text!r}")
    return text == "on"


def _rotation(euler: tuple[float, float, float]) -> NDArray[np.float64]:
    """The matrix [3, 3] of turns by degrees about the fixed axes x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(euler)):
        turn = np.eye(3)
        one, other = (axis + 1) % 3, (axis + 2) % 3
        turn[one, one] = turn[other, other] = np.cos(angle)
        turn[other, one], turn[one, other] = np.sin(angle), -np.sin(angle)
        matrix = turn @ matrix
    return matrix
