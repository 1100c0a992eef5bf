"""How a detector answers when the scene moves: features and boxes, by transformation and magnitude.

A detector f is equivariant to g if f(g x) = g f(x). Of features the error is the norm of the difference over that of
g f(x), on the ground that both maps cover; of boxes it is the share that is lost or found beside its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robovision.files import write_atomically, write_csv
from robovision.lidar.boxes import bev_iou
from robovision.lidar.detectors.config import DetectorConfig
from robovision.lidar.detectors.detector import Detector
from robovision.lidar.detectors.ground import act_on_map
from robovision.lidar.transforms import Similarity

KINDS: dict[str, tuple[str, tuple[float, ...], Callable[[float], Similarity]]] = {
    "shift": ("m", (0.1, 0.2, 0.4, 0.8), lambda m: Similarity(translation=(m, m / 2, 0.0))),
    "turn": ("degrees", (5.0, 15.0, 45.0, 90.0), lambda m: Similarity(yaw=math.radians(m))),
    "scale": ("times", (1.02, 1.05, 1.1, 1.2), lambda m: Similarity(scale=m)),
    "flip": ("", (1.0,), lambda _: Similarity(mirror=True)),
}
"""Transformations by name: the unit of their magnitude, magnitudes, and the group element of each."""
OVERLAP = 0.5
"""Overlap on the ground from which a box counts as found again."""
MARGIN = 2.0
"""Metres from the edge of the grid within which boxes are not compared."""


@dataclass(frozen=True)
class Answer:
    """What one transformation does to a detector's answer, over all sweeps.

    Convention:
        features: relative error of the features, 0 for an equivariant detector.
        boxes: how many boxes were compared.
        lost: share of them that no box of the moved sweep overlaps by `OVERLAP` or more, 0..1; NaN if there is none.
        offset: mean distance in metres between the centres of those that were found again; NaN if there is none.
    """

    kind: str
    magnitude: float
    features: float
    boxes: int
    lost: float
    offset: float


@torch.no_grad()
def measure(
    detector: Detector, sweeps: Sequence[Tensor], score: float, done: Callable[[int], None] = lambda _: None
) -> list[Answer]:
    """The answers to every kind and magnitude, of sweeps [P, 3 or 4] with the ground where the detector knows it."""
    still = [_run(detector, points) for points in sweeps]
    answers = []
    for kind, (_, magnitudes, element) in KINDS.items():
        for magnitude in magnitudes:
            parts = [
                _compare(detector, points, before, element(magnitude), score)
                for points, before in zip(sweeps, still, strict=True)
            ]
            answers.append(_summarise(kind, magnitude, parts))
            done(len(answers))
    return answers


def write_report(out: Path, answers: dict[str, list[Answer]]) -> None:
    """Write equivariance.csv and equivariance.png of detectors by name to a folder.

    Raises:
        UsageError: if it can't be written.
    """
    rows = [{"detector": name, **asdict(answer)} for name, found in answers.items() for answer in found]
    write_csv(out / "equivariance.csv", list(rows[0]), rows)
    _plot(out / "equivariance.png", answers)


def table(answers: Sequence[Answer]) -> str:
    """The answers as lines to read."""
    lines = [f"{'':<20} features   boxes lost   offset of the others"]
    for a in answers:
        what = f"{a.kind} {a.magnitude:g} {KINDS[a.kind][0]}" if KINDS[a.kind][0] else a.kind
        lines.append(f"{what:<20} {a.features:>8.3f}   {a.lost:>6.1%} of {a.boxes:<4} {a.offset:>6.2f} m")
    return "\n".join(lines)


Still = tuple[Tensor, Tensor, Tensor]
"""Features [1, C, H, W], boxes [N, 7] and scores [N]."""


def _run(detector: Detector, points: Tensor) -> Still:
    sample = torch.zeros(len(points), dtype=torch.int64)
    features = detector.backbone(detector.encoder(points, sample, 1))
    (found,) = detector.decode(detector.head(features))
    return features, found.boxes, found.scores


def _compare(
    detector: Detector, points: Tensor, before: Still, element: Similarity, score: float
) -> tuple[float, float, int, Tensor]:
    """Squared error, squared norm, boxes compared, and the offsets of those found again."""
    features, boxes, scores = before
    moved = torch.cat([element.points(points[:, :3]), points[:, 3:]], dim=1)
    then, found, _ = _run(detector, moved)
    wanted, known = act_on_map(element, features, detector.config.grid)
    error = (then - wanted)[..., known].square().sum()
    expected = element.boxes(boxes[scores >= score])
    expected = expected[_inside(expected, detector.config)]
    if not len(expected) or not len(found):
        return float(error), float(wanted[..., known].square().sum()), len(expected), torch.zeros(0)
    overlap, at = bev_iou(expected, found).max(dim=1)
    again = overlap >= OVERLAP
    offset = (expected[again, :2] - found[at[again], :2]).norm(dim=1)
    return float(error), float(wanted[..., known].square().sum()), len(expected), offset


def _inside(boxes: Tensor, config: DetectorConfig) -> Tensor:
    low, high = boxes.new_tensor(config.grid.low[:2]) + MARGIN, boxes.new_tensor(config.grid.high[:2]) - MARGIN
    return ((boxes[:, :2] > low) & (boxes[:, :2] < high)).all(dim=1)


def _summarise(kind: str, magnitude: float, parts: list[tuple[float, float, int, Tensor]]) -> Answer:
    error, size = sum(p[0] for p in parts), sum(p[1] for p in parts)
    count, offsets = sum(p[2] for p in parts), torch.cat([p[3] for p in parts])
    lost = 1 - len(offsets) / count if count else math.nan
    offset = float(offsets.mean()) if len(offsets) else math.nan
    return Answer(kind, magnitude, math.sqrt(error / size) if size else math.nan, count, lost, offset)


def _plot(path: Path, answers: dict[str, list[Answer]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.4), layout="constrained", dpi=110)
    axes = figure.subplots(2, len(KINDS), sharey="row", squeeze=False)
    for column, (kind, (unit, magnitudes, _)) in enumerate(KINDS.items()):
        for name, found in answers.items():
            mine = [answer for answer in found if answer.kind == kind]
            place = np.arange(len(mine))
            axes[0, column].plot(place, [a.features for a in mine], marker="o", label=name)
            axes[1, column].plot(place, [100 * a.lost for a in mine], marker="o")
        labels = [f"{m:g}" for m in magnitudes] if unit else [""]
        axes[0, column].set_title(kind, fontsize=10)
        axes[1, column].set_xlabel(unit)
        for row in (0, 1):
            axes[row, column].set_xticks(range(len(magnitudes)), labels)
            axes[row, column].set_ylim(bottom=0)
            axes[row, column].grid(alpha=0.3)
    axes[0, 0].set_ylabel("relative error of features")
    axes[1, 0].set_ylabel("boxes lost, %")
    axes[0, 0].legend(frameon=False, fontsize=8)
    with write_atomically(path) as file:
        figure.savefig(file, format="png")
