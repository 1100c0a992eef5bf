"""Adaptation methods beside each other: trains the cells of `control_plan` and puts their results into tables.

The tables are in the form of Hwang et al. (ICML 2024, arXiv 2406.06072), whose numbers stand beside: the
best of the evaluated checkpoints, mean over tasks and seeds. What the last checkpoint gives is said too.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robovision.agents import data, statistics
from robovision.agents.config import TrainConfig
from robovision.agents.evaluate import read_record
from robovision.agents.report import episode_scores
from robovision.agents.sweep import sweep
from robovision.agents.train import resolve
from robovision.bench.control_chart import draw
from robovision.bench.control_plan import METHODS, TITLES, Cell, Choice
from robovision.bench.timing import markdown
from robovision.envs.task_table import experts
from robovision.files import write_atomically, write_csv
from robovision.run import Run
from robovision.types import Metric

FAMILIES = {"adroit": "Adroit", "metaworld": "MetaWorld", "dmc": "DMC"}
PUBLISHED = {
    "CLIP B/16, frozen": (38.7, 60.5, 37.4, 45.5),
    "CLIP B/16, fine-tuned": (47.3, 68.8, 62.8, 59.6),
    "CLIP B/16, fine-tuned + CoIn": (52.7, 88.8, 71.1, 70.9),
    "MVP B/16, frozen": (58.0, 89.6, 64.6, 70.7),
    "MVP B/16, fine-tuned": (82.0, 94.1, 77.4, 84.5),
    "MVP B/16, fine-tuned + CoIn": (83.3, 94.9, 80.5, 86.2),
    "VC-1 B/16, frozen": (50.0, 86.7, 61.0, 65.9),
    "VC-1 B/16, fine-tuned": (73.3, 93.9, 74.9, 80.7),
    "VC-1 B/16, fine-tuned + CoIn": (77.3, 95.7, 80.7, 84.6),
    "R3M RN50, fine-tuned": (78.7, 94.9, 81.8, 85.1),
}
"""Success in percent on Adroit, MetaWorld and DMC, and the mean over the tasks, as the paper reports them."""

PAIRS = (
    ("coin", "fine-tuned"),
    ("coin", "gate-shut"),
    ("fine-tuned", "frozen"),
    ("coin", "scratch"),
    ("frozen", "frozen-random"),
    ("coin", "cnn"),
    ("frozen", "cnn"),
)
"""What is subtracted from what: CoIn's effect and its control, fine-tuning's, and that of pretraining."""

Scores = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Processes:
    """Of one cell: how many simulate, and with how many threads it trains; 0: as many as there are cores."""

    workers: int
    threads: int


@dataclasses.dataclass(frozen=True)
class Result:
    """What the episodes of a finished cell scored, each in 0..1: at the last and at the best checkpoint; its cost."""

    final: Scores
    best: Scores
    epochs: int
    seconds: float
    """Of training, by the clock."""


def run(
    choice: Choice,
    out: Path,
    processes: Processes,
    ray: str | None,
    done: Callable[[Cell], object] = lambda cell: None,
) -> None:
    """Train every cell of a choice that is not finished; demonstrations are recorded once a task.

    Raises:
        UsageError: if the folder holds cells of other options, or a cell fails; what is finished stays.
    """
    jobs = {}
    cells = {out / cell.folder: cell for cell in choice.cells() if experts()[cell.task] != "none"}
    for task in dict.fromkeys(cell.task for cell in cells.values()):
        of_task = next(cell for cell in cells.values() if cell.task == task)
        first = dataclasses.replace(choice.config(of_task, None), seed=0, workers=processes.workers)
        data.record(resolve(first), demos_folder(out, task))
    for path, cell in cells.items():
        config = choice.config(cell, demos_folder(out, cell.task))
        jobs[path] = dataclasses.replace(config, workers=processes.workers, threads=processes.threads)
    sweep(jobs, ray, lambda path: done(cells[path]))


def demos_folder(out: Path, task: str) -> Path:
    """Where the demonstrations of a task lie, which all its cells share."""
    return out / "demos" / task.replace("/", "-")


def read(choice: Choice, out: Path) -> dict[Cell, Result]:
    """The results of the cells that are finished."""
    return {
        cell: _result(out / cell.folder) for cell in choice.cells() if (out / cell.folder / "results.json").exists()
    }


def _result(path: Path) -> Result:
    records = [read_record(file) for file in sorted((path / "evaluations").glob("step-*.json"))]
    scored = [episode_scores(record) for record in records]
    epochs = Run.open(path).config(TrainConfig).optimisation.epochs
    seconds = json.loads((path / "results.json").read_text())["metrics"]["training_time"]["value"]
    return Result(scored[-1], max(scored, key=lambda scores: float(scores.mean())), epochs, seconds)


def by_task(results: Mapping[Cell, Result], method: str, which: str) -> dict[str, Scores]:
    """What the cells of a method scored, by task, [seeds, episodes]; `which` is final or best."""
    tasks = dict.fromkeys(cell.task for cell in results if cell.method == method)
    return {
        task: np.stack([getattr(r, which) for c, r in results.items() if (c.task, c.method) == (task, method)])
        for task in tasks
    }


def difference(results: Mapping[Cell, Result], one: str, other: str, which: str) -> Metric | None:
    """By how much a method is better than another, over the tasks and seeds that both have; None without any.

    Both play the same goals, so that episodes are compared in pairs.
    """
    pairs: dict[str, list[Scores]] = {}
    for cell, result in results.items():
        partner = results.get(dataclasses.replace(cell, method=other))
        if cell.method == one and partner is not None:
            pairs.setdefault(cell.task, []).append(getattr(result, which) - getattr(partner, which))
    if not pairs:
        return None
    return statistics.metric(f"{one} minus {other}", [np.stack(seeds) for seeds in pairs.values()])


def tables(choice: Choice, results: Mapping[Cell, Result]) -> str:
    """Everything that the finished cells say, in Markdown."""
    methods = [m for m in METHODS if any(cell.method == m for cell in results)]
    tasks = list(dict.fromkeys(cell.task for cell in results))
    parts = [
        _paper_table(results, methods),
        _task_table(results, methods, tasks),
        _differences(results),
        _cost_table(results, methods),
        _missing(choice, results),
    ]
    return "\n\n".join(part for part in parts if part)


def _differences(results: Mapping[Cell, Result]) -> str:
    """By how much one method is better than another, where cells of both are finished."""
    lines = []
    for one, other in PAIRS:
        final, best = (difference(results, one, other, which) for which in ("final", "best"))
        if final is not None:
            lines.append(f"- {TITLES[one]} minus {TITLES[other]}, last checkpoint: {_signed(final)}")
        if best is not None and best != final:
            lines.append(f"- {TITLES[one]} minus {TITLES[other]}, best checkpoint: {_signed(best)}")
    head = "Differences, episode by episode, in points, mean over the tasks, with 95 % intervals:"
    return "\n".join([head, "", *lines]) if lines else ""


def _cost_table(results: Mapping[Cell, Result], methods: Sequence[str]) -> str:
    """What a cell of each method took."""
    rows = []
    for method in methods:
        cells = [result for cell, result in results.items() if cell.method == method]
        epochs = sorted({result.epochs for result in cells})
        seconds = np.median([result.seconds for result in cells])
        rows.append([TITLES[method], ", ".join(map(str, epochs)), f"{seconds:,.0f}"])
    return markdown(["method", "epochs", "seconds of training by the clock, median"], rows)


def _paper_table(results: Mapping[Cell, Result], methods: Sequence[str]) -> str:
    heads = ["method", *FAMILIES.values(), "mean", "interquartile mean", "mean, last checkpoint", "cells"]
    rows = [_paper_row(results, method) for method in methods]
    rows += [
        [f"published: {name}", *(f"{value:.1f}" for value in values), "", "", ""] for name, values in PUBLISHED.items()
    ]
    return markdown(heads, rows)


def _paper_row(results: Mapping[Cell, Result], method: str) -> list[str]:
    best, final = (by_task(results, method, which) for which in ("best", "final"))
    families = [[scores for task, scores in best.items() if task.startswith(f"{f}/")] for f in FAMILIES]
    whole = [*best.values()]
    return [
        TITLES[method],
        *(_percent(statistics.metric(method, scores)) if scores else "" for scores in families),
        _percent(statistics.metric(method, whole)),
        _percent(statistics.metric(method, whole, statistics.interquartile_mean)),
        _percent(statistics.metric(method, [*final.values()])),
        str(sum(len(scores) for scores in whole)),
    ]


def _task_table(results: Mapping[Cell, Result], methods: Sequence[str], tasks: Sequence[str]) -> str:
    """By task: last checkpoint, and in brackets the best one, mean over the seeds."""
    rows = []
    for task in tasks:
        row = [task]
        for method in methods:
            final, best = (by_task(results, method, which).get(task) for which in ("final", "best"))
            row.append("" if final is None or best is None else f"{100 * final.mean():.0f} ({100 * best.mean():.0f})")
        rows.append(row)
    return markdown(["last checkpoint (best)", *(TITLES[m] for m in methods)], rows)


def _missing(choice: Choice, results: Mapping[Cell, Result]) -> str:
    """Which cells of the choice are not there, by task and method."""
    absent: dict[tuple[str, str], list[int]] = {}
    for cell in choice.cells():
        if cell not in results:
            absent.setdefault((cell.task, cell.method), []).append(cell.seed)
    lines = [f"{task} {method} {','.join(map(str, seeds))}" for (task, method), seeds in absent.items()]
    return f"Missing cells (task, method, seeds): {'; '.join(lines)}." if lines else ""


def write(choice: Choice, out: Path) -> str:
    """The tables, which also go to `table.md` in the folder, every cell's numbers to `cells.csv`, `control.png`."""
    results = read(choice, out)
    names = ["task", "method", "seed", "final", "best", "episodes", "epochs", "training_seconds"]
    rows = [dict(zip(names, [*dataclasses.astuple(c), *_numbers(r)], strict=True)) for c, r in results.items()]
    write_csv(out / "cells.csv", names, rows)
    text = tables(choice, results) if results else "no cell is finished yet"
    if results:
        methods = [m for m in METHODS if any(cell.method == m for cell in results)]
        draw(out / "control.png", {TITLES[m]: by_task(results, m, "final") for m in methods})
    with write_atomically(out / "table.md") as file:
        file.write(f"{text}\n".encode())
    return text


def _numbers(result: Result) -> list[float]:
    final, best = float(result.final.mean()), float(result.best.mean())
    return [round(final, 6), round(best, 6), len(result.final), result.epochs, result.seconds]


def _percent(metric: Metric) -> str:
    """In percent, with its interval if it has one.

    >>> _percent(Metric("success", 0.5, "1", 0.25, 0.75, 0.95, 3))
    '50.0 (25.0 to 75.0)'
    """
    if metric.low is None or metric.high is None:
        return f"{100 * metric.value:.1f}"
    return f"{100 * metric.value:.1f} ({100 * metric.low:.1f} to {100 * metric.high:.1f})"


def _signed(metric: Metric) -> str:
    ends = ""
    if metric.low is not None and metric.high is not None:
        ends = f" ({100 * metric.low:+.1f} to {100 * metric.high:+.1f})"
    return f"{100 * metric.value:+.1f}{ends}, {metric.count} pair{'' if metric.count == 1 else 's'} of cells"
