"""Average precision as the Waymo Open Dataset computes it, plain (AP) and weighted by heading (APH).

Source: Sun et al. (2020), section 5.1. Boxes of a frame and type are matched at each of 101 score cutoffs so that the
sum of overlaps is largest (Hungarian matching); a match needs an overlap in space of 0.7 for vehicles, else of 0.5.
Detections in no-label zones may be right and are never wrong. Each type is also evaluated by range: on the ground truth
and the detections whose own centres lie in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from robovision.errors import UsageError
from robovision.lidar.argoverse import select
from robovision.lidar.assignment import best_assignment, components
from robovision.lidar.boxes import PAIRS, paired_iou_3d, to_tensor
from robovision.lidar.conventions import some_frames, upright_readings, warn_of_other_convention
from robovision.lidar.kitti_matching import blocks, pairs_within_frames
from robovision.lidar.report import Curve, Evaluation, check_frames, files_of, frame_errors
from robovision.lidar.waymo_boxes import CLASSES, WaymoBoxes, read_waymo_boxes
from robovision.types import Array, Metric

OVERLAPS = {"VEHICLE": 0.7, "PEDESTRIAN": 0.5, "SIGN": 0.5, "CYCLIST": 0.5}
AVERAGED = ("VEHICLE", "PEDESTRIAN", "CYCLIST")
CUTOFFS = (np.arange(101) * 0.01).astype(np.float32)
LEVELS = (1, 2)
RANGES = {"": (0, np.inf), "/0-30 m": (0, 30), "/30-50 m": (30, 50), "/50+ m": (50, np.inf)}
"""Least distance, metres in space, of a box's centre from the vehicle's origin, and the distance that it is below."""

FEW_POINTS = 5
"""Ground truth with at most so many points is of level 2, unless it is annotated otherwise."""

RECALL_STEP = 0.05
"""Gaps in recall are filled at this step."""

STEPS = 1_000_000
"""Overlaps are rounded down to whole numbers of this to be summed."""


@dataclass(frozen=True, eq=False)
class Counts:
    """Sums over all frames at each of the C = 101 cutoffs.

    Convention:
        right: [C], matches.
        heading: [C], the sum over matches of 1 - error/pi.
        wrong: [C], detections without match outside of no-label zones.
        missed: [2, C], ground truth without match up to each level.
        count: [2], ground truth up to each level.
    """

    right: Array
    heading: Array
    wrong: Array
    missed: Array
    count: Array

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


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
    truths, found = (_Framed.of(boxes, number) for boxes in (truth, detections))
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
        part.errors(_best(each)) for label, each in whole.items() for part in _parts(truths, found, label, RANGES[""])
    ]
    missed, wrong = (np.concatenate([np.zeros(0, np.int64), *(pair[side] for pair in errors)]) for side in (0, 1))
    headline = _means({metric.name: metric.value for metric in metrics}, len(truth.frames))
    return Evaluation("waymo", [*headline, *metrics, *ranges], curves, frame_errors(names, missed, wrong))


def _counted(truths: _Framed, found: _Framed, label: int, limits: tuple[float, float]) -> Counts:
    """The sums of one type in one range."""
    zero = np.zeros(len(CUTOFFS))
    counts = Counts(zero, zero, zero, np.zeros((len(LEVELS), len(CUTOFFS))), np.zeros(len(LEVELS), np.int64))
    return sum((part.count() for part in _parts(truths, found, label, limits)), counts)


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


def _check_convention(truth: _Framed, detections: _Framed) -> None:
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


@dataclass(frozen=True, eq=False)
class _Framed:
    """Boxes, and the number of the frame, int64 [N], that each is in."""

    boxes: WaymoBoxes
    frame: Array

    @classmethod
    def of(cls, boxes: WaymoBoxes, number: dict[str, int]) -> _Framed:
        return cls(boxes, np.fromiter((number[name] for name in boxes.frames), np.int64, len(boxes.frames)))

    def rows(self, label: int, limits: tuple[float, float]) -> Array:
        """The boxes of a type whose centres are as far away as a range says, by their frames."""
        rows = np.flatnonzero(self.boxes.boxes.labels == label)
        far = np.linalg.norm(self.boxes.boxes.centers[rows], axis=1)
        rows = rows[(limits[0] <= far) & (far < limits[1])]
        ordered: Array = rows[np.argsort(self.frame[rows], kind="stable")]
        return ordered


def _parts(truth: _Framed, detections: _Framed, label: int, limits: tuple[float, float]) -> Iterator[_Part]:
    """A few frames at a time, what is matched of one type in one range."""
    wanted, chosen = truth.rows(label, limits), detections.rows(label, limits)
    wanted = wanted[truth.boxes.points[wanted] != 0]
    frames = truth.frame[wanted], detections.frame[chosen]
    for first, last in blocks(*frames):
        here, there = (slice(*np.searchsorted(numbers, (first, last))) for numbers in frames)
        yield _Part.of(truth, detections, (wanted[here], chosen[there]), OVERLAPS[CLASSES[label]])


@dataclass(frozen=True, eq=False)
class _Part:
    """One type of object in a few frames: G ground truths and D detections, each with its frame, and P pairs of both.

    The frames rise; the pairs may match. `judged`, bool [D], holds for detections outside of no-label zones: those
    that are wrong without a match.
    """

    truth_frame: Array
    level: Array
    frame: Array
    scores: Array
    judged: Array
    i: Array
    j: Array
    overlap: Array
    heading: Array

    @classmethod
    def of(cls, truth: _Framed, detections: _Framed, rows: tuple[Array, Array], minimum: float) -> _Part:
        wanted, chosen = rows
        frame, other = truth.frame[wanted], detections.frame[chosen]
        points, difficulty = truth.boxes.points[wanted], truth.boxes.difficulty[wanted]
        level = np.where(difficulty > 0, difficulty, 1 + (points <= FEW_POINTS) * (points >= 0))
        i, j = pairs_within_frames(frame, other)
        a, b = (to_tensor(select(x.boxes.boxes, part)) for x, part in ((truth, wanted), (detections, chosen)))
        parts = [paired_iou_3d(a[i[k : k + PAIRS]], b[j[k : k + PAIRS]]) for k in range(0, len(i), PAIRS)]
        overlap = torch.cat([torch.zeros(0, dtype=torch.float64), *parts]).numpy()
        near = overlap >= minimum
        i, j = i[near], j[near]
        turn = (a[i, 6] - b[j, 6]).numpy()
        heading = 1 - np.abs((turn + np.pi) % (2 * np.pi) - np.pi) / np.pi
        assert detections.boxes.boxes.scores is not None
        scores, zones = detections.boxes.boxes.scores[chosen], detections.boxes.unlabelled
        judged = np.ones(len(chosen), bool) if zones is None else ~zones[chosen]
        return cls(frame, level, other, scores, judged, i, j, overlap[near], heading)

    def count(self) -> Counts:
        """The sums at every cutoff."""
        above = self.judged.sum() - np.searchsorted(np.sort(self.scores[self.judged]), CUTOFFS)
        # Matching changes only where a detection comes in, so each group is matched once for each of its scores.
        right, heading, spared = (np.zeros(len(CUTOFFS)) for _ in range(3))
        found = np.zeros((len(LEVELS), len(CUTOFFS)))
        for pairs, first, last in self._matchings():
            at = slice(first, last)
            right[at] += len(pairs)
            spared[at] += np.count_nonzero(~self.judged[self.j[pairs]])
            heading[at] += self.heading[pairs].sum()
            for k, level in enumerate(LEVELS):
                found[k, at] += np.count_nonzero(self.level[self.i[pairs]] <= level)
        total = np.array([np.count_nonzero(self.level <= level) for level in LEVELS])
        return Counts(right, heading, above - (right - spared), total[:, None] - found, total)

    def errors(self, best: int) -> tuple[Array, Array]:
        """The frames of missed ground truth and of wrong detections at a cutoff, given by its number."""
        matched = [pairs for pairs, first, last in self._matchings() if first <= best < last]
        pairs = np.concatenate([np.zeros(0, np.int64), *matched])
        missed = np.setdiff1d(np.arange(len(self.truth_frame)), self.i[pairs])
        wrong = np.setdiff1d(np.flatnonzero(self.judged & (self.scores >= CUTOFFS[best])), self.j[pairs])
        return self.truth_frame[missed], self.frame[wrong]

    def _matchings(self) -> list[tuple[Array, int, int]]:
        """For each group of boxes that touch: pairs that are matched from one cutoff up to, without it, another."""
        result = []
        all_reached = np.searchsorted(CUTOFFS, self.scores, side="right")
        for group in components(self.i, self.j, len(self.truth_frame)):
            if len(group) == 1:  # most are two boxes that touch nobody else
                result.append((group, 0, int(all_reached[self.j[group[0]]])))
                continue
            detections = np.unique(self.j[group])
            reached = all_reached[detections]
            last = 0
            for cutoff in np.unique(reached):
                if cutoff:
                    present = group[np.isin(self.j[group], detections[reached >= cutoff])]
                    matched = best_assignment(
                        self.i[present], self.j[present], (self.overlap[present] * STEPS).astype(int)
                    )
                    result.append((present[matched], last, int(cutoff)))
                    last = int(cutoff)
        return result


def _read_detections(folder: Path) -> WaymoBoxes:
    parts = []
    for path in files_of(folder, "*.parquet"):
        parts.append(read_waymo_boxes(path))
        if parts[-1].boxes.scores is None:
            raise UsageError(f"{path}: detections need a column `score`; have truth and detections been swapped?")
    return _join(parts)


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
