"""How many detections are right and wrong by KITTI's rules, at every score that matters, a few frames at a time.

Source: Geiger, Lenz, Urtasun (2012), "Are we ready for autonomous driving?".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from robovision.lidar.kitti_labels import DETECTION, DONT_CARE
from robovision.lidar.kitti_matching import KINDS, Candidates, Scene, assign, blocks, covered, find_candidates
from robovision.types import Array


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


@dataclass(frozen=True)
class Criterion:
    """What a hit of a class is: an overlap of that kind, larger than the minimum."""

    wanted: ObjectClass
    kind: str
    minimum: float

    @property
    def name(self) -> str:
        """Class and kind, and the minimum where it is not the benchmark's."""
        strict = self.minimum == self.wanted.overlap
        return f"{self.wanted.name}_{self.kind}" + ("" if strict else f"@{self.minimum:g}")


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
STRICT = tuple(Criterion(wanted, kind, wanted.overlap) for wanted in CLASSES for kind in KINDS)
LOOSE = tuple(
    Criterion(wanted, kind, minimum)
    for wanted, minimum in zip(CLASSES, (0.5, 0.25, 0.25), strict=True)
    for kind in ("bev", "3d")
)
"""What the field reports beside the benchmark's own criteria, as SECOND's evaluation and those after it do."""

SAMPLES = 41
"""Recalls 0, 1/40, .., 1 at which precision is sampled."""


@dataclass(frozen=True, eq=False)
class Tally:
    """Sums over all frames for one criterion, of each difficulty at its T <= 41 thresholds.

    Convention:
        thresholds: scores [T], falling, at which recall is closest to 0, 1/40, .., (T - 1)/40.
        right, wrong: detections [T] of at least that score.
        similar: [T], the sum over right ones of (1 + cos(error of the observation angle))/2.
        count: the ground truths that had to be found.
    """

    criterion: Criterion
    difficulty: Difficulty
    thresholds: Array
    right: Array
    wrong: Array
    similar: Array
    count: int


def tally(truth: Scene, detections: Scene, criteria: Sequence[Criterion]) -> list[Tally]:
    """The sums of each criterion and, within it, each difficulty.

    Frames are gone through twice: for the scores that matter, and for what is right and wrong at each of them.
    """
    levels = range(len(DIFFICULTIES))
    scores: list[list[list[Array]]] = [[[np.zeros(0)] for _ in levels] for _ in criteria]
    counts = np.zeros((len(criteria), len(levels)), np.int64)
    for n, part, candidates in _parts(truth, detections, criteria):
        counts[n] += part.required.sum(axis=1)
        for level, found in enumerate(part.hit_scores(candidates)):
            scores[n][level].append(found)
    thresholds = [
        [sample_thresholds(np.concatenate(found), int(count)) for found, count in zip(*pair, strict=True)]
        for pair in zip(scores, counts, strict=True)
    ]
    del scores
    sums = [np.zeros((3, sum(map(len, each)))) for each in thresholds]
    for n, part, candidates in _parts(truth, detections, criteria):
        settings = np.repeat(levels, [len(t) for t in thresholds[n]])
        areas = criteria[n].kind == "image"
        sums[n] += part.count(candidates, settings, np.concatenate(thresholds[n]), areas)
    result = []
    for criterion, each, total, count in zip(criteria, thresholds, sums, counts.tolist(), strict=True):
        ends = np.cumsum([len(t) for t in each])[:-1]
        for level, (right, wrong, similar) in enumerate(np.split(total, ends, axis=1)):
            result.append(Tally(criterion, DIFFICULTIES[level], each[level], right, wrong, similar, count[level]))
    return result


def errors(truth: Scene, detections: Scene, tallies: Sequence[Tally]) -> tuple[Array, Array]:
    """The frames of missed ground truth and of wrong detections, by tallies, each at its score of the best F1."""
    missed, wrong = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for n, part, candidates in _parts(truth, detections, [t.criterion for t in tallies]):
        t = tallies[n]
        f1 = 2 * t.right / np.maximum(t.right + t.wrong + t.count, 1)
        best = t.thresholds[f1.argmax()] if len(f1) else np.inf
        for frames, more in zip(
            (missed, wrong), part.errors(candidates, DIFFICULTIES.index(t.difficulty), best), strict=True
        ):
            frames.append(more)
    return np.concatenate(missed), np.concatenate(wrong)


