"""Learning curves as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from robovision.agents.config import TrainConfig
from robovision.agents.evaluate import Judged
from robovision.files import write_atomically
from robovision.types import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMOOTH = 0.8


def learning_curve(path: Path, curve: list[dict[str, float]], judged: dict[int, Judged], config: TrainConfig) -> None:
    """A PNG of loss and success over the training steps, with 95 % intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=120)
    figure.suptitle(f"{config.task}, {config.encoder.name} + {config.encoder.adapter}, seed {config.seed}")
    left, right = figure.subplots(1, 2)
    steps = [row["step"] for row in curve]
    left.plot(steps, [row["loss"] for row in curve], color="0.8", label="batch")
    left.plot(steps, _smooth([row["loss"] for row in curve]), color="tab:blue", label="smoothed")
    left.set(xlabel="training step", ylabel="squared error (deviations of the actions)", yscale="log")
    left.legend(frameon=False)
    left.grid(alpha=0.3)
    _over_steps(right, {step: record.metrics()[0] for step, record in sorted(judged.items())})
    with write_atomically(path) as file:
        figure.savefig(file, format="png")


def checkpoints_plot(path: Path, judged: Mapping[int, Metric], title: str) -> None:
    """A PNG of what the checkpoints of some steps reach, with 95 % intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.6), layout="constrained", dpi=120)
    figure.suptitle(title)
    _over_steps(figure.subplots(), judged)
    with write_atomically(path) as file:
        figure.savefig(file, format="png")


def _over_steps(axes: Axes, judged: Mapping[int, Metric]) -> None:
    """Draw metrics over the training steps."""
    metrics = [*judged.values()]
    values = [metric.value for metric in metrics]
    below = [metric.value - (metric.value if metric.low is None else metric.low) for metric in metrics]
    above = [(metric.value if metric.high is None else metric.high) - metric.value for metric in metrics]
    name = metrics[0].name
    axes.errorbar(list(judged), values, [below, above], fmt="o-", capsize=4, color="tab:green")
    axes.set(xlabel="training step", ylabel="success at the last step" if name == "success" else name)
    if name != "return":
        axes.set_ylim(-0.03, 1.03)
    axes.set_xlim(0, max(judged) * 1.05)
    kind = "Wilson" if name == "success" else "bootstrap"
    axes.set_title(f"{metrics[0].count} fresh starts, 95 % {kind} intervals", fontsize=9)
    axes.grid(alpha=0.3)


def _smooth(values: list[float]) -> list[float]:
    """An exponential moving average."""
    smooth: list[float] = []
    for value in values:
        smooth.append(SMOOTH * smooth[-1] + (1 - SMOOTH) * value if smooth else value)
    return smooth
