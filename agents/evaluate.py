"""Plays episodes with a trained policy, several side by side in each of several processes.

An episode's goal depends on the seed and its number alone, and the episodes that share a batch are always the
same ones: the number of workers does not change the result.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robovision.agents import statistics
from robovision.agents.agent import load
from robovision.agents.trial import Trial
from robovision.envs.ray_pool import open_pool
from robovision.envs.registry import make
from robovision.errors import UsageError
from robovision.files import write_csv, write_json
from robovision.run import Run
from robovision.seeding import derive
from robovision.types import Metric

GROUP = 4
"""Episodes that are played side by side in one process, so that the policy sees a batch."""
PATIENCE, STEP_PATIENCE = 600.0, 4.0
"""Seconds that a group may take, and for each step on top, before its worker counts as hung."""
FILMED = 25
"""At most so many episodes are filmed."""
FILM_EVERY = 2
"""One of so many steps is filmed."""

Film = NDArray[np.uint8]


@dataclass(frozen=True)
class Outcome:
    """How one episode went.

    Convention:
        success: at the last step, as the field's protocol asks; None for a task that defines no success.
        success_any: at any step, or None.
        first_success: the step of the first success, counted from 1, or None.
        score: the task's own in 0..1, at the last step; None for a task that defines none.
        total_reward: the undiscounted sum.
    """

    episode: int
    seed: int
    success: bool | None
    success_any: bool | None
    first_success: int | None
    score: float | None
    total_reward: float
    steps: int


@dataclass(frozen=True)
class Judged:
    """An evaluation: the outcome of each episode, the films of some, and how many workers were lost."""

    step: int
    outcomes: list[Outcome]
    films: list[Film]
    lost: int

    def metrics(self) -> list[Metric]:
        """What the task is judged by comes first.

        Success at the last step and at any step, with Wilson intervals, or the mean score; and the mean return; these
        with bootstrap intervals over the episodes.
        """
        count = len(self.outcomes)
        success = [o.success for o in self.outcomes if o.success is not None]
        scores = [o.score for o in self.outcomes if o.score is not None]
        metrics = []
        if success:
            metrics.append(Metric.proportion("success", sum(success), count))
            metrics.append(
                Metric.proportion("success_any_step", sum(bool(o.success_any) for o in self.outcomes), count)
            )
        if scores:
            metrics.append(_mean("score", scores, "1"))
        return [*metrics, _mean("return", [o.total_reward for o in self.outcomes], "reward")]


def evaluate(
    run: Run,
    trial: Trial,
    step: int,
    *,
    film: bool,
    workers: int,
    ray: str | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Judged:
    """Play the trial's episodes with the checkpoint of a step.

    Args:
        run: the run folder that holds the checkpoint, of any kind that `robovision.agents.load` knows.
        trial: the episodes; another horizon or other goals than the training's are allowed.
        step: of the checkpoint.
        film: also film the first episodes.
        workers: number of processes.
        ray: the Ray cluster whose processes play, as `robovision.envs.ray_pool.cluster` takes it; None: this machine's.
        progress: called with the number of episodes played so far.

    Raises:
        UsageError: if the checkpoint is missing or damaged, or the policy does not fit what the trial observes.
    """
    run.at(step)
    numbers = list(range(trial.episodes))
    groups = [tuple(numbers[k : k + GROUP]) for k in range(0, len(numbers), GROUP)]
    build = functools.partial(_Player, trial, run.path.resolve(), step, film)
    outcomes: dict[int, tuple[Outcome, Film | None]] = {}
    lost = 0
    patience = PATIENCE + trial.env.horizon * STEP_PATIENCE
    with open_pool(build, min(workers, len(groups)), timeout=patience, ray=ray) as pool:
        for done in pool.map(groups):
            lost += done.lost
            outcomes |= {outcome.episode: (outcome, frames) for outcome, frames in done.result}
            progress(len(outcomes))
    played = [outcomes[number] for number in numbers]
    films = [frames for _, frames in played if frames is not None]
    return Judged(step, [outcome for outcome, _ in played], films, lost)


def record_path(run: Run, step: int) -> Path:
    """Where the run keeps the evaluation of a step."""
    return run.path / "evaluations" / f"step-{step:06d}.json"


def write_record(run: Run, judged: Judged) -> None:
    """Write an evaluation's outcomes into the run folder."""
    path = record_path(run, judged.step)
    path.parent.mkdir(exist_ok=True)
    outcomes = [dataclasses.asdict(outcome) for outcome in judged.outcomes]
    write_json(path, {"step": judged.step, "lost_workers": judged.lost, "episodes": outcomes})