def sample_thresholds(scores: Array, count: int) -> Array:
    """The scores [T] of right detections at which recall among `count` ground truths is closest to 0, 1/40, 2/40, ...

    A score is passed over where the next one comes closer to the recall that is looked for; the last never is.
    """
    scores = np.sort(scores)[::-1]
    chosen: list[float] = []
    recall = 0.0
    for hits, score in enumerate(scores, 1):
        if hits < len(scores) and (hits + 1) / count - recall < recall - hits / count:
            continue
        chosen.append(float(score))
        recall += 1 / (SAMPLES - 1)
    return np.array(chosen)


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
            truth,
            detections,
            required & _named(truth, {wanted.name}),
            small | _named(detections, {wanted.name}),
            small,
            covered(detections, areas, wanted.overlap),
        )

    def hit_scores(self, candidates: Candidates) -> list[Array]:
        """The scores of right detections of each difficulty, where every ground truth takes the highest score."""
        scores = self._scores()
        taken, _ = assign(candidates, scores[candidates.detection], self.usable, np.zeros_like(self.small))
        hits = self._hits(candidates, np.arange(len(DIFFICULTIES)), taken)
        return [scores[took[hit]] for took, hit in zip(taken, hits, strict=True)]

    def count(self, candidates: Candidates, level: Array, threshold: Array, unknown_areas: bool) -> Array:
        """Right and wrong detections, and the sum over right ones of (1 + cos(error))/2, of S settings: [3, S].

        A setting is a difficulty with a score that detections must reach; every ground truth takes the candidate of
        the largest overlap.
        """
        usable = self.usable[level] & (self._scores() >= threshold[:, None])
        small = self.small[level]
        taken, free = assign(candidates, candidates.overlap, usable, small)
        hits = self._hits(candidates, level, taken)
        wrong = free & ~small
        if unknown_areas:
            wrong &= ~self.stuff
        similarity = np.zeros(hits.shape)
        setting, row = hits.nonzero()
        error = self.truth.objects.alpha[candidates.truth[row]] - self.detections.objects.alpha[taken[setting, row]]
        similarity[setting, row] = (1 + np.cos(error)) / 2
        return np.stack([hits.sum(axis=1), wrong.sum(axis=1), similarity.sum(axis=1)])

    def errors(self, candidates: Candidates, level: int, threshold: float) -> tuple[Array, Array]:
        """The frames of missed ground truth and of wrong detections of a difficulty, from a score on."""
        usable = self.usable[level] & (self._scores() >= threshold)
        taken, free = assign(candidates, candidates.overlap, usable[None], self.small[level][None])
        hits = candidates.truth[self._hits(candidates, np.array([level]), taken)[0]]
        missed = np.setdiff1d(np.flatnonzero(self.required[level]), hits)
        return self.truth.frame[missed], self.detections.frame[free[0] & ~self.small[level]]

    def _hits(self, candidates: Candidates, level: Array, taken: Array) -> Array:
        """Bool [S, G]: ground truths that had to be found and took a detection that counts."""
        small = np.take_along_axis(self.small[level], taken, axis=1) if taken.size else taken
        hits: Array = (taken >= 0) & self.required[level][:, candidates.truth] & (small == 0)
        return hits

    def _scores(self) -> Array:
        return self.detections.objects.values[:, DETECTION - 1]


def _parts(
    truth: Scene, detections: Scene, criteria: Sequence[Criterion]
) -> Iterator[tuple[int, _ClassScene, Candidates]]:
    """For a few frames at a time and each criterion, its number, what it is counted on, and which pairs overlap."""
    for first, last in blocks(truth.frame, detections.frame):
        a, b = (scene.between(first, last) for scene in (truth, detections))
        areas = a.select(_named(a, {DONT_CARE}))
        parts = {wanted: _ClassScene.of(a, b, areas, wanted) for wanted in {c.wanted for c in criteria}}
        for n, c in enumerate(criteria):
            part = parts[c.wanted]
            yield n, part, find_candidates(part.truth, part.detections, c.kind, c.minimum)


def _required(truth: Scene, difficulty: Difficulty) -> Array:
    seen = (truth.objects.occlusion <= difficulty.occlusion) & (truth.objects.truncation <= difficulty.truncation)
    required: Array = seen & (_heights(truth) > difficulty.height)
    return required


def _named(scene: Scene, names: set[str | None]) -> Array:
    return np.array([name in names for name in scene.objects.names], dtype=bool)


def _heights(scene: Scene) -> Array:
    heights: Array = scene.objects.rectangles[:, 3] - scene.objects.rectangles[:, 1]
    return heights
