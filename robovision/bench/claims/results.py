"""What came of trying a published claim at small scale: a table, a picture, and whether it holds here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from robovision.bench.timing import markdown
from robovision.files import write_atomically

Judged = TypeVar("Judged")


@dataclass(frozen=True)
class Curve:
    """One line of the picture, with the deviation of each point if there is one."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    deviation: Sequence[float] | None = None


@dataclass(frozen=True)
class Result:
    """What was measured.

    Convention:
        heads, rows: the table.
        curves, axes: the picture, and what its axes show.
        verdicts: each target and whether it was reached.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    curves: Sequence[Curve]
    axes: tuple[str, str]
    verdicts: Mapping[str, bool]
    logarithmic: bool = False

    def text(self) -> str:
        """The table in Markdown, and the verdicts."""
        lines = [f"- {'reached' if held else 'NOT reached'}: {target}" for target, held in self.verdicts.items()]
        return f"{self.title}\n\n{markdown(self.heads, self.rows)}\n\n" + "\n".join(lines)


def over_seeds(
    judge: Callable[[str, int], Judged], kinds: Sequence[str], seeds: int, progress: Callable[[], object]
) -> dict[str, list[Judged]]:
    """What is measured of each kind with seeds 0, 1, ...; `progress` is called after each."""
    found: dict[str, list[Judged]] = {kind: [] for kind in kinds}
    for kind in kinds:
        for seed in range(seeds):
            found[kind].append(judge(kind, seed))
            progress()
    return found


def draw(path: Path, result: Result) -> None:
    """Write the picture as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained", dpi=90)
    axes = figure.subplots()
    for curve in result.curves:
        axes.errorbar(curve.x, curve.y, curve.deviation, marker="o", capsize=3, label=curve.name)
    if result.logarithmic:
        axes.set_yscale("log")
    axes.set(title=result.title, xlabel=result.axes[0], ylabel=result.axes[1])
    axes.grid(alpha=0.3)
    axes.legend()
    with write_atomically(path) as file:
        figure.savefig(file, format="png")
