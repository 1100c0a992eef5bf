"""Means over tasks and seeds with the intervals that they deserve.

Scores are nested: a list of tasks, each an array [seeds, episodes]. Intervals come from a stratified bootstrap (Agarwal
et al., NeurIPS 2021): within each task seeds are drawn with replacement, and within each seed its episodes. With few
seeds the episodes are most of what is drawn, and the interval is too narrow by what other seeds would add.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from robovision.types import Metric

RESAMPLES = 2000
CUT = 0.25
CONFIDENCE = 0.95

Array = NDArray[np.float64]
Statistic = Callable[[Sequence[Array]], Array]


def mean(runs: Sequence[Array]) -> Array:
    """The mean over the tasks of the mean over their seeds; runs are a list of tasks, each [..., seeds]."""
    average: Array = np.mean([task.mean(-1) for task in runs], axis=0)
    return average


def interquartile_mean(runs: Sequence[Array]) -> Array:
    """The mean of the middle half of all runs, whatever their task, as Agarwal et al. define it.

    >>> float(interquartile_mean([np.array([0.0, 0.5]), np.array([0.7, 9.0])]))
    0.6
    """
    ordered = np.sort(np.concatenate(runs, axis=-1), axis=-1)
    cut = int(CUT * ordered.shape[-1])
    middle: Array = ordered[..., cut : ordered.shape[-1] - cut].mean(-1)
    return middle


def metric(name: str, scores: Sequence[Array], statistic: Statistic = mean, resamples: int = RESAMPLES) -> Metric:
    """A statistic of all runs with its 95 % percentile interval; `count` is the number of runs.

    A single episode of each task has no interval. Where all episodes of a task score alike, the draws know of no other
    score, and the interval is narrower than it should be: without width if that is so of all tasks.

    Args:
        name: of the metric.
        scores: by task, [seeds, episodes].
        statistic: of what the runs score on average, by task [..., seeds].
        resamples: how often seeds and episodes are drawn; always the same draws.

    Raises:
        ValueError: without any scores, or for an array of another shape.
    """
    if not scores or any(task.ndim != 2 or not task.size for task in scores):
        raise ValueError(f"{name}: scores must be [seeds, episodes], got {[task.shape for task in scores]}")
    value = float(statistic([task.mean(1) for task in scores]))
    count = sum(len(task) for task in scores)
    if all(task.size == 1 for task in scores):
        return Metric(name, value, "1", count=count)
    random = np.random.default_rng(0)
    drawn = statistic([_resample(task, resamples, random) for task in scores])
    tail = 50 * (1 - CONFIDENCE)
    low, high = (float(end) for end in np.percentile(drawn, [tail, 100 - tail]))
    return Metric(name, value, "1", min(low, value), max(high, value), CONFIDENCE, count)


def _resample(task: Array, resamples: int, random: np.random.Generator) -> Array:
    """What each of the drawn seeds scores on average over its drawn episodes, [resamples, seeds]."""
    seeds, episodes = task.shape
    chosen = random.integers(seeds, size=(resamples, seeds, 1))
    played = random.integers(episodes, size=(resamples, seeds, episodes))
    average: Array = task[chosen, played].mean(-1)
    return average
