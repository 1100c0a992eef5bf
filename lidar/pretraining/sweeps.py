"""Sweeps to learn from without labels: each with the one before it, and how that one's points moved until then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robovision.errors import UsageError
from robovision.lidar.clouds import read_cloud
from robovision.lidar.detectors.data import Drive
from robovision.lidar.detectors.detector import features
from robovision.lidar.flow_metric import read_flow
from robovision.lidar.frames import stem
from robovision.types import Array, PointCloud


@dataclass(frozen=True)
class Place:
    """A sweep of a drive, and the one before it, if there is one."""

    now: Path
    before: Path | None


@dataclass(frozen=True, eq=False)
class Moment:
    """What is read of a place.

    Convention:
        now, before: points float32 [P, 3 or 4] and [Q, 3 or 4], each in its own sensor's frame; before is empty where
            it is not asked for.
        flow: float32 [Q, 3], metres: where each earlier point is now, in now's frame, minus where it was in its own.
    """

    now: Tensor
    before: Tensor
    flow: Tensor


FlowReader = Callable[[Path, PointCloud, PointCloud], Array]
"""The flow [Q, 3] from the sweep in a file, the first cloud, to the next one, the second."""


def find_places(drives: Sequence[Drive], pairs: bool) -> list[Place]:
    """The sweeps of drives; with `pairs` only those that another one precedes.

    Raises:
        UsageError: if there are no two sweeps in a row.
    """
    found = []
    for drive in drives:
        earlier = (None, *drive.clouds[:-1])
        found += [Place(now, before) for now, before in zip(drive.clouds, earlier, strict=True) if before or not pairs]
    if not found:
        raise UsageError(
            f"none of the {len(drives)} sequences has two sweeps, and these objectives look at one after the other; "
            "simulate with --frames 2 or more, or give --objectives contrast rotation"
        )
    return found


def read_moment(place: Place, intensity: bool, pairs: bool, flow: FlowReader | None) -> Moment:
    """The points of a place, those of the sweep before if `pairs`, and their flow if there is a reader.

    Raises:
        UsageError: if a file is wrong, or the flow is of another sweep.
    """
    now, points = _read(place.now, intensity)
    if not pairs or place.before is None:
        return Moment(points, points[:0], points[:0, :3])
    before, earlier = _read(place.before, intensity)
    if flow is None:
        return Moment(points, earlier, torch.zeros(len(earlier), 3))
    return Moment(points, earlier, torch.from_numpy(flow(place.before, before, now)).float())


def flow_file(path: Path) -> Path:
    """Where a sequence of the simulator has the flow of a sweep."""
    return path.parent.parent / "flow" / f"{stem(path)}.npz"


def read_truth(path: Path, before: PointCloud, now: PointCloud) -> Array:
    """The flow beside a sweep, in the sequence's folder `flow`.

    Raises:
        UsageError: if there is none, it is of another sweep, or not finite.
    """
    file = flow_file(path)
    if not file.is_file():
        raise UsageError(
            f"{path} has no flow {file}: give sequences of `robovision lidar simulate`, --flow estimated, or "
            "leave flow out of --objectives"
        )
    flow = read_flow(file)
    if len(flow) != len(before):
        raise UsageError(f"{file} is the flow of another sweep: of {len(flow)} points, not the {len(before)} of {path}")
    if not np.isfinite(flow).all():
        raise UsageError(f"{file}: the flow of {int((~np.isfinite(flow)).any(axis=1).sum())} points is not finite")
    return flow


def estimate_all(places: Sequence[Place], flow: FlowReader, done: Callable[[int], None]) -> None:
    """Ask for the flow of each place that another sweep precedes, so that it is kept; `done` hears of each."""
    for number, place in enumerate(places, 1):
        if place.before is not None:
            flow(place.before, read_cloud(place.before), read_cloud(place.now))
        done(number)


def _read(path: Path, intensity: bool) -> tuple[PointCloud, Tensor]:
    cloud = read_cloud(path)
    try:
        return cloud, features(cloud, intensity)
    except ValueError as error:
        raise UsageError(f"{path}: {error}; pretrain with --no-intensity") from error
