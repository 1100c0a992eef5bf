"""Average precision as the KITTI object benchmark computes it.

Sources: Geiger, Lenz, Urtasun (2012), "Are we ready for autonomous driving?"; for R40 Simonelli et al. (2019).

A detection is right if it overlaps a ground truth by more than 0.7 (cars) or 0.5 (pedestrians, cyclists). Ground truth
that is too small, occluded or truncated for a difficulty, or of a neighbouring class, may be found and need not be;
detections that are too small or lie in `DontCare` areas of the image count neither way.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robovision.lidar import report
from robovision.lidar.conventions import camera_readings, some_frames, warn_of_other_convention
from robovision.lidar.kitti_counts import LOOSE, SAMPLES, STRICT, Criterion, Tally, errors, tally
from robovision.lidar.kitti_labels import DETECTION, DONT_CARE, LABEL, KittiObjects, read_detections, read_labels
from robovision.lidar.kitti_matching import Scene
from robovision.lidar.report import Evaluation, check_frames, files_of, frame_errors
from robovision.types import Array, Metric


@dataclass(frozen=True, eq=False)
class Curve:
    """Precision over recall of one class and difficulty, and how well orientation is estimated.

    Convention:
        name: class, kind and difficulty, such as `Car_3d/easy`; with loose overlaps `Car_3d@0.5/easy`.
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
    are `image`, `bev`, `3d` and `aos` (orientation; left out for all classes if any detection has the angle -10,
    unknown, as the official evaluation does). All others are always there: what has not been detected, or has no box
    in space, scores 0. `count` is the number of ground truths that had to be found.

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
    scenes = _scene(truth, names, read_labels, LABEL), _scene(detections, names, read_detections, DETECTION)
    _check_convention(*scenes)
    return scenes


def _check_convention(truth: Scene, detections: Scene) -> None:
    """Warn if another convention of the detections fits better, by boxes in space of some frames."""
    rows = some_frames(truth.frame, detections.frame)
    known, found = (_in_space(scene.select(part)) for scene, part in zip((truth, detections), rows, strict=True))
    read = [camera_readings(s.objects.locations, s.objects.sizes, s.objects.rotation_y) for s in (known, found)]
    expected = "middle of the bottom in the rectified camera's frame: x right, y down, z forward; radians"
    warn_of_other_convention((read[0][""], known.frame), read[1], found.frame, expected)


def _in_space(scene: Scene) -> Scene:
    """The objects that have a box in space."""
    return scene.select(scene.objects.boxed & (np.array(scene.objects.names, dtype=object) != DONT_CARE))


def evaluation(truth: Path, detections: Path) -> Evaluation:
    """The same as `evaluate`, with curves, and with the worst frames by boxes in space of moderate difficulty.

    Behind the benchmark's numbers come those of loose overlaps from above and in space, which the field reports too:
    0.5 for cars and 0.25 for pedestrians and cyclists, such as `Car_3d@0.5/moderate_R40`.

    Raises:
        UsageError: as `evaluate`.
    """
    scenes = read_folders(truth, detections)
    found = tally(*scenes, (*STRICT, *LOOSE))
    drawn = [_curve(each, scenes[1]) for each in found]
    metrics = [metric for curve in drawn for metric in _averages(curve)]
    metrics.sort(key=lambda metric: ("@" in metric.name, "_R40" not in metric.name, "_3d" not in metric.name))
    lines = [report.Curve(c.name, np.linspace(0, 1, SAMPLES), c.precision) for c in drawn if "@" not in c.name]
    judged = [
        t for t in found if t.criterion in STRICT and t.criterion.kind == "3d" and t.difficulty.name == "moderate"
    ]
    names = [path.stem for path in files_of(truth, "*.txt")]
    return Evaluation("kitti", metrics, lines, frame_errors(names, *errors(*scenes, judged)))


def curves(truth: Scene, detections: Scene, criteria: Sequence[Criterion] = STRICT) -> list[Curve]:
    """A curve for each criterion (class and kind of overlap) and difficulty, in that order."""
    return [_curve(each, detections) for each in tally(truth, detections, criteria)]


def _curve(each: Tally, detections: Scene) -> Curve:
    total = np.maximum(each.right + each.wrong, 1)
    oriented = each.criterion.kind == "image" and not (detections.objects.alpha == -10).any()
    return Curve(
        f"{each.criterion.name}/{each.difficulty.name}",
        each.thresholds,
        _envelope(each.right / total),
        _envelope(each.similar / total) if oriented else None,
        each.count,
    )


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


def _scene(folder: Path, names: list[str], read: Callable[[Path], KittiObjects], numbers: int) -> Scene:
    """The objects of all frames, gathered in a buffer that grows in place: they are never held twice."""
    values = array("d")
    classes: list[str] = []
    counts: list[int] = []
    for name in names:
        part = read(folder / f"{name}.txt")
        values.frombytes(part.values.tobytes())
        classes += part.names
        counts.append(len(part))
    table = np.frombuffer(values, np.float64).reshape(-1, numbers)
    table.flags.writeable = False
    return Scene(KittiObjects(tuple(classes), table), np.repeat(np.arange(len(names)), counts))
