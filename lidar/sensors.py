"""LiDAR sensors: which way their rays go, when, and how well they measure.

Sources: the makers' data sheets for elevations, columns and rates; ranges and noise are round numbers near theirs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from robovision.errors import UsageError, unknown
from robovision.lidar.checks import read_bytes
from robovision.types import Array

OS1 = {64: 16.6, 128: 22.5}
"""By the number of lasers of an OS1, the elevation of its highest and lowest, degrees."""

OUSTER_MODES = ((512, 10), (512, 20), (1024, 10), (1024, 20), (2048, 10))
"""Columns, and sweeps a second, that an OS1 can be set to."""


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


def spinning(elevations: Array, columns: int, **options: Any) -> Sensor:
    """A sensor that turns clockwise, from behind over the left once around, with elevations in degrees."""
    azimuths = np.pi - 2 * np.pi * np.arange(columns) / columns
    return Sensor(np.radians(elevations), azimuths, **options)


def solid_state(rows: int = 128, columns: int = 512) -> Sensor:
    """A sensor that looks 60 degrees to each side and scans its columns to and fro."""
    sweep = np.radians(60) * np.sin(np.linspace(-np.pi / 2, np.pi / 2, columns))
    return Sensor(np.radians(np.linspace(12.5, -12.5, rows)), sweep, reach=(0.5, 200.0), noise=0.02)


def ouster(lasers: int, columns: int = 1024, rate: float = 10.0) -> Sensor:
    """An OS1 with 64 or 128 lasers; 1.5 cm of noise where bright, 10 cm where dim."""
    elevations = np.linspace(OS1[lasers], -OS1[lasers], lasers)
    return spinning(elevations, columns, rate=rate, reach=(0.5, 120.0), noise=0.015, dim_noise=0.1)


def hdl_64e() -> Sensor:
    """Velodyne's HDL-64E, as on KITTI's car: 32 lasers at 1/3 degree above, 32 at 1/2 degree below; 115,200 rays.

    Both blocks share one origin, in the middle of the sensor: the real one's lasers sit at heights of their own.
    Its intensity is calibrated as in KITTI's frames: hardly any incidence, no fall up to 20 m, 0 from 50 m on.
    """
    upper, lower = 2 - np.arange(32) / 3, -8.83 - np.arange(32) * (24.8 - 8.83) / 31
    return spinning(np.concatenate([upper, lower]), 1800, incidence=0.1, fades=(20.0, 50.0), grain=0.07)


VLP_32C = (
    15, 10.333, 7, 4.667, 3.333, 2.333, 1.667, 1.333, 1, 0.667, 0.333, 0, -0.333, -0.667, -1, -1.333, -1.667, -2,
    -2.333, -2.667, -3, -3.333, -3.667, -4, -4.667, -5.333, -6.148, -7.254, -8.843, -11.31, -15.639, -25,
)  # fmt: skip
"""Degrees of the lasers of Velodyne's VLP-32C, which are densest near the horizon."""

SENSORS: dict[str, Callable[[], Sensor]] = {
    "hdl-64e": hdl_64e,
    "hdl-32e": lambda: spinning(10.67 - np.arange(32) * 4 / 3, 1800, reach=(1.0, 100.0)),
    "vlp-16": lambda: spinning(15.0 - 2 * np.arange(16), 1800, reach=(0.5, 100.0), noise=0.03),
    "vlp-32c": lambda: spinning(np.array(VLP_32C), 1800, reach=(1.0, 200.0), noise=0.03),
    "os1-64": lambda: ouster(64),
    "os1-128": lambda: ouster(128),
    "solid-state": solid_state,
    "planar": lambda: spinning(np.zeros(1), 180, reach=(0.0, 10.0), noise=0.01),
    "mini-16": lambda: spinning(15.0 - 2 * np.arange(16), 180, reach=(0.1, 30.0), noise=0.02),
}
SENSORS |= {
    f"os1-{lasers}-{columns}x{rate}": partial(ouster, lasers, columns, rate)
    for lasers in OS1
    for columns, rate in OUSTER_MODES
}


