"""What an evaluation gives, whatever its metric: numbers, precision-recall curves, the worst frames; and its files."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robovision.errors import UsageError
from robovision.files import make_folder, write_atomically, write_json
from robovision.types import Array, Metric


@dataclass(frozen=True, eq=False)
class Curve:
    """Precision [R] at recalls [R], both in 0..1."""

    name: str
    recall: Array
    precision: Array


@dataclass(frozen=True)
class FrameError:
    """How bad one frame is: objects missed and detections that are wrong, where F1 is best; flow: its mean error."""

    frame: str
    error: float
    missed: int | None = None
    wrong: int | None = None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The numbers, those that matter most first, the curves, and the frames, the worst first."""

    kind: str
    metrics: Sequence[Metric]
    curves: Sequence[Curve]
    frames: Sequence[FrameError]

    def table(self, most: int = 36) -> str:
        """The first numbers as text, with the worst frames."""
        width = max((len(metric.name) for metric in self.metrics), default=0)
        lines = [f"{metric.name:<{width}}  {_short(metric)}" for metric in self.metrics[:most]]
        if len(self.metrics) > most:
            lines.append(f"and {len(self.metrics) - most} more in results.json")
        if self.frames:
            lines += ["", f"{'worst frames':<{width}}  error  missed  wrong"]
        for f in self.frames[:5]:
            counts = "" if f.missed is None else f"  {f.missed:6d}  {f.wrong:5d}"
            lines.append(f"{f.frame:<{width}}  {f.error:5.3g}{counts}")
        return "\n".join(lines)

    def write(self, folder: Path) -> None:
        """Write `results.json`, `worst.json` and, if there are curves, `precision-recall.png` into a folder."""
        make_folder(folder)
        metrics = {metric.name: dataclasses.asdict(metric) for metric in self.metrics}
        write_json(folder / "results.json", {"metric": self.kind, "results": metrics})
        write_json(folder / "worst.json", [dataclasses.asdict(frame) for frame in self.frames[:100]])
        if self.curves:
            _plot(folder / "precision-recall.png", self.curves)


def frame_errors(names: Sequence[str], missed: Array, wrong: Array) -> list[FrameError]:
    """The frames with errors, worst first, from the frame of each missed object and of each wrong detection."""
    lost, false = (np.bincount(numbers, minlength=len(names)) for numbers in (missed, wrong))
    counts = ((n, int(lost[n]), int(false[n])) for n in np.flatnonzero(lost + false).tolist())
    rows = [FrameError(names[n], many + more, many, more) for n, many, more in counts]
    return sorted(rows, key=lambda row: (-row.error, row.frame))


def check_frames(what: str, truth: set[str], detections: set[str]) -> None:
    """Raise UsageError, listing what is only on one side, unless both hold the same frames."""
    if truth != detections:
        raise UsageError(
            f"the {what} of truth and detections differ; write each, empty if nothing is found, and of a split of the "
            f"dataset give the truth of its {what} alone. "
            f"Only in truth: {listed(truth - detections)}. Only in detections: {listed(detections - truth)}"
        )


def listed(names: set[str], most: int = 20) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(sorted(names)[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown or "none"


def files_of(folder: Path, *patterns: str) -> list[Path]:
    """The files of a folder that fit one of the patterns, sorted by name.

    Raises:
        UsageError: if there is no folder or no such file.
    """
    wanted = " or ".join(patterns)
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; give one with files {wanted}")
    paths = sorted(path for pattern in patterns for path in folder.glob(pattern))
    if not paths:
        raise UsageError(f"{folder} holds no frames; give a folder with files {wanted}")
    return paths


def _short(metric: Metric) -> str:
    unit = "" if metric.unit == "1" else f" {metric.unit}"
    count = "" if metric.count is None else f"  (n = {metric.count})"
    return f"{metric.value:8.4f}{unit}{count}"


def _plot(path: Path, curves: Sequence[Curve]) -> None:
    """One panel for each group of curves, which share the part of their names before the slash."""
    from matplotlib.figure import Figure

    groups = list(dict.fromkeys(curve.name.split("/")[0] for curve in curves))
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(4 * columns, 3 * rows), layout="constrained")
    panels = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for panel, group in zip(panels, groups, strict=False):
        own = [curve for curve in curves if curve.name.split("/")[0] == group]
        for curve, style in zip(own, itertools.cycle(("-", "--", "-.", ":"))):  # one may lie on another
            panel.plot(curve.recall, curve.precision, style, label=curve.name.split("/", 1)[-1])
        panel.set(title=group, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        panel.legend(fontsize="small")
    for panel in panels[len(groups) :]:
        panel.set_visible(False)
    with write_atomically(path) as file:
        figure.savefig(file, format="png", dpi=100)
