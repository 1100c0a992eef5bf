"""What Waymo's evaluation counts: boxes of a frame and type, matched at each score cutoff, right, wrong and missed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch

from robovision.lidar.argoverse import select
from robovision.lidar.assignment import best_assignment, components
from robovision.lidar.boxes import PAIRS, paired_iou_3d, to_tensor
from robovision.lidar.kitti_matching import blocks, pairs_within_frames
from robovision.lidar.waymo_boxes import CLASSES, WaymoBoxes
from robovision.types import Array

OVERLAPS = {"VEHICLE": 0.7, "PEDESTRIAN": 0.5, "SIGN": 0.5, "CYCLIST": 0.5}
CUTOFFS = (np.arange(101) * 0.01).astype(np.float32)
LEVELS = (1, 2)

FEW_POINTS = 5
"""Ground truth with at most so many points is of level 2, unless it is annotated otherwise."""

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


@dataclass(frozen=True, eq=False)
class Framed:
    """Boxes, and the number of the frame, int64 [N], that each is in."""

    boxes: WaymoBoxes
    frame: Array

    @classmethod
    def of(cls, boxes: WaymoBoxes, number: dict[str, int]) -> Framed:
        """Boxes whose frames are numbered so."""
        return cls(boxes, np.fromiter((number[name] for name in boxes.frames), np.int64, len(boxes.frames)))

    def rows(self, label: int, limits: tuple[float, float]) -> Array:
        """The boxes of a type whose centres are as far away as a range says, by their frames."""
        rows = np.flatnonzero(self.boxes.boxes.labels == label)
        far = np.linalg.norm(self.boxes.boxes.centers[rows], axis=1)
        rows = rows[(limits[0] <= far) & (far < limits[1])]
        ordered: Array = rows[np.argsort(self.frame[rows], kind="stable")]
        return ordered


def parts_of(truth: Framed, detections: Framed, label: int, limits: tuple[float, float]) -> Iterator[Part]:
    """A few frames at a time, what is matched of one type in one range."""
    wanted, chosen = truth.rows(label, limits), detections.rows(label, limits)
    wanted = wanted[truth.boxes.points[wanted] != 0]
    frames = truth.frame[wanted], detections.frame[chosen]
    for first, last in blocks(*frames):
        here, there = (slice(*np.searchsorted(numbers, (first, last))) for numbers in frames)
        yield Part.of(truth, detections, (wanted[here], chosen[there]), OVERLAPS[CLASSES[label]])


@dataclass(frozen=True, eq=False)
class Part:
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
    def of(cls, truth: Framed, detections: Framed, rows: tuple[Array, Array], minimum: float) -> Part:
        """What rows of ground truth and of detections, by their frames, may match with that overlap."""
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
