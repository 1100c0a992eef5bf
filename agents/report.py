"""Judges finished runs again, on other goals or more of them: one checkpoint, all of them, or several runs together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from robovision.agents import statistics
from robovision.agents.agent import find_step
from robovision.agents.config import TrainConfig
from robovision.agents.evaluate import Judged, evaluate, write_episodes
from robovision.agents.plots import checkpoints_plot
from robovision.agents.reinforcement.config import RLConfig
from robovision.agents.video import write_mosaic
from robovision.errors import UsageError
from robovision.files import cannot_write, write_csv, write_json
from robovision.progress import move
from robovision.run import Run, metrics_by_name
from robovision.types import Metric


def evaluate_run(
    run: Run, config: TrainConfig | RLConfig, checkpoint: str, out: Path, ray: str | None = None
) -> Judged:
    """Play the config's evaluation with a run's checkpoint; results, CSV and video go to the folder `out`.

    Args:
        run: the run.
        config: its config with the wanted seed, episodes and horizon.
        checkpoint: `final`, `best` or the number of a step.
        out: the folder, made if there is none.
        ray: the Ray cluster whose processes play, as `robovision.agents.evaluate.evaluate` takes it.

    Raises:
        UsageError: if the run has no such checkpoint, or the folder can't be written.
    """
    step = find_step(run, checkpoint)
    try:
        run.at(step)
    except UsageError as error:
        others = [str(step) for step in run.steps()]
        raise UsageError(f"{error}; choose another with --checkpoint; there are steps {', '.join(others)}") from None
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from error
    with tqdm(total=config.evaluation.episodes, desc=f"evaluation of step {step}", unit="episode") as bar:
        judged = evaluate(
            run, config.trial, step, film=True, workers=config.workers, ray=ray, progress=lambda done: move(bar, done)
        )
    write_mosaic(out / "evaluation.mp4", judged.films, judged.outcomes)
    write_episodes(out / "episodes.csv", judged)
    details: dict[str, Any] = {"step": step, "seed": config.seed, "horizon": config.env.horizon}
    write_json(
        out / "results.json", {"metrics": metrics_by_name(judged.metrics()), **details, "lost_workers": judged.lost}
    )
    return judged


def evaluate_checkpoints(run: Run, config: TrainConfig | RLConfig, out: Path, ray: str | None = None) -> list[Metric]:
    """Play the config's evaluation with every checkpoint that a run has kept; the last one's metrics, and the best.

    Each has a folder in `out`, as `evaluate_run` makes it; over them go checkpoints.csv, checkpoints.png, results.json.

    Raises:
        UsageError: as `evaluate_run` does.
    """
    find_step(run, "final")
    steps = run.steps()
    judged = {step: evaluate_run(run, config, str(step), out / f"step-{step:06d}", ray) for step in steps}
    first = {step: record.metrics()[0] for step, record in judged.items()}
    best = max(first, key=lambda step: (first[step].value, step))
    metrics = [*judged[steps[-1]].metrics(), dataclasses.replace(first[best], name=f"{first[best].name}_best")]
    rows = [
        {"step": step, metric.name: metric.value, "low": metric.low, "high": metric.high}
        for step, metric in first.items()
    ]
    write_csv(out / "checkpoints.csv", list(rows[0]), rows)
    checkpoints_plot(out / "checkpoints.png", first, f"{config.task}, seed {config.seed}")
    details = {"final_step": steps[-1], "best_step": best, "seed": config.seed, "horizon": config.env.horizon}
    write_json(out / "results.json", {"metrics": metrics_by_name(metrics), **details})
    return metrics


def together(judged: Sequence[tuple[str, Judged]]) -> list[Metric]:
    """What several runs reach together, each given by its task and its evaluation; runs of one task are its seeds.

    The mean over the tasks, the interquartile mean over the runs, and, of several tasks, the mean of each;
    with intervals by a stratified bootstrap.

    Raises:
        UsageError: if the runs are not judged by the same measure in 0..1, or by different numbers of episodes.
    """
    scores: dict[str, list[NDArray[np.float64]]] = {}
    for task, record in judged:
        scores.setdefault(task, []).append(episode_scores(record))
    if len({len(run) for runs in scores.values() for run in runs}) > 1:
        raise UsageError("runs that are judged together must play equally many episodes")
    tasks = {task: np.stack(runs) for task, runs in scores.items()}
    metrics = [
        statistics.metric("mean", [*tasks.values()]),
        statistics.metric("interquartile_mean", [*tasks.values()], statistics.interquartile_mean),
    ]
    if len(tasks) > 1:
        metrics += [statistics.metric(task, [runs]) for task, runs in tasks.items()]
    return metrics


def episode_scores(judged: Judged) -> NDArray[np.float64]:
    """What each episode counts in 0..1: success at the last step, or the task's own score.

    Raises:
        UsageError: for a task that has neither.
    """
    values = [o.score if o.success is None else float(o.success) for o in judged.outcomes]
    found = [value for value in values if value is not None]
    if len(found) < len(values):
        raise UsageError(
            "the task knows neither success nor a score in 0..1, only returns, which can't be averaged over tasks"
        )
    return np.array(found, np.float64)