def write_episodes(path: Path, judged: Judged) -> None:
    """Write the outcome of each episode as CSV."""
    rows = [dataclasses.asdict(outcome) for outcome in judged.outcomes]
    write_csv(path, list(rows[0]), rows)


def read_record(path: Path) -> Judged:
    """An evaluation that was written before, without its films.

    Raises:
        UsageError: if the file is damaged.
    """
    try:
        content = json.loads(path.read_text())
        outcomes = [Outcome(**entry) for entry in content["episodes"]]
        return Judged(content["step"], outcomes, [], content["lost_workers"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged ({error!r}): delete it and evaluate again") from error


class _Player:
    """A worker's job: plays groups of episodes."""

    def __init__(self, trial: Trial, run: Path, step: int, film: bool) -> None:
        import torch

        torch.set_num_threads(1)
        self._trial = trial
        self._film = film
        self._envs = [make(trial.task, trial.env) for _ in range(min(GROUP, trial.episodes))]
        self._agent = load(run, step)

    def __call__(self, numbers: tuple[int, ...]) -> list[tuple[Outcome, Film | None]]:
        envs = self._envs[: len(numbers)]
        seeds = [derive(self._trial.seed, "evaluation", number) for number in numbers]
        observations = [env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)]
        self._agent.reset()
        filmed = [number for number in numbers if self._film and number < FILMED]
        rewards: list[list[float]] = [[] for _ in envs]
        infos: list[list[dict[str, Any]]] = [[] for _ in envs]
        films: list[list[Film]] = [[] for _ in filmed]
        playing = set(range(len(envs)))
        while playing:
            actions = self._agent.act({name: np.stack([o[name] for o in observations]) for name in observations[0]})
            for k in sorted(playing):
                observations[k], reward, terminated, truncated, info = envs[k].step(actions[k])
                rewards[k].append(float(reward))
                infos[k].append(info)
                if terminated or truncated:
                    playing.remove(k)
                if k < len(films) and (len(rewards[k]) % FILM_EVERY == 1 or terminated):
                    films[k].append(envs[k].render())
        outcomes = [_outcome(number, seeds[k], infos[k], rewards[k]) for k, number in enumerate(numbers)]
        frames = [np.stack(films[k]) if k < len(films) else None for k in range(len(numbers))]
        return list(zip(outcomes, frames, strict=True))

    def close(self) -> None:
        for env in self._envs:
            env.close()


def _mean(name: str, values: list[float], unit: str) -> Metric:
    """The mean over the episodes with its interval."""
    found = statistics.metric(name, [np.array([values], np.float64)])
    return dataclasses.replace(found, unit=unit, count=len(values))


def _outcome(number: int, seed: int, infos: list[dict[str, Any]], rewards: list[float]) -> Outcome:
    first = next((k for k, info in enumerate(infos, start=1) if info.get("success")), None)
    last, judged = infos[-1], "success" in infos[-1]
    return Outcome(
        episode=number,
        seed=seed,
        success=bool(last["success"]) if judged else None,
        success_any=first is not None if judged else None,
        first_success=first,
        score=float(last["score"]) if "score" in last else None,
        total_reward=float(np.sum(rewards)),
        steps=len(rewards),
    )
