"""Evaluates detections by the metrics of the benchmarks: `robovision lidar evaluate`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from robovision.lidar import flow_metric, kitti_metric, nuscenes_metric, waymo_metric
from robovision.lidar.report import Evaluation

Kind = Literal["kitti", "nuscenes", "waymo", "flow"]
METRICS: dict[str, Callable[[Path, Path], Evaluation]] = {
    "kitti": kitti_metric.evaluation,
    "nuscenes": nuscenes_metric.evaluate,
    "waymo": waymo_metric.evaluate,
    "flow": flow_metric.evaluate,
}


def evaluate(kind: Kind, truth: Path, detections: Path, out: Path) -> Evaluation:
    """Evaluate two folders, and write numbers, curves and the worst frames into a third.

    Raises:
        UsageError: if the folders don't hold the same frames, a file is wrong, or the results can't be written.
    """
    result = METRICS[kind](truth, detections)
    result.write(out)
    return result
