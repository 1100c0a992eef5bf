"""What the methods reach on each task, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from robovision.agents import statistics
from robovision.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Scores = NDArray[np.float64]
WIDTH = 0.8
"""Of the methods of one task together; tasks are 1 apart."""


def draw(path: Path, scores: Mapping[str, Mapping[str, Scores]]) -> None:
    """A PNG: for each task, and for the mean over those that every method has, each method with its 95 % interval.

    Args:
        path: of the picture.
        scores: by the method's title and by task, [seeds, episodes] in 0..1; small dots are the seeds' means.
    """
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(task for by_task in scores.values() for task in by_task))
    shared = [task for task in tasks if all(task in by_task for by_task in scores.values())]
    figure = Figure(figsize=(2.2 * (len(tasks) + 1) + 3, 4), layout="constrained", dpi=110)
    axes = figure.subplots()
    for number, (title, by_task) in enumerate(scores.items()):
        offset = WIDTH * ((number + 0.5) / len(scores) - 0.5)
        groups = {tasks.index(task): [values] for task, values in by_task.items()}
        if len(shared) > 1:
            groups[len(tasks)] = [by_task[task] for task in shared]
        _method(axes, title, f"C{number}", {place + offset: group for place, group in groups.items()})
    axes.set_xticks(range(len(tasks) + (len(shared) > 1)), [*tasks, *["mean"] * (len(shared) > 1)])
    axes.set(ylabel="score at the last checkpoint, %", ylim=(-3, 103))
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    with write_atomically(path) as file:
        figure.savefig(file, format="png")


def _method(axes: Axes, title: str, colour: str, groups: Mapping[float, Sequence[Scores]]) -> None:
    """One method's marks, at their places along the axis."""
    found = {place: statistics.metric(title, group) for place, group in groups.items()}
    values = np.array([100 * metric.value for metric in found.values()])
    ends = 100 * np.array([[metric.low, metric.high] for metric in found.values()], np.float64).T  # None: NaN, no bar
    axes.errorbar([*found], values, abs(ends - values), fmt="o", capsize=3, color=colour, label=title)
    for place, group in groups.items():
        for values in group if len(group) == 1 else []:
            axes.plot([place] * len(values), 100 * values.mean(1), ".", color=colour, alpha=0.4, markersize=4)
