"""Learning curves as pictures."""

from __future__ import annotations

from pathlib import Path

from robovision.agents.config import TrainConfig
from robovision.agents.evaluate import Judged
from robovision.files import write_atomically

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
    success = {step: record.metrics()[0] for step, record in sorted(judged.items())}
    below = [metric.value - (metric.value if metric.low is None else metric.low) for metric in success.values()]
    above = [(metric.value if metric.high is None else metric.high) - metric.value for metric in success.values()]
    name = next(iter(success.values())).name
    values = [metric.value for metric in success.values()]
    right.errorbar(list(success), values, [below, above], fmt="o-", capsize=4, color="tab:green")
    right.set(xlabel="training step", ylabel=f"{name} at the last step")
    if name != "return":
        right.set_ylim(-0.03, 1.03)
    right.set_xlim(0, max(success) * 1.05)
    right.set_title(
        f"{config.evaluation.episodes} fresh starts" + (", 95 % Wilson intervals" if name == "success" else ""),
        fontsize=9,
    )
    for axes in (left, right):
        axes.grid(alpha=0.3)
    with write_atomically(path) as file:
        figure.savefig(file, format="png")


def _smooth(values: list[float]) -> list[float]:
    """An exponential moving average."""
    smooth: list[float] = []
    for value in values:
        smooth.append(SMOOTH * smooth[-1] + (1 - SMOOTH) * value if smooth else value)
    return smooth
