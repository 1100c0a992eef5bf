"""Measurements of keypoints as tables in Markdown, a curve, and numbers for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robovision.bench.timing import markdown
from robovision.files import write_atomically
from robovision.keypoints.planar import THRESHOLDS, Estimator, Score, Summary
from robovision.keypoints.scores import area_under_recall
from robovision.types import Array

POSE_THRESHOLDS = (5.0, 10.0, 20.0)
"""Degrees."""
AT_3 = THRESHOLDS.index(3.0)
LEVELS = "/".join(f"{t:g}" for t in THRESHOLDS)


def version_curves(scores: Mapping[str, Sequence[Sequence[Score]]]) -> dict[str, Array]:
    """Of each extractor, by version, the means over the photographs: [V, 3], repeatability@3, MMA@3, keypoints."""
    return {
        name: np.mean([[[s.repeated[AT_3], s.accurate[AT_3], s.keypoints] for s in row] for row in photographs], axis=0)
        for name, photographs in scores.items()
    }


def rotation_table(curves: Mapping[str, Array]) -> str:
    """Mean, worst angle and multiples of 90 degrees, percent."""
    heads = ["%", "repeatability@3, mean", "worst", "at", "multiples of 90", "MMA@3, mean", "worst", "at"]
    heads += ["multiples of 90", "keypoints"]
    rows = []
    for name, curve in curves.items():
        step = 360 // len(curve)
        row = [name]
        for column in curve[:, :2].T:
            quarters = column[:: 90 // step]
            row += [
                f"{100 * column.mean():.1f}",
                f"{100 * column.min():.1f}",
                f"{column.argmin() * step}\N{DEGREE SIGN}",
            ]
            row += [f"{100 * quarters.mean():.1f}"]
        rows.append([*row, f"{curve[:, 2].mean():.0f}"])
    return markdown(heads, rows)


def rotation_plot(path: Path, curves: Mapping[str, Array]) -> None:
    """A PNG of repeatability and matching accuracy over the angle."""
    steps = next(iter(curves.values())).shape[0]
    plot(path, curves, np.arange(steps) * 360 / steps, "rotation (degrees)")


def plot(path: Path, curves: Mapping[str, Array], x: Array, label: str) -> None:
    """A PNG of repeatability and matching accuracy of the versions [V] of photographs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained", dpi=110)
    panels = figure.subplots(1, 2)
    for column, (axes, title) in enumerate(zip(panels, ("repeatability@3", "matching accuracy (MMA)@3"), strict=True)):
        for name, curve in curves.items():
            axes.plot(x, 100 * curve[:, column], "o-", markersize=3, label=name)
        axes.set(xlabel=label, ylabel=f"{title} (%)", ylim=(0, 102))
        if x[-1] > 180:
            axes.set_xticks(range(0, 361, 45))
        axes.grid(alpha=0.3)
    panels[0].legend(frameon=False, loc="lower left")
    with write_atomically(path) as file:
        figure.savefig(file, format="png")


def score_rows(scores: Mapping[str, Sequence[Sequence[Score]]], estimators: Sequence[Estimator]) -> list[list[str]]:
    """A head and a row for each photograph, version and extractor, for a CSV file; shares in 0..1, pixels."""
    heads = ["extractor", "photograph", "version", "keypoints", "matches"]
    heads += [f"{what}@{t:g}" for what in ("repeatability", "mma", "precision") for t in THRESHOLDS]
    rows = [[*heads, *(f"corners_px {estimator.name}" for estimator in estimators)]]
    for name, photographs in scores.items():
        for photograph, row in enumerate(photographs):
            for version, s in enumerate(row):
                numbers = [s.keypoints, s.matches, *s.repeated, *s.accurate, *s.precise, *s.corners]
                rows.append([name, str(photograph), str(version), *(f"{number:.6g}" for number in numbers)])
    return rows


def planar_table(scores: Mapping[str, Sequence[Score]], estimators: Sequence[Estimator]) -> str:
    """What pairs with homographies gave, percent; of the corners the area under the recall curve up to each error."""
    heads = ["%", "pairs", "keypoints", "matches", f"repeatability@{LEVELS}", f"MMA@{LEVELS}", f"precision@{LEVELS}"]
    for estimator in estimators:
        heads += [f"{estimator.name}: corners within {LEVELS} px", f"AUC@{LEVELS}"]
    rows = []
    for name, entries in scores.items():
        summary = Summary.of(entries)
        shares: list[Sequence[float] | Array] = [summary.repeated, summary.accurate, summary.precise]
        for errors in summary.corner_errors.T:
            shares += [[float((errors <= t).mean()) for t in THRESHOLDS], area_under_recall(errors, THRESHOLDS)]
        row = [name, str(summary.pairs), f"{summary.keypoints:.0f}", f"{summary.matches:.0f}"]
        rows.append([*row, *(_percent(share) for share in shares)])
    return markdown(heads, rows)


def pose_table(errors: Mapping[str, Mapping[tuple[str, str], float]]) -> str:
    """Pose errors: the area under the recall curve, percent, and the median in degrees."""
    levels = "/".join(f"{t:g}" for t in POSE_THRESHOLDS)
    rows = [
        [name, str(len(e)), _percent(area_under_recall(list(e.values()), POSE_THRESHOLDS)), f"{_median(e):.2f}"]
        for name, e in errors.items()
    ]
    return markdown(["", "pairs", f"AUC@{levels}\N{DEGREE SIGN}, %", "median error, degrees"], rows)


def _median(errors: Mapping[tuple[str, str], float]) -> float:
    return float(np.median(list(errors.values())))


def _percent(shares: Sequence[float] | Array) -> str:
    return " / ".join(f"{100 * share:.1f}" for share in shares)


def planar_numbers(scores: Mapping[str, Sequence[Score]], estimators: Sequence[Estimator]) -> dict[str, Any]:
    """The same for programs: shares in 0..1; a pair without an estimate has no corner error."""
    numbers = {}
    for name, entries in scores.items():
        summary = Summary.of(entries)
        columns = zip((e.name for e in estimators), summary.corner_errors.T, strict=True)
        numbers[name] = {
            "pairs": summary.pairs,
            "keypoints": summary.keypoints,
            "matches": summary.matches,
            "thresholds_px": THRESHOLDS,
            "repeatability": summary.repeated.tolist(),
            "mma": summary.accurate.tolist(),
            "precision": summary.precise.tolist(),
            "homographies": {estimator: _homographies(errors) for estimator, errors in columns},
        }
    return numbers


def _homographies(errors: Array) -> dict[str, Any]:
    return {
        "auc": area_under_recall(errors, THRESHOLDS),
        "corner_errors_px": [e if np.isfinite(e) else None for e in errors.tolist()],
    }
