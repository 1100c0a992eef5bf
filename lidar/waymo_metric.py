"""Average precision as the Waymo Open Dataset computes it, plain (AP) and weighted by heading (APH).

Source: Sun et al. (2020), section 5.1. Boxes of a frame and type are matched at each of 101 score cutoffs so that the
sum of overlaps is largest (Hungarian matching); a match needs an overlap in space of 0.7 for vehicles, else of 0.5.
Detections in no-label zones may be right and are never wrong. Each type is also evaluated by range: on the ground truth
and the detections whose own centres lie in it.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from robovision.errors import UsageError
from robovision.lidar.argoverse import select
from robovision.lidar.boxes import to_tensor
from robovision.lidar.conventions import some_frames, upright_readings, warn_of_other_convention
from robovision.lidar.report import Curve, Evaluation, check_frames, files_of, frame_errors
from robovision.lidar.waymo_boxes import CLASSES, WaymoBoxes, read_waymo_boxes
from robovision.lidar.waymo_counts import CUTOFFS, LEVELS, Counts, Framed, parts_of
from robovision.types import Array, Metric

AVERAGED = ("VEHICLE", "PEDESTRIAN", "CYCLIST")
RANGES = {"": (0, np.inf), "/0-30 m": (0, 30), "/30-50 m": (30, 50), "/50+ m": (50, np.inf)}
"""Least distance, metres in space, of a box's centre from the vehicle's origin, and the distance that it is below."""

RECALL_STEP = 0.05
"""Gaps in recall are filled at this step."""


def evaluate(truth: Path, detections: Path) -> Evaluation:
    """Waymo's metrics of two folders with Parquet files: `AP/VEHICLE/L1`, by range `AP/VEHICLE/30-50 m/L1`, and means.

    The means, `mAP/L1` and the like, are those of vehicles, pedestrians and cyclists, without signs.

    Raises:
        UsageError: if the frames differ (they are listed), detections have no scores, or a file is wrong.
    """
    return score(_join([read_waymo_boxes(p) for p in files_of(truth, "*.parquet")]), _read_detections(detections))


def score(truth: WaymoBoxes, detections: WaymoBoxes) -> Evaluation:
    """Waymo's metrics. A frame without detections needs no row; one without ground truth is listed as an error.

    Raises:
        UsageError: if detections have no scores or lie in frames that the ground truth does not have.
    """
    check_frames("frames", set(truth.frames), set(detections.frames) | set(truth.frames))
    names = sorted(set(truth.frames))
    number = {name: n for n, name in enumerate(names)}
    truths, found = (Framed.of(boxes, number) for boxes in (truth, detections))
    _check_convention(truths, found)
    counts = {
        (label, ring): _counted(truths, found, label, limits)
        for label in range(len(CLASSES))
        for ring, limits in RANGES.items()
    }
    whole = {label: each for (label, ring), each in counts.items() if not ring}
    metrics = [metric for label, each in whole.items() for metric in _metrics(CLASSES[label], each)]
    ranges = [
        metric for (label, ring), each in counts.items() if ring for metric in _metrics(CLASSES[label] + ring, each)
    ]
    curves = [
        Curve(f"{CLASSES[label]}/L{level}", *_curve(each, k))
        for label, each in whole.items()
        for k, level in enumerate(LEVELS)
    ]
    errors = [
        part.errors(_best(each)) for label, each in whole.items() for part in parts_of(truths, found, label, RANGES[""])
    ]
    missed, wrong = (np.concatenate([np.zeros(0, np.int64), *(pair[side] for pair in errors)]) for side in (0, 1))
    headline = _means({metric.name: metric.value for metric in metrics}, len(truth.frames))
    return Evaluation("waymo", [*headline, *metrics, *ranges], curves, frame_errors(names, missed, wrong))


def _counted(truths: Framed, found: Framed, label: int, limits: tuple[float, float]) -> Counts:
    """The sums of one type in one range."""
    zero = np.zeros(len(CUTOFFS))
    counts = Counts(zero, zero, zero, np.zeros((len(LEVELS), len(CUTOFFS))), np.zeros(len(LEVELS), np.int64))
    return sum((part.count() for part in parts_of(truths, found, label, limits)), counts)


def _metrics(name: str, counts: Counts) -> list[Metric]:
    """Both averages of both levels."""
    return [
        Metric(f"{kind}/{name}/L{level}", value, "1", count=int(counts.count[k]))
        for k, level in enumerate(LEVELS)
        for kind, value in _averages(counts, k).items()
    ]


def _means(values: dict[str, float], frames: int) -> list[Metric]:
    """The means of both averages over the types that count, of both levels."""
    return [
        Metric(
            f"m{kind}/L{level}", float(np.mean([values[f"{kind}/{n}/L{level}"] for n in AVERAGED])), "1", count=frames
        )
        for level in LEVELS
        for kind in ("AP", "APH")
    ]


def _check_convention(truth: Framed, detections: Framed) -> None:
    """Warn if another convention of the detections fits better, by boxes in space of some frames."""
    wanted, chosen = some_frames(truth.frame, detections.frame)
    known, found = (
        to_tensor(select(framed.boxes.boxes, rows)).numpy() for framed, rows in ((truth, wanted), (detections, chosen))
    )
    expected = "geometric centre in the vehicle's frame, x forward, z up; length, width, height; radians"
    read, frames = upright_readings(found), (truth.frame[wanted], detections.frame[chosen])
    warn_of_other_convention((known, frames[0]), read, frames[1], expected)


def _curve(counts: Counts, k: int) -> tuple[Array, Array]:
    """Recall and precision [C] of the k-th level."""
    recall = counts.right / np.maximum(counts.right + counts.missed[k], 1)
    return recall, counts.right / np.maximum(counts.right + counts.wrong, 1)


def _averages(counts: Counts, k: int) -> dict[str, float]:
    """Average precision of the k-th level, plain and weighted by heading."""
    recall, precision = _curve(counts, k)
    weighted = counts.heading / np.maximum(counts.right + counts.wrong, 1)
    return {"AP": average_precision(precision, recall), "APH": average_precision(weighted, recall)}


def average_precision(precision: Array, recall: Array) -> float:
    """The area under precision [C] over recall [C], each made the best at its recall or beyond.

    At recall 0, precision counts as that of the lowest recall above.
    """
    best = {0.0: 1.0}
    for p, r in zip(np.where(recall == 0, 1.0, precision).tolist(), recall.tolist(), strict=True):
        best[r] = max(best.get(r, 0.0), p)
    points: list[tuple[float, float]] = []
    highest, last = 0.0, 0.0
    for r in sorted(best, reverse=True):
        while last - r > RECALL_STEP + 1e-6:
            last -= RECALL_STEP
            points.append((last, highest))
        highest, last = max(highest, best[r]), r
        points.append((r, highest))
    if len(points) > 1:
        points[-1] = (points[-1][0], points[-2][1])
    r, p = np.array(points).T
    return float(((r[:-1] - r[1:]) * (p[:-1] + p[1:]) / 2).sum())


def _best(counts: Counts) -> int:
    """The number of the cutoff at which F1 is best."""
    f1 = 2 * counts.right / np.maximum(2 * counts.right + counts.wrong + counts.missed[-1], 1)
    return int(f1.argmax())


def _read_detections(folder: Path) -> WaymoBoxes:
    parts = []
    for path in files_of(folder, "*.parquet"):
        parts.append(read_waymo_boxes(path))
        if parts[-1].boxes.scores is None:
            raise UsageError(f"{path}: detections need a column `score`; have truth and detections been swapped?")
    found = _join(parts)
    _check_scores(found.boxes.scores)
    return found


def _check_scores(scores: Array | None) -> None:
    """Warn of scores that none of the cutoffs, 0 to 1, tells apart."""
    if scores is not None and len(scores) and not 0 <= scores.min() <= scores.max() <= 1:
        warnings.warn(
            f"scores of detections go from {scores.min():g} to {scores.max():g}, but Waymo's cutoffs are 0, "
            "0.01, .., 1 and can't tell those beyond apart; map them to 0..1",
            stacklevel=2,
        )


def _join(parts: list[WaymoBoxes]) -> WaymoBoxes:
    boxes = [part.boxes for part in parts]
    scores = [part.scores for part in boxes if part.scores is not None]
    joined = type(boxes[0])(
        np.concatenate([part.centers for part in boxes]),
        np.concatenate([part.sizes for part in boxes]),
        np.concatenate([part.yaw for part in boxes]),
        np.concatenate([part.labels for part in boxes]),
        CLASSES,
        np.concatenate(scores) if len(scores) == len(parts) else None,
        frame="vehicle",
    )
    return WaymoBoxes(
        tuple(frame for part in parts for frame in part.frames),
        joined,
        tuple(track for part in parts for track in part.tracks),
        np.concatenate([part.points for part in parts]),
        np.concatenate([part.difficulty for part in parts]),
        np.concatenate([_zone(part) for part in parts]),
    )


def _zone(part: WaymoBoxes) -> Array:
    return np.zeros(len(part.frames), bool) if part.unlabelled is None else part.unlabelled
