"""Average precision as the KITTI object benchmark computes it.

Sources: Geiger, Lenz, Urtasun (2012), "Are we ready for autonomous driving?"; for R40 Simonelli et al. (2019).

A detection is right if it overlaps a ground truth by more than 0.7 (cars) or 0.5 (pedestrians, cyclists). Ground truth
that is too small, occluded or truncated for a difficulty, or of a neighbouring class, may be found and need not be;
detections that are too small or lie in `DontCare` areas of the image count neither way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robovision.lidar import report
from robovision.lidar.kitti_labels import DETECTION, DONT_CARE, LABEL, KittiObjects, read_detections, read_labels
from robovision.lidar.kitti_matching import KINDS, Candidates, Scene, assign, covered, find_candidates
from robovision.lidar.report import Evaluation, check_frames, files_of, frame_errors
from robovision.types import Array, Metric


@dataclass(frozen=True)
class Difficulty:
    """The ground truth that has to be found: higher than so many pixels, and at most so occluded and truncated."""

    name: str
    height: float
    occlusion: float
    truncation: float


@dataclass(frozen=True)
class ObjectClass:
    """A class that is evaluated, the overlap that a hit must exceed, and the class that it may be confused with."""

    name: str
    overlap: float
    neighbour: str | None


DIFFICULTIES = (
    Difficulty("easy", 40, 0, 0.15),
    Difficulty("moderate", 25, 1, 0.30),
    Difficulty("hard", 25, 2, 0.50),
)
CLASSES = (
    ObjectClass("Car", 0.7, "Van"),
    ObjectClass("Pedestrian", 0.5, "Person_sitting"),
    ObjectClass("Cyclist", 0.5, None),
)
CELLS = 1 << 18
"""Settings times detections that are looked at together."""
SAMPLES = 41
"""Recalls 0, 1/40, .., 1 at which precision is sampled."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Precision over recall of one class and difficulty, and how well orientation is estimated.

    Convention:
        name: class, kind and difficulty, such as `Car_3d/easy`.
        thresholds: the scores [T], T <= 41, falling, at which recall is closest to 0, 1/40, .., (T - 1)/40.
        precision: [41], 0..1, each the best at its recall or beyond; 0 for recalls that no threshold reaches.
        orientation: the same of precision weighted by (1 + cos(error of the angle))/2, or None if detections
            have no angles or overlap was not measured in the image.
        count: the ground truths that had to be found.
    """

    name: str
    thresholds: Array
    precision: Array
    orientation: Array | None
    count: int


def evaluate(truth: Path, detections: Path) -> list[Metric]:
    """KITTI's average precision in percent, of two folders with a text file for each frame.

    The names are those of class, kind, difficulty and number of recall samples, such as `Car_3d/moderate_R40`; kinds
    are `image`, `bev`, `3d` and `aos` (orientation; left out if any detection has the angle -10, unknown). All
    others are always there: what has not been detected, or has no box in space, scores 0. `count` is the number of
    ground truths that had to be found.

    Raises:
        UsageError: if the folders don't hold the same frames (they are listed), or a file is wrong.
    """
    return [metric for curve in curves(*read_folders(truth, detections)) for metric in _averages(curve)]


def read_folders(truth: Path, detections: Path) -> tuple[Scene, Scene]:
    """Ground truth and detections of all frames of two folders.

    Raises:
        UsageError: if the folders don't hold the same frames (they are listed), or a file is wrong.
    """
    frames, others = ({path.stem for path in files_of(folder, "*.txt")} for folder in (truth, detections))
    check_frames("frames", frames, others)
    names = sorted(frames)
    return _scene(truth, names, read_labels, LABEL), _scene(detections, names, read_detections, DETECTION)


def evaluation(truth: Path, detections: Path) -> Evaluation:
    """The same as `evaluate`, with curves, and with the worst frames by boxes in space of moderate difficulty.

    Raises:
        UsageError: as `evaluate`.
    """
    scenes = read_folders(truth, detections)
    found = curves(*scenes)
    metrics = [metric for curve in found for metric in _averages(curve)]
    metrics.sort(key=lambda metric: ("_R40" not in metric.name, "_3d" not in metric.name))
    lines = [report.Curve(c.name, np.linspace(0, 1, SAMPLES), c.precision) for c in found]
    names = [path.stem for path in files_of(truth, "*.txt")]
    return Evaluation("kitti", metrics, lines, frame_errors(names, *errors(*scenes)))


def errors(truth: Scene, detections: Scene) -> tuple[Array, Array]:
    """The frames of missed ground truth and of wrong detections in space, each class at the score of the best F1."""
    areas = truth.select(_named(truth, {DONT_CARE}))
    parts = [_ClassScene.of(truth, detections, areas, wanted).errors("3d", level=1) for wanted in CLASSES]
    missed, wrong = (np.concatenate(frames) for frames in zip(*parts, strict=True))
    return missed, wrong


def curves(truth: Scene, detections: Scene) -> list[Curve]:
    """A curve for each class, kind and difficulty, in that order."""
    areas = truth.select(_named(truth, {DONT_CARE}))
    oriented = not (detections.objects.alpha == -10).any()
    result = []
    for wanted in CLASSES:
        part = _ClassScene.of(truth, detections, areas, wanted)
        for kind in KINDS:
            result += part.curves(kind, oriented and kind == "image")
    return result


@dataclass(frozen=True, eq=False)
class _ClassScene:
    """What one class is evaluated on; the D = 3 difficulties come first in every mask.

    Convention:
        truth, detections: N objects of the class and its neighbour, M detections of the class or small ones.
        required: bool [D, N], ground truth that has to be found; the rest may be.
        usable: bool [D, M], detections that take part.
        small: bool [D, M], detections that may be taken, and are neither right nor wrong.
        stuff: bool [M], detections in areas where the ground truth is unknown.
    """

    wanted: ObjectClass
    truth: Scene
    detections: Scene
    required: Array
    usable: Array
    small: Array
    stuff: Array

    @classmethod
    def of(cls, truth: Scene, detections: Scene, areas: Scene, wanted: ObjectClass) -> _ClassScene:
        # A small detection takes part whatever its class is: the benchmark looks at the height first.
        highest = max(difficulty.height for difficulty in DIFFICULTIES)
        detections = detections.select(_named(detections, {wanted.name}) | (_heights(detections) < highest))
        truth = truth.select(_named(truth, {wanted.name, wanted.neighbour}))
        required = np.stack([_required(truth, difficulty) for difficulty in DIFFICULTIES])
        small = np.stack([_heights(detections) < difficulty.height for difficulty in DIFFICULTIES])
        return cls(
            wanted,
            truth,
            detections,
            required & _named(truth, {wanted.name}),
            small | _named(detections, {wanted.name}),
            small,
            covered(detections, areas, wanted.overlap),
        )

    def curves(self, kind: str, oriented: bool) -> list[Curve]:
        """One curve for each difficulty."""
        candidates = find_candidates(self.truth, self.detections, kind, self.wanted.overlap)
        thresholds = self._thresholds(candidates)
        level = np.repeat(np.arange(len(DIFFICULTIES)), [len(t) for t in thresholds])
        right, wrong, similar = self._count(candidates, level, np.concatenate(thresholds), kind == "image")
        total = np.maximum(right + wrong, 1)
        return [
            Curve(
                f"{self.wanted.name}_{kind}/{difficulty.name}",
                thresholds[d],
                _envelope((right / total)[level == d]),
                _envelope((similar / total)[level == d]) if oriented else None,
                int(self.required[d].sum()),
            )
            for d, difficulty in enumerate(DIFFICULTIES)
        ]

    def errors(self, kind: str, level: int) -> tuple[Array, Array]:
        """The frames of missed ground truth and of wrong detections of a difficulty, at the score of the best F1."""
        candidates = find_candidates(self.truth, self.detections, kind, self.wanted.overlap)
        scores = self._thresholds(candidates)[level]
        levels = np.full(len(scores), level)
        right, wrong, _ = self._count(candidates, levels, scores, unknown_areas=False)
        count = self.required[level].sum()
        best = scores[(2 * right / np.maximum(right + wrong + count, 1)).argmax()] if len(scores) else np.inf
        usable = self.usable[level] & (self._scores() >= best)
        taken, free = assign(candidates, candidates.overlap, usable[None], self.small[level][None])
        hits = candidates.truth[self._hits(candidates, np.array([level]), taken)[0]]
        missed = np.setdiff1d(np.flatnonzero(self.required[level]), hits)
        return self.truth.frame[missed], self.detections.frame[free[0] & ~self.small[level]]

    def _thresholds(self, candidates: Candidates) -> list[Array]:
        """The scores of each difficulty, found by giving every ground truth its candidate of the highest score."""
        scores = self._scores()
        taken, _ = assign(candidates, scores[candidates.detection], self.usable, np.zeros_like(self.small))
        hits = self._hits(candidates, np.arange(len(DIFFICULTIES)), taken)
        return [
            sample_thresholds(scores[taken[d, hits[d]]], int(self.required[d].sum())) for d in range(len(DIFFICULTIES))
        ]

    def _count(
        self, candidates: Candidates, level: Array, threshold: Array, unknown_areas: bool
    ) -> tuple[Array, Array, Array]:
        """Right and wrong detections [S], and the sum over right ones of (1 + cos(error))/2, of S settings.

        A setting is a difficulty with a score that detections must reach; every ground truth takes the candidate of
        the largest overlap. Settings are counted a few at a time, so that memory does not grow with their number.
        """
        blocks = np.array_split(np.arange(len(level)), len(level) * len(self.detections.frame) // CELLS + 1)
        parts = [self._count_block(candidates, level[b], threshold[b], unknown_areas) for b in blocks]
        right, wrong, similar = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        return right, wrong, similar

    def _count_block(
        self, candidates: Candidates, level: Array, threshold: Array, unknown_areas: bool
    ) -> tuple[Array, Array, Array]:
        usable = self.usable[level] & (self._scores() >= threshold[:, None])
        small = self.small[level]
        taken, free = assign(candidates, candidates.overlap, usable, small)
        hits = self._hits(candidates, level, taken)
        wrong = free & ~small
        if unknown_areas:
            wrong &= ~self.stuff
        error = self.truth.objects.alpha[candidates.truth] - self.detections.objects.alpha[taken]
        similarity = np.where(hits, (1 + np.cos(error)) / 2, 0)
        return hits.sum(axis=1), wrong.sum(axis=1), similarity.sum(axis=1)

    def _hits(self, candidates: Candidates, level: Array, taken: Array) -> Array:
        """Bool [S, G]: ground truths that had to be found and took a detection that counts."""
        small = np.take_along_axis(self.small[level], taken, axis=1) if taken.size else taken
        hits: Array = (taken >= 0) & self.required[level][:, candidates.truth] & (small == 0)
        return hits

    def _scores(self) -> Array:
        return self.detections.objects.values[:, DETECTION - 1]


def sample_thresholds(scores: Array, count: int) -> Array:
    """The scores [T] of right detections at which recall among `count` ground truths is closest to 0, 1/40, 2/40, ...

    A score is passed over where the next one comes closer to the recall that is looked for; the last never is.
    """
    scores = np.sort(scores)[::-1]
    chosen: list[float] = []
    recall = 0.0
    for hits, score in enumerate(scores.tolist(), 1):
        if hits < len(scores) and (hits + 1) / count - recall < recall - hits / count:
            continue
        chosen.append(score)
        recall += 1 / (SAMPLES - 1)
    return np.array(chosen)


def _envelope(values: Array) -> Array:
    """The values [T] as [41]: each replaced by the largest from there on, and 0 where there is none."""
    padded = np.zeros(SAMPLES)
    padded[: len(values)] = values
    return np.maximum.accumulate(padded[::-1])[::-1]


def _averages(curve: Curve) -> Iterable[Metric]:
    """Means over 11 recalls, 0 included, and over 40, 0 left out, in percent."""
    for name, values in ((curve.name, curve.precision), (curve.name.replace("_image", "_aos"), curve.orientation)):
        if values is not None:
            yield Metric(f"{name}_R11", 100 * float(values[::4].mean()), "%", count=curve.count)
            yield Metric(f"{name}_R40", 100 * float(values[1:].mean()), "%", count=curve.count)


def _required(truth: Scene, difficulty: Difficulty) -> Array:
    seen = (truth.objects.occlusion <= difficulty.occlusion) & (truth.objects.truncation <= difficulty.truncation)
    required: Array = seen & (_heights(truth) > difficulty.height)
    return required


def _named(scene: Scene, names: set[str | None]) -> Array:
    return np.array([name in names for name in scene.objects.names], dtype=bool)


def _heights(scene: Scene) -> Array:
    heights: Array = scene.objects.rectangles[:, 3] - scene.objects.rectangles[:, 1]
    return heights


def _scene(folder: Path, names: list[str], read: Callable[[Path], KittiObjects], numbers: int) -> Scene:
    parts = [read(folder / f"{name}.txt") for name in names]
    frame = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return Scene(KittiObjects.concatenate(parts, numbers), frame)