def make_sensor(name: str) -> Sensor:
    """A sensor by name, or of a file whose name ends with `.json`, as `read_sensor` says.

    Raises:
        UsageError: for an unknown name, with the nearest ones, or a file that is wrong.

    >>> len(make_sensor("hdl-64e")), len(make_sensor("os1-64-512x20"))
    (115200, 32768)
    """
    if name.lower().endswith(".json"):
        return read_sensor(Path(name))
    if name not in SENSORS:
        raise unknown("sensor", name, SENSORS)
    return SENSORS[name]()


def read_sensor(path: Path) -> Sensor:
    """A sensor from a JSON file: an object with `elevations` and with `columns` or `azimuths`, in degrees.

    `columns` is how many times the lasers fire while they turn clockwise once around; `azimuths` says where, counter-
    clockwise from ahead, in the order of firing. The numbers of `Sensor` may be given too: `rate`, `reach`, `noise`,
    `dim_noise`, `loss`, `dimmest`, `incidence`, `fades` and `grain`.

    Raises:
        UsageError: naming the file, the field and what it must be.
    """
    try:
        described = json.loads(read_bytes(path))
    except ValueError as error:
        raise UsageError(f"{path} is not JSON ({error}); write an object such as {EXAMPLE}") from error
    if not isinstance(described, dict):
        raise UsageError(f"{path} must hold an object such as {EXAMPLE}, got {type(described).__name__}")
    for name, value in described.items():
        if name not in RULES:
            raise UsageError(f"{path}: {unknown('field', name, RULES)}")
        wanted, fits = RULES[name]
        if not fits(value):
            raise UsageError(f"{path}: {name} must be {wanted}, got {_shortened(value)}")
    if "elevations" not in described or ("columns" in described) == ("azimuths" in described):
        raise UsageError(f"{path} needs elevations, and either columns or azimuths, such as {EXAMPLE}")
    options: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in described.items() if name not in LAYOUT
    }
    columns = described.get("columns", 0) or len(described["azimuths"])
    if columns * len(described["elevations"]) > MOST_RAYS:
        raise UsageError(f"{path}: elevations times columns must be at most {MOST_RAYS:,} rays; give fewer")
    if "columns" in described:
        return spinning(np.array(described["elevations"], np.float64), columns, **options)
    elevations, azimuths = (np.radians(np.array(described[name], np.float64)) for name in LAYOUT[:2])
    return Sensor(elevations, azimuths, **options)


LAYOUT = ("elevations", "azimuths", "columns")
MOST_RAYS = 4_000_000
EXAMPLE = '{"elevations": [10, 0, -10], "columns": 900, "rate": 10, "reach": [0.5, 80]}'


def _number(least: float, below: float = np.inf) -> Callable[[Any], bool]:
    return lambda value: type(value) in (int, float) and least <= value < below


def _pair(value: Any) -> bool:
    return _angles(0, np.inf)(value) and len(value) == 2 and value[0] < value[1]


def _angles(least: float, most: float) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        return isinstance(value, list) and bool(value) and all(_number(least)(v) and v <= most for v in value)

    return fits


def _shortened(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 80 else f"{text[:60]} ..."


RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "elevations": ("a list of degrees in -90..90, ring 0 first", _angles(-90, 90)),
    "azimuths": ("a list of degrees in -360..360, counter-clockwise from ahead", _angles(-360, 360)),
    "columns": ("a whole number of at least 1", lambda value: type(value) is int and value >= 1),
    "rate": ("sweeps a second, above 0", _number(1e-6)),
    "reach": ("the nearest and the farthest distance in metres, such as [0.5, 80]", _pair),
    "noise": ("metres, at least 0", _number(0)),
    "dim_noise": ("metres, at least 0", _number(0)),
    "loss": ("a share from 0 to below 1", _number(0, 1)),
    "dimmest": ("a strength from 0.000001 to 1", _number(1e-6, 1 + 1e-9)),
    "incidence": ("a power of at least 0", _number(0)),
    "fades": ("two rising distances in metres, such as [20, 50]", _pair),
    "grain": ("an intensity of at least 0", _number(0)),
}
"""Of each field of a sensor's file, what it must be, and whether a value is."""
