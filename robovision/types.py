"""What crosses a boundary between parts of the library: frozen, validated, with units and conventions.

Arrays are NumPy arrays that can't be written to; `len()` is the number of things in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]
"""Any array is taken and converted to the type that the convention names."""

NUMBERS = "biuf"
"""The kinds of NumPy's types that are numbers, truths among them."""


@dataclass(frozen=True, eq=False)
class Keypoints:
    """N keypoints of one image, strongest first if the extractor says so.

    Convention:
        xy: float32 [N, 2], in pixels of the original image, x to the right, y down. The centre of the top-left
            pixel is (0, 0), as in OpenCV; COLMAP adds 0.5 to both.
        image_size: (width, height) in pixels of the original image.
        scores: float32 [N], larger is better.
        descriptors: float32 [N, D], or None if they have not been computed.
        angles: float32 [N], radians, from the x axis towards the y axis (clockwise to the eye), or None.
        scales: float32 [N], radius in pixels of what the keypoint describes, or None.
        uncertainties: float32 [N], standard deviation of the place in pixels, or None.

    Raises:
        ValueError: for wrong shapes, NaN or infinite numbers, or keypoints outside the image.
    """

    xy: Array
    image_size: tuple[int, int]
    scores: Array
    descriptors: Array | None = None
    angles: Array | None = None
    scales: Array | None = None
    uncertainties: Array | None = None

    def __post_init__(self) -> None:
        _freeze(self, "xy", np.float32, (None, 2))
        count = len(self)
        _freeze(self, "scores", np.float32, (count,))
        _freeze(self, "descriptors", np.float32, (count, None))
        _freeze(self, "angles", np.float32, (count,))
        _freeze(self, "scales", np.float32, (count,))
        _freeze(self, "uncertainties", np.float32, (count,))
        width, height = self.image_size
        if width < 1 or height < 1:
            raise ValueError(f"Keypoints.image_size must be (width, height) >= 1, got {self.image_size}")
        edge = np.array([width, height]) - 0.5
        outside = np.flatnonzero(((self.xy < -0.5) | (self.xy > edge)).any(axis=1))
        if len(outside):
            at = outside[0]
            raise ValueError(
                f"Keypoints.xy[{at}] = {self.xy[at].tolist()} lies outside the image of {width} x {height} pixels"
            )

    def __len__(self) -> int:
        return len(self.xy)


@dataclass(frozen=True, eq=False)
class PointCloud:
    """N points of one sweep of a sensor.

    Convention:
        xyz: float32 [N, 3], metres, in `frame`; x forward, y to the left, z up (right-handed, ROS REP 103).
        intensity: float32 [N] in 0..1, or None.
        time: float32 [N], seconds since the sweep's reference time (negative: earlier), or None.
        ring: int64 [N], the number of the laser, or None.
        frame: the frame that xyz is given in, such as `lidar`, `ego` or `world`.

    Raises:
        ValueError: for wrong shapes, NaN or infinite numbers, or intensity outside
            0..1, which is often one in 0..255.
    """

    xyz: Array
    intensity: Array | None = None
    time: Array | None = None
    ring: Array | None = None
    frame: str = "lidar"

    def __post_init__(self) -> None:
        _freeze(self, "xyz", np.float32, (None, 3))
        count = len(self)
        _freeze(self, "intensity", np.float32, (count,))
        _freeze(self, "time", np.float32, (count,))
        _freeze(self, "ring", np.int64, (count,))
        if self.intensity is not None and count:
            low, high = float(self.intensity.min()), float(self.intensity.max())
            if low < 0 or high > 1:
                raise ValueError(
                    f"PointCloud.intensity must lie in 0..1, got {low:g}..{high:g}; divide it by its scale, such as 255"
                )

    def __len__(self) -> int:
        return len(self.xyz)


