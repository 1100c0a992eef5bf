"""What a detector is: its grid, its network and its classes, without importing torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from robovision.errors import UsageError
from robovision.types import Array

Encoder = Literal["pillars", "second", "residual"]


@dataclass(frozen=True)
class Grid:
    """The part of space that a detector looks at, cut into voxels.

    Convention:
        low, high: corners in metres, in the LiDAR's frame: x, y, z.
        voxel: length, width and height of a voxel in metres.
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    voxel: tuple[float, float, float]

    def __post_init__(self) -> None:
        numbers = (*self.low, *self.high, *self.voxel)
        if not all(map(math.isfinite, numbers)) or min(self.voxel) <= 0 or min(self.shape) < 1:
            raise UsageError(f"a grid needs finite numbers, low < high and voxels with a size, got {self}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """How many voxels there are along z, y and x."""
        z, y, x = (round((self.high[k] - self.low[k]) / self.voxel[k]) if self.voxel[k] > 0 else 0 for k in (2, 1, 0))
        return z, y, x

    def holds(self, xyz: Array) -> Array:
        """Which places [P, 3] lie in the grid, bool [P]."""
        inside: Array = np.all((xyz >= np.array(self.low)) & (xyz < np.array(self.high)), axis=1)
        return inside


@dataclass(frozen=True)
class BevOptions:
    """The convolutions over the ground: blocks that go down in resolution, and what brings them together again."""

    layers: tuple[int, ...]
    """Convolutions of each block behind its first."""
    strides: tuple[int, ...]
    """Stride of each block's first convolution."""
    channels: tuple[int, ...]
    """Channels of each block."""
    up_strides: tuple[int, ...]
    """By how much each block's result is enlarged before they are put side by side."""
    up_channels: tuple[int, ...]
    """Channels of each enlarged result."""

    def __post_init__(self) -> None:
        counts = {len(values) for values in (self.layers, self.strides, self.channels, self.up_strides)}
        if counts != {len(self.up_channels)} or not self.layers:
            raise UsageError(f"layers, strides, channels, up_strides and up_channels must be as many, got {self}")

    @property
    def stride(self) -> int:
        """Cells of the input along a side of one cell of the output."""
        return self.strides[0] // self.up_strides[0]


@dataclass(frozen=True)
class Anchor:
    """The boxes of one class that an anchor head starts from, along x and along y at every place."""

    size: tuple[float, float, float]
    """Length, width, height in metres."""
    bottom: float
    """Height of the bottom in metres, in the LiDAR's frame."""
    matched: float
    """Overlap from which an anchor stands for an object."""
    unmatched: float
    """Overlap below which it stands for none."""


@dataclass(frozen=True)
class CenterOptions:
    """A head that finds the centres of objects as peaks."""

    channels: int = 64
    """Channels of the convolutions."""
    radius: int = 2
    """Least radius in cells of the peak that is taught."""
    overlap: float = 0.1
    """Overlap that a box at the peak's rim still has with the true one."""
    bias: bool = True
    """Whether convolutions before a normalisation have a bias, as in OpenPCDet's settings for Waymo."""
    axis: bool = False
    """Whether a heading is told as the axis along which it lies, and which way, instead of as one direction: of what
    looks alike from both ends, directions are learnt as a mean of both, which is neither."""


@dataclass(frozen=True)
class RoiOptions:
    """A second stage that looks into each box that the first one proposes (Voxel R-CNN)."""

    radii: tuple[float, float, float] = (0.4, 0.8, 1.6)
    """Metres around a place within which the second, third and fourth stage of the backbone are pooled."""
    grid: int = 6
    """Places along each side of a box."""
    channels: int = 32
    """Channels of what is pooled of each stage."""
    neighbours: int = 16
    """Voxels around a place that count, at most."""
    hidden: int = 256
    """Units of the layers over a box."""
    proposals: int = 100
    """Boxes that are looked into."""
    proposed: int = 512
    """Boxes of which those that are taught are drawn."""
    taught: int = 128
    """Boxes of a sweep that are taught."""
    overlap: float = 0.7
    """Of two proposals that overlap by more on the ground, the better one stays; while training, 0.8."""


@dataclass(frozen=True)
class DetectorConfig:
    """A detector: what it looks at, its network, its head and how its boxes are chosen."""

    classes: tuple[str, ...]
    """What it finds."""
    grid: Grid
    bev: BevOptions
    encoder: Encoder = "pillars"
    """pillars: PointPillars; second: SECOND's sparse convolutions; residual: CenterPoint's."""
    pillars: tuple[int, ...] = (64,)
    """Channels of the layers over the points of a pillar."""
    padding: int = 32
    """Pillars of fewer points also see an empty point, as those that OpenPCDet fills up; 0: none does."""
    intensity: bool = True
    """Whether it sees the points' intensity."""
    absolute: bool = True
    """Whether it sees where points lie along x and y, as published, beside where they lie in their pillar or voxel.
    Without, what it sees of a scene moves with it by whole cells, exactly."""
    anchors: tuple[Anchor, ...] = ()
    """Of each class, for an anchor head; none for a centre head."""
    center: CenterOptions = CenterOptions()
    roi: RoiOptions | None = None
    """A second stage, behind an anchor head on SECOND's convolutions."""
    score: float = 0.1
    """The least score of a detection."""
    overlap: float = 0.01
    """Of two boxes that overlap by more on the ground, the better one stays."""
    most: int = 500
    """The most detections of a sweep."""
    merged: tuple[tuple[str, str], ...] = ()
    """Classes of the data that are taught as another: (("Van", "Car"),)."""
    ground: float = -1.73
    """Height of the ground in metres in the sweeps that it was taught."""

    def __post_init__(self) -> None:
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise UsageError(f"a detector needs classes, each once, got {self.classes}")
        if self.anchors and len(self.anchors) != len(self.classes):
            raise UsageError(
                f"there are {len(self.anchors)} anchors for {len(self.classes)} classes; give one for each"
            )
        if self.roi is not None and (self.encoder != "second" or not self.anchors):
            raise UsageError("a second stage needs anchors, and the encoder second")
        for _, name in self.merged:
            if name not in self.classes:
                raise UsageError(f"{name!r}, which another class is taught as, is none of {self.classes}")

    @property
    def features(self) -> int:
        """Numbers of a point: x, y, z and perhaps intensity."""
        return 4 if self.intensity else 3

    @property
    def stride(self) -> int:
        """Voxels along a side of one cell of the head's maps."""
        return self.bev.stride * (1 if self.encoder == "pillars" else 8)
