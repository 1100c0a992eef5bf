"""How a detector answers when the scene moves: features and boxes, by transformation and magnitude.

A detector f is equivariant to g if f(g x) = g f(x). Of features the error is the root mean square of the difference
over the deviation of g f(x) from place to place, where points are: features that are the same everywhere, which move as
they should whatever the motion, get no good mark for it. Of boxes it is the share that is lost or found elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from robovision.files import write_atomically, write_csv
from robovision.lidar.boxes import bev_iou
from robovision.lidar.detectors.config import DetectorConfig
from robovision.lidar.detectors.detector import Detector, Seen
from robovision.lidar.detectors.ground import act_on_map
from robovision.lidar.transforms import Similarity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS: dict[str, tuple[str, tuple[float, ...], Callable[[float], Similarity]]] = {
    "shift": ("m", (0.1, 0.2, 0.4, 0.8), lambda m: Similarity(translation=(m, m / 2, 0.0))),
    "turn": ("degrees", (5.0, 15.0, 45.0, 90.0), lambda m: Similarity(yaw=math.radians(m))),
    "scale": ("times", (1.02, 1.05, 1.1, 1.2), lambda m: Similarity(scale=m)),
    "flip": ("", (1.0,), lambda _: Similarity(mirror=True)),
}
"""Transformations by name: the unit of their magnitude, magnitudes, and the group element of each."""
FLOW = "flow"
"""The transformation that is none of a group: from a sweep to the next one, each point by its own flow."""
OVERLAP = 0.5
"""Overlap on the ground from which a box counts as found again."""
NOISE = 1e-10
"""Share of the features' squares up to which their deviation is rounding."""
MARGIN = 2.0
"""Metres from the edge of the grid within which boxes are not compared."""


@dataclass(frozen=True)
class Answer:
    """What one transformation does to a detector's answer, over all sweeps.

    Convention:
        features: relative error of the features, 0 for an equivariant detector and about 1.4 for features that have
            nothing to do with each other.
        boxes: how many boxes were compared; along the flow none are.
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
    """The answers to every kind and magnitude, of sweeps [P, 3 or 4] with the ground where the detector knows it.

    Boxes of less than `score` are not compared; with an infinite one, none.
    """
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


def write_report(out: Path, answers: Mapping[str, Sequence[Answer]]) -> None:
    """Write equivariance.csv and equivariance.png of detectors by name to a folder.

    Raises:
        UsageError: if it can't be written.
    """
    rows = [{"detector": name, **asdict(answer)} for name, found in answers.items() for answer in found]
    write_csv(out / "equivariance.csv", list(rows[0]), rows)
    _plot(out / "equivariance.png", answers)


def table(answers: Mapping[str, Sequence[Answer]]) -> str:
    """The errors of features by motion, those of detectors by name side by side, and below them those of boxes."""
    lines = _rows("features", {n: [f"{a.features:.3f}" for a in found] for n, found in answers.items()}, answers)
    boxed = {name: found for name, found in answers.items() if any(a.boxes for a in found)}
    boxed = {name: [a for a in found if a.kind != FLOW] for name, found in boxed.items()}
    cells = {n: [f"{a.lost:.1%} {a.offset:.2f} m" for a in found] for n, found in boxed.items()}
    return "\n".join([*lines, *(["", *_rows("boxes lost, moved", cells, boxed)] if boxed else [])])


def _rows(title: str, cells: Mapping[str, list[str]], answers: Mapping[str, Sequence[Answer]]) -> list[str]:
    """A line of names and one a motion."""
    motions = [_motion(answer) for answer in next(iter(answers.values()))]
    lines = zip([title, *motions], *([name, *column] for name, column in cells.items()), strict=True)
    width = max(14, *map(len, cells))
    return [f"{first:<20}" + "".join(f"  {cell:>{width}}" for cell in rest) for first, *rest in lines]


def _motion(answer: Answer) -> str:
    unit = _unit(answer.kind)
    return f"{answer.kind} {answer.magnitude:g} {unit}" if unit else answer.kind


def _unit(kind: str) -> str:
    return KINDS[kind][0] if kind in KINDS else ""


@torch.no_grad()
def fit_normalisations(detector: Detector, sweeps: Sequence[Tensor]) -> None:
    """Set what the normalisations before the head hold to what these sweeps [P, 3 or 4] show, as training would."""
    norms = [m for m in detector.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all sweeps
    detector.train()
    for points in sweeps:
        sweep_features(detector, points)
    detector.eval()


Still = tuple[Tensor, Tensor, Tensor]
"""Features [1, C, H, W], boxes [N, 7] and scores [N]."""


@dataclass(frozen=True, eq=False)
class _Part:
    """One sweep's share of an answer: sums over features and places, boxes compared, offsets of those found again."""

    error: Tensor
    deviation: Tensor
    boxes: int
    offsets: Tensor


def sweep_features(detector: Detector, points: Tensor) -> Tensor:
    """The features [1, C, H, W] of one sweep [P, 3 or 4]."""
    sample = torch.zeros(len(points), dtype=torch.int64)
    return detector.features(points, sample, 1)[0]


