"""Fair times: the ways that are compared take turns in one process, so that a busy machine slows them alike."""

from __future__ import annotations

import contextlib
import ctypes
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


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


def compare(
    ways: Mapping[str, Callable[[], object]],
    rounds: int = 9,
    calls: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    least: float = 0.0,
) -> dict[str, Speed]:
    """The speed of each way of doing the same, by name; the first is what the others are compared to.

    Args:
        ways: what to call, after one call each to warm up.
        rounds: how often each takes its turn.
        calls: calls in one turn.
        clock: `time.process_time` tells how long one core works, whoever else uses it meanwhile.
        least: seconds that a turn lasts about; a way that is quicker is called more often.
    """
    for way in ways.values():
        way()
    many = [calls if least == 0 else _calls(way, calls, clock, least) for way in ways.values()]
    turns = list(zip(ways.values(), many, strict=True))
    times = [[_seconds(way, count, clock) / count for way, count in turns] for _ in range(rounds)]
    return {
        name: Speed(statistics.median(row[k] for row in times), statistics.median(row[0] / row[k] for row in times))
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


def peak_megabytes(call: Callable[[], object]) -> float | None:
    """The most memory that a call takes, beside what the process holds before; None where that can't be told."""
    if sys.platform != "linux":
        return None
    with contextlib.suppress(AttributeError):  # a C library that keeps nothing back has no such function
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _kilobytes("VmRSS")
    call()
    return (_kilobytes("VmHWM") - before) * 1.024e-3


def _kilobytes(entry: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{entry}:"))


def _calls(way: Callable[[], object], calls: int, clock: Callable[[], float], least: float) -> int:
    """So many that a turn lasts about `least` seconds."""
    return max(calls, math.ceil(least * calls / _seconds(way, calls, clock)))


def _seconds(way: Callable[[], object], calls: int, clock: Callable[[], float]) -> float:
    began = clock()
    for _ in range(calls):
        way()
    return clock() - began
