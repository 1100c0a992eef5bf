"""The learning curve as CSV and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from robovision.agents.evaluate import Judged
from robovision.agents.reinforcement.config import RLConfig
from robovision.files import write_atomically, write_csv

Curve = Sequence[Mapping[str, float]]


def write_curve(path: Path, curve: Curve, judged: Mapping[int, Judged]) -> None:
    """A row a checkpoint: actions, seconds, mean return while learning, losses, and the evaluation's mean metrics."""
    rows: list[dict[str, float]] = []
    for row in curve:
        record = judged.get(int(row["step"]))
        metrics = {f"evaluation_{m.name}": m.value for m in record.metrics()} if record else {}
        deviation = {"evaluation_return_std": float(np.std(_returns(record)))} if record else {}
        rows.append({**row, **metrics, **deviation})
    names = list(dict.fromkeys(name for row in rows for name in row))
    write_csv(path, names, rows)


def write_picture(path: Path, curve: Curve, judged: Mapping[int, Judged], config: RLConfig) -> None:
    """A PNG of the return over the actions, of each evaluation's episodes and while learning."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained", dpi=120)
    axes = figure.subplots()
    axes.set_title(f"{config.task}, {config.algorithm} with {config.sees}, seed {config.seed}", fontsize=10)
    learning = [(row["step"], row["episode_return"]) for row in curve if "episode_return" in row]
    axes.plot(*np.array(learning).T.reshape(2, -1), color="0.6", label="while learning, mean")
    steps = sorted(judged)
    episodes = [_returns(judged[step]) for step in steps]
    for step, returns in zip(steps, episodes, strict=True):
        axes.scatter([step] * len(returns), returns, s=6, color="tab:green", alpha=0.3)
    axes.plot(steps, [np.mean(returns) for returns in episodes], "o-", color="tab:green", label="evaluation, mean")
    axes.set(xlabel="actions", ylabel="return of an episode")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    with write_atomically(path) as file:
        figure.savefig(file, format="png")


def _returns(judged: Judged) -> list[float]:
    return [outcome.total_reward for outcome in judged.outcomes]
