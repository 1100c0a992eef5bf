"""Judges a finished run again, on other goals or more of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tqdm import tqdm

from robovision.agents.agent import find_step
from robovision.agents.config import TrainConfig
from robovision.agents.evaluate import evaluate, write_episodes
from robovision.agents.reinforcement.config import RLConfig
from robovision.agents.video import write_mosaic
from robovision.errors import UsageError
from robovision.files import cannot_write, write_json
from robovision.progress import move
from robovision.run import Run, metrics_by_name
from robovision.types import Metric


def evaluate_run(run: Run, config: TrainConfig | RLConfig, checkpoint: str, out: Path) -> list[Metric]:
    """Play the config's evaluation with a run's checkpoint; results, CSV and video go to the folder `out`.

    Args:
        run: the run.
        config: its config with the wanted seed, episodes and horizon.
        checkpoint: `final`, `best` or the number of a step.
        out: the folder, made if there is none.

    Raises:
        UsageError: if the run has no such checkpoint, or the folder can't be written.
    """
    step = find_step(run, checkpoint)
    try:
        run.at(step)
    except UsageError as error:
        others = [path.name.removeprefix("step-").lstrip("0") for path in run.checkpoints()]
        raise UsageError(f"{error}; choose another with --checkpoint; there are steps {', '.join(others)}") from None
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from error
    with tqdm(total=config.evaluation.episodes, desc=f"evaluation of step {step}", unit="episode") as bar:
        judged = evaluate(
            run, config.trial, step, film=True, workers=config.workers, progress=lambda done: move(bar, done)
        )
    metrics = judged.metrics()
    write_mosaic(out / "evaluation.mp4", judged.films, judged.outcomes)
    write_episodes(out / "episodes.csv", judged)
    details: dict[str, Any] = {"step": step, "seed": config.seed, "horizon": config.env.horizon}
    write_json(out / "results.json", {"metrics": metrics_by_name(metrics), **details, "lost_workers": judged.lost})
    return metrics