@dataclass(frozen=True, eq=False)
class Boxes3D:
    """N oriented boxes around objects.

    Convention:
        centers: float32 [N, 3], metres, the geometric centre, in `frame`; x forward, y to the left, z up.
        sizes: float32 [N, 3], metres: length along the heading, width, height.
        yaw: float32 [N], radians, the heading, counter-clockwise about z from the x axis.
        labels: int64 [N], indices into `classes`.
        classes: names of the classes.
        scores: float32 [N] of detections, larger is better, or None for ground truth.
        velocities: float32 [N, 2], metres a second along x and y, or None.
        frame: the frame that the boxes are given in.

    Raises:
        ValueError: for wrong shapes, NaN or infinite numbers, negative sizes, or labels that are no class.
    """

    centers: Array
    sizes: Array
    yaw: Array
    labels: Array
    classes: tuple[str, ...]
    scores: Array | None = None
    velocities: Array | None = None
    frame: str = "lidar"

    def __post_init__(self) -> None:
        _freeze(self, "centers", np.float32, (None, 3))
        count = len(self)
        _freeze(self, "sizes", np.float32, (count, 3))
        _freeze(self, "yaw", np.float32, (count,))
        _freeze(self, "labels", np.int64, (count,))
        _freeze(self, "scores", np.float32, (count,))
        _freeze(self, "velocities", np.float32, (count, 2))
        negative = np.flatnonzero((self.sizes < 0).any(axis=1))
        if len(negative):
            raise ValueError(f"Boxes3D.sizes[{negative[0]}] = {self.sizes[negative[0]].tolist()} is negative")
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= len(self.classes)))
        if len(wrong):
            raise ValueError(
                f"Boxes3D.labels[{wrong[0]}] = {self.labels[wrong[0]]} is none of the {len(self.classes)} classes"
            )

    def __len__(self) -> int:
        return len(self.centers)


@dataclass(frozen=True)
class Metric:
    """One measured number with its unit and, where there is one, its confidence interval.

    Convention:
        value: in `unit`; a share of 1 has the unit "1", not "%".
        low, high: the interval's ends, in `unit`.
        confidence: of the interval, such as 0.95.
        count: how many samples the value is made from.

    Raises:
        ValueError: for NaN or infinite numbers, or an interval that does not hold the value.

    >>> Metric.proportion("success", 25, 25)
    Metric(name='success', value=1.0, unit='1', low=0.8668..., high=1.0, confidence=0.95, count=25)
    """

    name: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"Metric {self.name!r}: {entry.name} is {value}")
        if (self.low is None) != (self.high is None):
            raise ValueError(f"Metric {self.name!r}: an interval needs both ends, got {self.low}, {self.high}")
        if self.low is not None and self.high is not None and not self.low <= self.value <= self.high:
            raise ValueError(f"Metric {self.name!r}: {self.value} lies outside {self.low}..{self.high}")

    @classmethod
    def proportion(cls, name: str, successes: int, count: int) -> Metric:
        """The share of successes with its 95 % Wilson score interval (Wilson, 1927).

        Raises:
            ValueError: unless 0 <= successes <= count and count >= 1.
        """
        if not 0 <= successes <= count or count < 1:
            raise ValueError(f"{name}: {successes} successes of {count}")
        z = 1.959963984540054
        share = successes / count
        centre = (share + z * z / (2 * count)) / (1 + z * z / count)
        reach = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count**2)) / (1 + z * z / count)
        low = min(share, max(0.0, centre - reach))
        high = max(share, min(1.0, centre + reach))
        return cls(name, share, "1", low, high, 0.95, count)

    def __str__(self) -> str:
        unit = "" if self.unit == "1" else f" {self.unit}"
        notes = [] if self.confidence is None else [f"{self.confidence:.0%} interval {self.low:.3g} to {self.high:.3g}"]
        notes += [] if self.count is None else [f"n = {self.count}"]
        return f"{self.value:.3g}{unit}" + (f" ({', '.join(notes)})" if notes else "")


def _freeze(instance: Any, name: str, dtype: type, shape: Sequence[int | None]) -> None:
    """Replace an array field by a checked one that can't be written to; None stays None."""
    given: ArrayLike | None = getattr(instance, name)
    if given is None:
        return
    label = f"{type(instance).__name__}.{name}"
    array = np.asarray(given)
    if array.dtype.kind not in NUMBERS:
        raise ValueError(f"{label} must be numbers, got an array of {array.dtype}")
    if array.size == 0 and array.ndim == 1 and len(shape) == 2:
        array = array.reshape(0, shape[1] or 0)
    if array.ndim != len(shape) or any(e is not None and e != n for e, n in zip(shape, array.shape, strict=True)):
        expected = ", ".join("any" if e is None else str(e) for e in shape)
        raise ValueError(f"{label} must have shape [{expected}], got {list(array.shape)}")
    if not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0].tolist()
        raise ValueError(f"{label} must be finite, got {array[tuple(where)]} at {where}")
    array = array.astype(dtype, copy=True)
    array.flags.writeable = False
    object.__setattr__(instance, name, array)
