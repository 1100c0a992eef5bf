"""What was measured of any module, as tables, as CSV and as a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robovision.bench.timing import markdown
from robovision.files import write_atomically, write_csv
from robovision.symmetry.groups import Group
from robovision.symmetry.probe import Layer, Probe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ACROSS = 3
"""Panels in a row."""


def tables(found: Probe) -> str:
    """One table in Markdown: a row a layer, a column a magnitude; 0: equivariant, 1.41: unrelated, -: no comparison."""
    heads = ["layer", "shape", "as"]
    heads += [f"{group.name} {amount(group, size)}" for group in found.groups for size in group.magnitudes]
    rows = []
    for layer in found.layers:
        cells = [found.errors[layer.name, group.name, size] for group in found.groups for size in group.magnitudes]
        shape = "x".join(str(side) for side in layer.shape)
        rows.append([layer.name, shape, layer.taken_for, *("-" if math.isnan(e) else f"{e:.2g}" for e in cells)])
    return markdown(heads, rows)


def amount(group: Group, size: float) -> str:
    """A magnitude with its unit.

    >>> from robovision.symmetry.groups import SO2
    >>> amount(SO2, 45.0)
    '45°'
    """
    space = "" if group.unit in ("°", "") else " "
    return f"{size:g}{space}{group.unit}" if group.unit else ""


def write(path: Path, found: Probe) -> None:
    """Write every number as CSV: layer, group, magnitude, unit, error."""
    names = ["layer", "group", "magnitude", "unit", "error"]
    units = {group.name: group.unit for group in found.groups}
    rows = [
        dict(zip(names, (layer, group, size, units[group], error), strict=True))
        for (layer, group, size), error in found.errors.items()
    ]
    write_csv(path, names, rows)


def draw(path: Path, title: str, found: Probe) -> None:
    """Write a PNG: a panel a group, the error against the magnitude, a line a layer."""
    from matplotlib.figure import Figure

    down = -(-len(found.groups) // ACROSS)
    figure = Figure(figsize=(13, 1.5 + 3.6 * down), layout="constrained", dpi=100)
    figure.suptitle(title)
    axes = figure.subplots(down, ACROSS, squeeze=False).flatten()
    for panel, group in zip(axes, found.groups, strict=False):
        _panel(panel, group, found)
    for panel in axes[len(found.groups) :]:
        panel.axis("off")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=7)
    with write_atomically(path) as file:
        figure.savefig(file, format="png")


def _panel(axes: Axes, group: Group, found: Probe) -> None:
    places = range(len(group.magnitudes))
    for number, layer in enumerate(found.layers):
        errors = [found.errors[layer.name, group.name, size] for size in group.magnitudes]
        axes.plot(places, errors, marker=".", label=layer.name, **_line(number, layer, len(found.layers)))
    axes.axhline(math.sqrt(2), color="0.6", linewidth=0.8)
    axes.text(0, math.sqrt(2) + 0.02, "unrelated", color="0.4", fontsize=8)
    axes.set_xticks(places, [amount(group, size) for size in group.magnitudes])
    axes.set(title=group.name, ylabel="equivariance error", ylim=(0, 1.7))
    axes.grid(alpha=0.3)


def _line(number: int, layer: Layer, count: int) -> dict[str, Any]:
    """Layers from dark to light by depth; what the model returns in black."""
    from matplotlib import colormaps

    if layer.returned:
        return {"color": "black", "linewidth": 2, "linestyle": ("-", "--", ":")[(count - 1 - number) % 3]}
    return {"color": colormaps["viridis"](number / max(1, count - 1)), "linewidth": 1}
