"""LiDAR sensors: which way their rays go, when, and how well they measure.

Sources: the makers' data sheets for elevations, columns and rates; ranges and noise are round numbers near theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from robovision.errors import UsageError, unknown
from robovision.types import Array


@dataclass(frozen=True, eq=False)
class Sensor:
    """A sensor with L lasers that fire together, C times a sweep.

    Convention:
        elevations: float64 [L], radians above the horizon; ring 0 first.
        azimuths: float64 [C], radians, counter-clockwise from x (forward), in the order of firing.
        rate: sweeps a second.
        reach: nearest and farthest distance that is measured, metres.
        noise: standard deviation of the distance, metres.
        dim_noise: what it grows to as the signal fades, with the inverse of its root; not above `noise`: constant.
        loss: share of returns that are lost anyhow, 0..1.
        dimmest: strength of the signal, 0..1, below which a return is lost.
        incidence: power of the cosine of incidence that reported intensity is weighted by: 1 as a matt surface
            reflects, near 0 where the sensor's calibration takes it out again.
        fades: metres at which reported intensity begins to fall and is 0; None to fall with the inverse of distance,
            as the signal does.
        grain: standard deviation of reported intensity, 0..1.
    """

    elevations: Array
    azimuths: Array
    rate: float = 10.0
    reach: tuple[float, float] = (0.9, 120.0)
    noise: float = 0.02
    dim_noise: float = 0.0
    loss: float = 0.02
    dimmest: float = 0.002
    incidence: float = 1.0
    fades: tuple[float, float] | None = None
    grain: float = 0.0

    def __post_init__(self) -> None:
        for name in ("elevations", "azimuths"):
            values = np.asarray(getattr(self, name), np.float64)
            if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
                raise UsageError(f"a sensor's {name} must be a list of finite angles, got shape {list(values.shape)}")
            object.__setattr__(self, name, values)
        if (
            not 0 <= self.reach[0] < self.reach[1]
            or self.rate <= 0
            or min(self.noise, self.dim_noise) < 0
            or not 0 <= self.loss < 1
        ):
            raise UsageError(f"a sensor needs rate > 0, 0 <= near < far, noise >= 0 and loss in 0..1, got {self}")
        if self.incidence < 0 or self.grain < 0 or (self.fades is not None and not 0 <= self.fades[0] < self.fades[1]):
            raise UsageError(
                f"a sensor's intensity needs incidence >= 0, grain >= 0 and fades that rise, got {self.incidence}, "
                f"{self.grain} and {self.fades}"
            )

    def __len__(self) -> int:
        """Rays a sweep."""
        return len(self.elevations) * len(self.azimuths)

    def directions(self) -> Array:
        """Unit vectors, float32 [C * L, 3], in the sensor's frame: column after column, ring after ring."""
        return self._directions.copy()

    @cached_property
    def _directions(self) -> Array:
        azimuth, elevation = np.meshgrid(self.azimuths, self.elevations, indexing="ij")
        flat = np.cos(elevation)
        parts = (flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation))
        directions: Array = np.stack(parts, axis=-1).reshape(-1, 3).astype(np.float32)
        return directions

    def times(self) -> Array:
        """Seconds, float64 [C * L], from the start of the sweep to each ray."""
        columns = np.arange(len(self.azimuths)) / len(self.azimuths) / self.rate
        return np.repeat(columns, len(self.elevations))


def spinning(elevations: Array, columns: int, **options: float | tuple[float, float]) -> Sensor:
    """A sensor that turns clockwise, from behind over the left once around, with elevations in degrees."""
    azimuths = np.pi - 2 * np.pi * np.arange(columns) / columns
    return Sensor(np.radians(elevations), azimuths, **options)  # type: ignore[arg-type]


def solid_state(rows: int = 128, columns: int = 512) -> Sensor:
    """A sensor that looks 60 degrees to each side and scans its columns to and fro."""
    sweep = np.radians(60) * np.sin(np.linspace(-np.pi / 2, np.pi / 2, columns))
    return Sensor(np.radians(np.linspace(12.5, -12.5, rows)), sweep, reach=(0.5, 200.0), noise=0.02)


def ouster(elevations: Array, columns: int = 1024, rate: float = 10.0) -> Sensor:
    """An OS1: 512, 1024 or 2048 columns, 10 or 20 sweeps a second; 1.5 cm of noise where bright, 10 cm where dim."""
    return spinning(elevations, columns, rate=rate, reach=(0.5, 120.0), noise=0.015, dim_noise=0.1)


def hdl_64e() -> Sensor:
    """Velodyne's HDL-64E, as on KITTI's car: 32 lasers at 1/3 degree above, 32 at 1/2 degree below; 115,200 rays.

    Its intensity is calibrated as in KITTI's frames: hardly any incidence, no fall up to 20 m, 0 from 50 m on.
    """
    upper, lower = 2 - np.arange(32) / 3, -8.83 - np.arange(32) * (24.8 - 8.83) / 31
    return spinning(np.concatenate([upper, lower]), 1800, incidence=0.1, fades=(20.0, 50.0), grain=0.07)


SENSORS: dict[str, Callable[[], Sensor]] = {
    "hdl-64e": hdl_64e,
    "hdl-32e": lambda: spinning(10.67 - np.arange(32) * 4 / 3, 1800, reach=(1.0, 100.0)),
    "vlp-16": lambda: spinning(15.0 - 2 * np.arange(16), 1800, reach=(0.5, 100.0), noise=0.03),
    "os1-64": lambda: ouster(np.linspace(16.6, -16.6, 64)),
    "os1-128": lambda: ouster(np.linspace(22.5, -22.5, 128)),
    "solid-state": solid_state,
    "planar": lambda: spinning(np.zeros(1), 180, reach=(0.0, 10.0), noise=0.01),
    "mini-16": lambda: spinning(15.0 - 2 * np.arange(16), 180, reach=(0.1, 30.0), noise=0.02),
}


def make_sensor(name: str) -> Sensor:
    """A sensor by name.

    Raises:
        UsageError: for an unknown name, with the nearest ones.

    >>> len(make_sensor("hdl-64e"))
    115200
    """
    if name not in SENSORS:
        raise unknown("sensor", name, SENSORS)
    return SENSORS[name]()