def _run(detector: Detector, points: Tensor) -> Still:
    features, stages = detector.features(points, torch.zeros(len(points), dtype=torch.int64), 1)
    (found,) = detector.decode(Seen(detector.head(features), stages))
    return features, found.boxes, found.scores


def _compare(detector: Detector, points: Tensor, before: Still, element: Similarity, score: float) -> _Part:
    features, boxes, scores = before
    moved = torch.cat([element.points(points[:, :3]), points[:, 3:]], dim=1)
    then, found, _ = _run(detector, moved)
    wanted, known = act_on_map(element, features, detector.config.grid)
    looked = known & occupied(moved[:, :3], detector.config, (known.shape[0], known.shape[1]))
    error, deviation = share(then[..., looked], wanted[..., looked])
    expected = element.boxes(boxes[scores >= score])
    expected = expected[_inside(expected, detector.config)]
    if not len(expected) or not len(found):
        return _Part(error, deviation, len(expected), torch.zeros(0))
    overlap, at = bev_iou(expected, found).max(dim=1)
    again = overlap >= OVERLAP
    return _Part(error, deviation, len(expected), (expected[again, :2] - found[at[again], :2]).norm(dim=1))


Shares = tuple[Tensor, Tensor]
"""What one sweep adds to the square of the error and to that of the deviation which it is measured by."""


def share(found: Tensor, wanted: Tensor) -> Shares:
    """The squared difference of features [..., places], and the squared deviation of those wanted over the places."""
    error = (found - wanted).square().sum()
    deviation = (wanted - wanted.mean(dim=-1, keepdim=True)).square().sum()
    return error, torch.where(deviation > NOISE * wanted.square().sum(), deviation, 0)


def occupied(xyz: Tensor, config: DetectorConfig, shape: tuple[int, int]) -> Tensor:
    """Which cells of a map over the grid hold points [P, 3], bool of the map's shape."""
    cells = torch.zeros(shape, dtype=torch.bool)
    low = xyz.new_tensor(config.grid.low)
    share = (xyz - low) / (xyz.new_tensor(config.grid.high) - low)
    inside = ((share >= 0) & (share < 1)).all(dim=1)
    column, row = (share[inside, :2] * xyz.new_tensor([shape[1], shape[0]])).long().unbind(dim=1)
    cells[row, column] = True
    return cells


def _inside(boxes: Tensor, config: DetectorConfig) -> Tensor:
    low, high = boxes.new_tensor(config.grid.low[:2]) + MARGIN, boxes.new_tensor(config.grid.high[:2]) - MARGIN
    return ((boxes[:, :2] > low) & (boxes[:, :2] < high)).all(dim=1)


def _summarise(kind: str, magnitude: float, parts: list[_Part]) -> Answer:
    error, deviation = sum(float(p.error) for p in parts), sum(float(p.deviation) for p in parts)
    count, offsets = sum(p.boxes for p in parts), torch.cat([p.offsets for p in parts])
    lost = 1 - len(offsets) / count if count else math.nan
    offset = float(offsets.mean()) if len(offsets) else math.nan
    return Answer(kind, magnitude, math.sqrt(error / deviation) if deviation else math.nan, count, lost, offset)


def _plot(path: Path, answers: Mapping[str, Sequence[Answer]]) -> None:
    from matplotlib.figure import Figure

    quantities = [("relative error of features", {n: [a.features for a in found] for n, found in answers.items()})]
    boxed = {n: [100 * a.lost for a in found] for n, found in answers.items() if any(a.boxes for a in found)}
    if boxed:
        quantities.append(("boxes lost, %", boxed))
    motions = [(answer.kind, answer.magnitude) for answer in next(iter(answers.values()))]
    kinds = list(dict.fromkeys(kind for kind, _ in motions))
    figure = Figure(figsize=(2.5 * len(kinds), 0.6 + 2.4 * len(quantities)), layout="constrained", dpi=110)
    axes = figure.subplots(len(quantities), len(kinds), sharey="row", squeeze=False)
    for row, (quantity, values) in enumerate(quantities):
        axes[row, 0].set_ylabel(quantity)
        for column, kind in enumerate(kinds):
            mine = [number for number, (name, _) in enumerate(motions) if name == kind]
            for number, name in enumerate(answers):
                if name in values:
                    shown = [values[name][k] for k in mine]
                    axes[row, column].plot(range(len(mine)), shown, marker="o", color=f"C{number}", label=name)
            _label(axes[row, column], kind, [motions[k][1] for k in mine])
        axes[row, 0].set_ylim(bottom=0)  # last: it fixes the top too
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    with write_atomically(path) as file:
        figure.savefig(file, format="png")


def _label(axes: Axes, kind: str, magnitudes: Sequence[float]) -> None:
    unit = _unit(kind)
    axes.set_title(kind, fontsize=10)
    axes.set_xticks(range(len(magnitudes)), [f"{m:g}" if unit else "" for m in magnitudes])
    axes.set_xlabel(unit)
    axes.grid(alpha=0.3)
