"""Fair times: the ways that are compared take turns in one process, so that a busy machine slows them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Speed:
    """How long one call takes: the median over the rounds."""

    seconds: float
    ratio: float
    """Median over the rounds of the first way's time by this one's: over 1 is faster than the first."""

    def rate(self, items: float = 1.0) -> str:
        """Items a second and the ratio, as a cell of a table.

        >>> Speed(0.5, 3.0).rate(8)
        '16 (3.0x)'
        """
        per_second = items / self.seconds
        return f"{per_second:,.0f} ({self.ratio:.1f}x)" if per_second >= 10 else f"{per_second:.2g} ({self.ratio:.1f}x)"


def compare(ways: Mapping[str, Callable[[], object]], rounds: int = 9, calls: int = 1) -> dict[str, Speed]:
    """The speed of each way of doing the same, by name; the first is what the others are compared to.

    Args:
        ways: what to call, after one call each to warm up.
        rounds: how often each takes its turn.
        calls: calls in one turn.
    """
    for way in ways.values():
        way()
    times = [[_seconds(way, calls) for way in ways.values()] for _ in range(rounds)]
    return {
        name: Speed(
            statistics.median(row[k] for row in times) / calls, statistics.median(row[0] / row[k] for row in times)
        )
        for k, name in enumerate(ways)
    }


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown whose columns are aligned, to be read as it is too.

    >>> print(markdown(["a", "bc"], [["10", "2"]]))
    | a  | bc |
    |----|----|
    | 10 | 2  |
    """
    widths = [max(len(row[k]) for row in (heads, *rows)) for k in range(len(heads))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in (heads, *rows)
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _seconds(way: Callable[[], object], calls: int) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        way()
    return time.perf_counter() - began
