"""Scene flow: how far predicted motion of points is from the truth, over all points and in three ways.

Sources: Chodosh et al. (2024), "Re-evaluating LiDAR scene flow" (three-way); Liu et al. (2019), FlowNet3D (shares).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robovision.errors import UsageError
from robovision.lidar.argoverse import read_feather
from robovision.lidar.clouds import read_arrays, write_arrays
from robovision.lidar.report import Evaluation, FrameError, check_frames, files_of
from robovision.types import NUMBERS, Array, Metric

MOVING = 0.05
"""Metres in a tenth of a second, beyond the ego's motion, from which a point is dynamic."""

FLOW = ("flow_tx_m", "flow_ty_m", "flow_tz_m")
PARTS = ("foreground_dynamic", "foreground_static", "background_static")
"""The parts of the three-way error; moving background, which labels hardly have, counts in the others only."""


@dataclass(frozen=True, eq=False)
class FlowTruth:
    """The motion of the N points of a sweep until the next one.

    Convention:
        flow: float32 [N, 3], metres: place in the next sweep's frame minus place in this one's.
        foreground: bool [N], points on objects that can move.
        dynamic: bool [N], points that move in the world.
        valid: bool [N], points that are evaluated; the ground is not.
    """

    flow: Array
    foreground: Array
    dynamic: Array
    valid: Array


def is_dynamic(flow: Array, ego_flow: Array, seconds: float = 0.1) -> Array:
    """Bool [N]: points whose flow [N, 3] differs from that of the ego's motion by 0.05 m a tenth of a second."""
    moving: Array = np.linalg.norm(flow - ego_flow, axis=1) >= MOVING * (seconds / 0.1)
    return moving


def read_flow_truth(path: Path) -> FlowTruth:
    """The truth in an NPZ file with `flow`, `foreground`, `dynamic`, `valid`, or in an Argoverse 2 Feather file.

    Raises:
        UsageError: naming the file, if something is missing, of the wrong shape, or flow is not finite where valid.
    """
    if path.suffix == ".feather":
        table = read_feather(path, (*FLOW, "classes", "dynamic", "is_ground_0"))
        flow = np.stack([table[name] for name in FLOW], axis=1)
        truth = FlowTruth(flow, table["classes"] > 0, table["dynamic"], ~table["is_ground_0"])
    else:
        arrays = read_arrays(path)
        missing = [name for name in ("flow", "foreground", "dynamic", "valid") if name not in arrays]
        if missing:
            raise UsageError(f"{path}: arrays {', '.join(missing)} are missing; it holds {', '.join(arrays)}")
        flow, *masks = (arrays[name] for name in ("flow", "foreground", "dynamic", "valid"))
        _check_flow(path, flow)
        if any(mask.shape != (len(flow),) or mask.dtype.kind not in NUMBERS for mask in masks):
            raise UsageError(f"{path}: foreground, dynamic and valid must have shape [{len(flow)}], true or false")
        truth = FlowTruth(flow, *(mask.astype(bool) for mask in masks))
    if not np.isfinite(truth.flow[truth.valid]).all():
        raise UsageError(f"{path}: flow of valid points is not finite")
    return truth


def write_flow_truth(path: Path, truth: FlowTruth) -> None:
    """Write the truth to an NPZ file, uncompressed: flow shrinks by little, and compressing would take longest."""
    names = ("flow", "foreground", "dynamic", "valid")
    write_arrays(path, {name: getattr(truth, name) for name in names}, compress=False)


def read_flow(path: Path) -> Array:
    """Predicted flow [N, 3]: the array `flow` of an NPZ file, or columns of an Argoverse 2 Feather file."""
    if path.suffix == ".feather":
        table = read_feather(path, FLOW)
        return np.stack([table[name] for name in FLOW], axis=1)
    arrays = read_arrays(path)
    if "flow" not in arrays:
        raise UsageError(f"{path}: the array flow is missing; it holds {', '.join(arrays) or 'nothing'}")
    return _check_flow(path, arrays["flow"])


class FlowMetric:
    """Sums over sweeps, added one by one, so that memory stays that of one sweep."""

    def __init__(self) -> None:
        self._sums = np.zeros((len(PARTS) + 1, 4))
        self._frames: list[FrameError] = []

    def add(self, frame: str, truth: FlowTruth, flow: Array) -> None:
        """Count a sweep.

        Raises:
            UsageError: naming the frame, if there are not as many points as in the truth, or flow is not finite.
        """
        if flow.shape != truth.flow.shape:
            raise UsageError(f"frame {frame}: flow must have shape {list(truth.flow.shape)}, got {list(flow.shape)}")
        if not np.isfinite(flow[truth.valid]).all():
            raise UsageError(f"frame {frame}: predicted flow is not finite; write 0 where it is unknown")
        error = np.linalg.norm(flow - truth.flow, axis=1)
        length = np.linalg.norm(truth.flow, axis=1)
        relative = np.divide(error, length, out=np.full_like(error, np.inf), where=length > 0)
        strict = (error < 0.05) | (relative < 0.05)
        relaxed = (error < 0.1) | (relative < 0.1)
        fore, moves = truth.foreground, truth.dynamic
        masks = (fore & moves, fore & ~moves, ~fore & ~moves, ~fore & moves)
        for row, mask in zip(self._sums, masks, strict=True):
            part = mask & truth.valid
            row += part.sum(), error[part].sum(dtype=np.float64), strict[part].sum(), relaxed[part].sum()
        if truth.valid.any():
            self._frames.append(FrameError(frame, float(error[truth.valid].mean())))

    def result(self) -> Evaluation:
        """Metrics; an error of a part that has no points is left out, and so is the mean of the three."""
        total = self._sums.sum(axis=0)
        metrics = []
        parts = {name: row for name, row in zip(PARTS, self._sums, strict=False) if row[0]}
        errors = {name: float(row[1] / row[0]) for name, row in parts.items()}
        if len(parts) == len(PARTS):
            metrics.append(Metric("three_way_EPE", float(np.mean(list(errors.values()))), "m", count=int(total[0])))
        if total[0]:
            metrics.append(Metric("EPE", float(total[1] / total[0]), "m", count=int(total[0])))
            metrics += [Metric(n, float(total[k] / total[0]), "1", count=int(total[0])) for n, k in SHARES.items()]
        metrics += [Metric(f"EPE/{name}", errors[name], "m", count=int(row[0])) for name, row in parts.items()]
        return Evaluation("flow", metrics, [], sorted(self._frames, key=lambda row: (-row.error, row.frame)))


SHARES = {"accuracy_strict": 2, "accuracy_relaxed": 3}
"""Shares of points whose error is below 5 cm or 5 %, and 10 cm or 10 %."""


def evaluate(truth: Path, detections: Path) -> Evaluation:
    """Scene flow metrics of two folders with a file `.npz` or `.feather` for each sweep, one sweep at a time.

    Raises:
        UsageError: if the sweeps differ (they are listed), or a file is wrong.
    """
    found, given = (
        {path.stem: path for path in files_of(folder, "*.npz", "*.feather")} for folder in (truth, detections)
    )
    check_frames("sweeps", set(found), set(given))
    metric = FlowMetric()
    for name in sorted(found):
        metric.add(name, read_flow_truth(found[name]), read_flow(given[name]))
    return metric.result()


def _check_flow(path: Path, flow: Array) -> Array:
    if flow.ndim != 2 or flow.shape[1] != 3 or flow.dtype.kind not in NUMBERS:
        raise UsageError(f"{path}: flow must be numbers of shape [N, 3], got {flow.dtype} {list(flow.shape)}")
    return flow
