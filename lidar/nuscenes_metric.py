"""Average precision and detection score as the nuScenes benchmark computes them (Caesar et al., 2020, section 3.1).

A detection is right if its centre is closer than 0.5, 1, 2 or 4 m, on the ground, to that of a ground truth that no
better scored detection took. The five errors of right detections are measured at 2 m.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from robovision.errors import UsageError
from robovision.lidar.conventions import some_frames, upright_readings, warn_of_other_convention
from robovision.lidar.kitti_matching import assign, blocks, group, pairs_within_frames
from robovision.lidar.nuscenes_boxes import CLASSES, MISSING_SCORE, NuScenesBoxes, read_nuscenes_boxes
from robovision.lidar.nuscenes_truth import has_tables, read_nuscenes_truth
from robovision.lidar.report import Curve, Evaluation, check_frames, files_of, frame_errors
from robovision.lidar.rotations import quaternion_to_yaw
from robovision.types import Array, Metric

RANGES = dict(zip(CLASSES, (50, 50, 50, 50, 50, 40, 40, 40, 30, 30), strict=True))
"""Metres from the car, on the ground, within which a class is evaluated."""

DISTANCES = (0.5, 1.0, 2.0, 4.0)
ERROR_DISTANCE = 2.0
RECALLS = np.linspace(0, 1, 101)
LEAST = 0.1
"""Recall up to which, and precision up to which, nothing counts."""

MOST = 500
"""Boxes that a sample may have."""

PART = 1 << 14
"""Boxes that are looked at together, so that little memory is taken beside theirs."""

ERRORS = {"ATE": "m", "ASE": "1", "AOE": "rad", "AVE": "m/s", "AAE": "1"}
"""Errors of translation, scale, orientation, velocity and attribute, and their units."""

UNDEFINED = {"traffic_cone": ("AOE", "AVE", "AAE"), "barrier": ("AVE", "AAE")}


@dataclass(frozen=True, eq=False)
class Matches:
    """The D detections of one class, best first, and what each was matched with.

    Convention:
        scores: [D], falling.
        truth: int64 [D], the ground truth of the class that each took, or -1.
        detection: int64 [D], the place of each in the file.
        count: ground truths of the class.
    """

    scores: Array
    truth: Array
    detection: Array
    count: int

    @property
    def precision(self) -> Array:
        """Precision [101] at the recalls 0, 0.01, .., 1; 0 beyond the highest one."""
        right = np.cumsum(self.truth >= 0)
        return self._at_recalls(right / np.arange(1, len(self.truth) + 1))

    @property
    def confidence(self) -> Array:
        """The score [101] that a detection must have for each recall; 0 beyond the highest one."""
        return self._at_recalls(self.scores)

    def _at_recalls(self, values: Array) -> Array:
        if not (self.truth >= 0).any():
            return np.zeros(len(RECALLS))
        return np.interp(RECALLS, np.cumsum(self.truth >= 0) / self.count, values, right=0)


def evaluate(truth: Path, detections: Path) -> Evaluation:
    """The metrics of nuScenes of two folders with JSON files: `mAP`, `NDS`, the five errors and each class's own.

    The ground truth may also be the dataset's tables, such as `nuscenes/v1.0-trainval`.

    Raises:
        UsageError: if the samples differ (they are listed), a file is wrong, a sample has too many boxes, or the
            place of the car is unknown, or detections have no score.
    """
    found = _read(detections)
    if (unscored := found.scores == MISSING_SCORE).any():
        sample = found.samples[int(found.sample[unscored][0])]
        raise UsageError(
            f"{detections}: {int(unscored.sum())} of {len(found)} detections have no detection_score, the first in "
            f"sample {sample}; without one they can't be ranked"
        )
    return score(*read_nuscenes_truth(truth, found)) if has_tables(truth) else score(_read(truth), found)


def score(truth: NuScenesBoxes, detections: NuScenesBoxes) -> Evaluation:
    """The metrics of nuScenes; samples without any ground truth need `ego` in their detections."""
    check_frames("samples", set(truth.samples), set(detections.samples))
    crowded = np.bincount(detections.sample, minlength=1).argmax()
    if np.count_nonzero(detections.sample == crowded) > MOST:
        raise UsageError(f"sample {detections.samples[crowded]} has more than {MOST} boxes; keep the best {MOST}")
    place = {token: n for n, token in enumerate(truth.samples)}
    order = np.array([place[token] for token in detections.samples], np.int64)
    places = _places(truth, detections, order)
    _check_convention(truth, detections, order)
    counted = 0
    curves: list[Curve] = []
    metrics: list[Metric] = []
    missed: list[Array] = []
    wrong: list[Array] = []
    averages: dict[str, list[float]] = {name: [] for name in ("mAP", *(f"m{e}" for e in ERRORS))}
    for name in CLASSES:
        wanted = _near(truth, places, np.arange(len(places)), name)
        chosen = _near(detections, places, order, name)
        wanted = wanted[truth.points[wanted] != 0]
        found = {distance: match(truth, detections, order, (wanted, chosen), distance) for distance in DISTANCES}
        counted += len(wanted)
        precisions = {distance: average_precision(matches.precision) for distance, matches in found.items()}
        curves += [Curve(f"{name}/{distance:g} m", RECALLS, matches.precision) for distance, matches in found.items()]
        matches = found[ERROR_DISTANCE]
        count = matches.count
        metrics += [Metric(f"AP/{name}/{d:g}", value, "1", count=count) for d, value in precisions.items()]
        averages["mAP"].append(float(np.mean(list(precisions.values()))))
        for error, value in true_positive_errors(truth, detections, matches, name).items():
            averages[f"m{error}"].append(value)
            metrics.append(Metric(f"{error}/{name}", value, ERRORS[error], count=count))
        best = _best(matches)
        false = (matches.truth < 0) & (np.arange(len(matches.truth)) < best)
        wrong.append(order[detections.sample[matches.detection[false]]])
        missed.append(truth.sample[np.setdiff1d(wanted, matches.truth[:best])])
    means = {name: float(np.mean(values)) for name, values in averages.items()}
    parts = [max(0.0, 1 - means[f"m{error}"]) for error in ERRORS]
    units = {"mAP": "1", **{f"m{error}": unit for error, unit in ERRORS.items()}}
    headline = [Metric("NDS", (5 * means["mAP"] + sum(parts)) / 10, "1", count=counted)]
    headline += [Metric(name, value, units[name], count=counted) for name, value in means.items()]
    worst = frame_errors(truth.samples, np.concatenate(missed), np.concatenate(wrong))
    return Evaluation("nuscenes", [*headline, *metrics], curves, worst)


def match(
    truth: NuScenesBoxes, detections: NuScenesBoxes, order: Array, rows: tuple[Array, Array], distance: float
) -> Matches:
    """What each detection takes, best score first: the closest free ground truth within the distance.

    Args:
        truth, detections: boxes of all classes.
        order: the place of each sample of the detections among those of the ground truth.
        rows: the ground truths and the detections of one class, rising.
        distance: metres.
    """
    wanted, chosen = rows
    # Of equal scores the later box comes first, as in the official evaluation.
    ranked = chosen[np.lexsort((chosen, detections.scores[chosen]))[::-1]]
    frame = order[detections.sample[ranked]]
    by_frame = np.argsort(frame, kind="stable")
    frame, inside = frame[by_frame], truth.sample[wanted]
    result = np.full(len(ranked), -1)
    for first, last in blocks(frame, inside):
        here, there = (slice(*np.searchsorted(numbers, (first, last))) for numbers in (frame, inside))
        taken = _take(
            truth, detections, (wanted[there], ranked[by_frame[here]]), (inside[there], frame[here]), distance
        )
        result[by_frame[here]] = taken
    return Matches(detections.scores[ranked], result, ranked, len(wanted))


def _take(
    truth: NuScenesBoxes,
    detections: NuScenesBoxes,
    rows: tuple[Array, Array],
    frames: tuple[Array, Array],
    distance: float,
) -> Array:
    """The ground truth, or -1, that each detection of a few frames takes; rows and rising frames of both."""
    (wanted, ranked), (inside, frame) = rows, frames
    i, j = pairs_within_frames(frame, inside)
    apart = np.linalg.norm(detections.translation[ranked[i], :2] - truth.translation[wanted[j], :2], axis=1)
    near = apart < distance
    candidates = group(i[near], j[near], 1 / (1 + apart[near]), frame)
    free = np.ones((1, len(wanted)), bool)
    taken, _ = assign(candidates, candidates.overlap, free, ~free)
    found = taken[0] >= 0
    result = np.full(len(ranked), -1)
    result[candidates.truth[found]] = wanted[taken[0, found]]
    return result


def _check_convention(truth: NuScenesBoxes, detections: NuScenesBoxes, order: Array) -> None:
    """Warn if another convention of the detections fits better, by boxes in space of some samples."""
    frame = order[detections.sample]
    wanted, chosen = some_frames(truth.sample, frame)
    known, found = (
        np.column_stack([b.translation[rows], b.size[rows][:, [1, 0, 2]], quaternion_to_yaw(b.rotation[rows])])
        for b, rows in ((truth, wanted), (detections, chosen))
    )
    expected = "geometric centre in the global frame, and width, length, height, as nuScenes' results are"
    warn_of_other_convention((known, truth.sample[wanted]), upright_readings(found), frame[chosen], expected)


def average_precision(precision: Array) -> float:
    """The mean of what precision [101] exceeds 0.1, beyond the recall 0.1, as a share of the best possible."""
    start = round(100 * LEAST) + 1
    return float(np.maximum(precision[start:] - LEAST, 0).mean()) / (1 - LEAST)


def true_positive_errors(
    truth: NuScenesBoxes, detections: NuScenesBoxes, matches: Matches, name: str
) -> dict[str, float]:
    """The mean errors that are defined for a class, over the recalls from 0.1 to the highest; 1 if it is below."""
    found = matches.truth >= 0
    reached = np.flatnonzero(matches.confidence)
    first = round(100 * LEAST) + 1
    last = int(reached[-1]) if len(reached) else 0
    result = {}
    for error, values in _errors(truth, detections, matches, name).items():
        if error in UNDEFINED.get(name, ()):
            continue
        if last < first:
            result[error] = 1.0
            continue
        means = _running_mean(values)
        at = np.interp(matches.confidence[::-1], matches.scores[found][::-1], means[::-1])[::-1]
        result[error] = float(at[first : last + 1].mean())
    return result


def _errors(truth: NuScenesBoxes, detections: NuScenesBoxes, matches: Matches, name: str) -> dict[str, Array]:
    """Each error [R] of the right detections, best first; NaN where the ground truth does not tell."""
    found = matches.truth >= 0
    a, b = matches.truth[found], matches.detection[found]
    shared = np.minimum(truth.size[a], detections.size[b]).prod(axis=1)
    union = truth.size[a].prod(axis=1) + detections.size[b].prod(axis=1) - shared
    period = np.pi if name == "barrier" else 2 * np.pi
    turn = quaternion_to_yaw(truth.rotation[a]) - quaternion_to_yaw(detections.rotation[b])
    said = truth.attributes[a]
    right = said == detections.attributes[b]
    return {
        "ATE": np.linalg.norm(truth.translation[a, :2] - detections.translation[b, :2], axis=1),
        "ASE": 1 - shared / union,
        "AOE": np.abs((turn + period / 2) % period - period / 2),
        "AVE": np.linalg.norm(truth.velocity[a] - detections.velocity[b], axis=1),
        "AAE": np.where(said == "", np.nan, 1.0 - right.astype(np.float64)),
    }


def _running_mean(values: Array) -> Array:
    """The mean of all values [R] up to each that are not NaN: 0 before the first, 1 everywhere if there is none."""
    known = ~np.isnan(values)
    if not known.any():
        return np.ones(len(values))
    means: Array = np.nancumsum(values) / np.maximum(np.cumsum(known), 1)
    return means


def _best(matches: Matches) -> int:
    """How many detections to keep for the best F1."""
    right = np.cumsum(matches.truth >= 0)
    f1 = 2 * right / (np.arange(1, len(right) + 1) + max(1, matches.count))
    return int(f1.argmax()) + 1 if right.any() else 0


def _places(truth: NuScenesBoxes, detections: NuScenesBoxes, order: Array) -> Array:
    """Where the car is on the ground [S, 2] in each sample of the ground truth."""
    places = np.full((len(truth.samples), 2), np.nan)
    needed = np.zeros(len(places), bool)
    for boxes, number in ((detections, order), (truth, np.arange(len(places)))):
        for part in _slices(boxes):
            sample, ego = number[boxes.sample[part]], boxes.ego[part]
            known = np.isfinite(ego).all(axis=1)
            places[sample[known]] = (boxes.translation[part] - ego)[known, :2]
            needed[sample] = True
    unknown = np.flatnonzero(needed & np.isnan(places[:, 0]))
    if len(unknown):
        raise UsageError(
            f"the place of the car is unknown in {len(unknown)} samples, such as {truth.samples[unknown[0]]}; write "
            f"ego_translation into the ground truth, as the devkit's EvalBoxes.serialize() does, or the detections"
        )
    return places


def _slices(boxes: NuScenesBoxes) -> Iterator[slice]:
    return (slice(first, first + PART) for first in range(0, len(boxes), PART))


def _near(boxes: NuScenesBoxes, places: Array, order: Array, name: str) -> Array:
    """The boxes of a class, rising, that are near enough to the car to count."""
    parts = [np.zeros(0, np.int64)]
    for first in range(0, len(boxes), PART):
        rows = first + np.flatnonzero(boxes.names[first : first + PART] == name)
        apart = np.linalg.norm(boxes.translation[rows, :2] - places[order[boxes.sample[rows]]], axis=1)
        parts.append(rows[apart < RANGES[name]])
    return np.concatenate(parts)


def _read(folder: Path) -> NuScenesBoxes:
    """All JSON files of a folder as one."""
    return join([read_nuscenes_boxes(path) for path in files_of(folder, "*.json")])


def join(parts: Iterable[NuScenesBoxes]) -> NuScenesBoxes:
    """Files with different samples as one.

    Raises:
        UsageError: naming a sample that is in two files.
    """
    parts = list(parts)
    samples = [token for part in parts for token in part.samples]
    twice = {token for token in samples if samples.count(token) > 1} if len(set(samples)) < len(samples) else set()
    if twice:
        raise UsageError(f"sample {min(twice)} is in two files; keep one")
    offsets = np.cumsum([0, *(len(part.samples) for part in parts[:-1])])
    joined = [np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(NuScenesBoxes)[2:]]
    sample = np.concatenate([part.sample + offset for part, offset in zip(parts, offsets, strict=True)])
    return NuScenesBoxes(tuple(samples), sample, *joined)
