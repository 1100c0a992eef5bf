"""What was measured of one ViT or two, as tables, as CSV and as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from robovision.bench.timing import markdown
from robovision.files import write_atomically, write_csv
from robovision.symmetry.tokens import Inspection

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES = ("-", "--")
"""The line of the first ViT and of the second."""


def tables(inspections: Mapping[str, Inspection], depths: list[str], patch: int) -> str:
    """Two tables in Markdown by depth: the errors under motion, and the amplitude at the highest frequency.

    A cell holds the numbers of the ViTs, in the order of `inspections`, with a slash between.
    """
    first = next(iter(inspections.values()))
    heads = ["depth", *(f"{shift:g} px" for shift in first.translation), *(f"{turn:g}°" for turn in first.rotation)]
    rows = []
    for number, depth in enumerate(depths):
        measured = [[*i.translation.values(), *i.rotation.values()] for i in inspections.values()]
        cells = [" / ".join(f"{errors[number]:.2f}" for errors in column) for column in zip(*measured, strict=True)]
        amplitudes = " / ".join(f"{i.amplitude[number, -1]:.2f}" for i in inspections.values())
        rows.append([depth, *cells, amplitudes])
    return (
        f"{' / '.join(inspections)}, patches of {patch} px\n"
        "error under shifts and turns (0: equivariant, 1.41: unrelated), and the log amplitude at the highest\n"
        "frequency relative to frequency 0 (lower: smoother)\n\n" + markdown([*heads, "amplitude"], rows)
    )


def write(path: Path, inspections: Mapping[str, Inspection], depths: list[str]) -> None:
    """Write every number as CSV: encoder, measure, amount (pixels, degrees, or radians a token), depth, value."""
    names = ["encoder", "measure", "amount", "depth", "value"]
    rows = [dict(zip(names, (name, *row), strict=True)) for name, i in inspections.items() for row in _rows(i, depths)]
    write_csv(path, names, rows)


def draw(path: Path, title: str, image: Tensor, inspections: Mapping[str, Inspection], patch: int) -> None:
    """Write a PNG: errors under shifts and turns by depth, amplitudes, and the rollout over the image [3, S, S]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 11), layout="constrained", dpi=110)
    figure.suptitle(title)
    axes = figure.subplots(3, 3)
    within = {name: {s: e for s, e in i.translation.items() if s < patch} for name, i in inspections.items()}
    whole = {name: {s: e for s, e in i.translation.items() if s >= patch} for name, i in inspections.items()}
    turns = {name: i.rotation for name, i in inspections.items()}
    _errors(axes[0, 0], "shifts within a patch", within, "px")
    _errors(axes[0, 1], "shifts by whole patches", whole, "px")
    _errors(axes[0, 2], "turns", turns, "°")
    _highest(axes[1, 0], inspections)
    _rollouts(axes[2], image, inspections)
    for panel, (name, inspection) in zip(axes[1, 1:], inspections.items(), strict=False):
        _spectrum(figure, panel, name, inspection.amplitude)
    for panel in (*axes[1, 1 + len(inspections) :], *axes[2, 1 + len(inspections) :]):
        panel.axis("off")
    with write_atomically(path) as file:
        figure.savefig(file, format="png")


def _rows(inspection: Inspection, depths: list[str]) -> Iterator[tuple[str, float, str, float]]:
    for measure, by_amount in (("translation", inspection.translation), ("rotation", inspection.rotation)):
        for amount, errors in by_amount.items():
            yield from ((measure, amount, depth, value) for depth, value in zip(depths, errors, strict=True))
    for depth, values in zip(depths, inspection.amplitude.tolist(), strict=True):
        for number, value in enumerate(values):
            yield "relative log amplitude", math.pi * number / (len(values) - 1), depth, value


def _errors(axes: Axes, title: str, errors: Mapping[str, Mapping[float, list[float]]], unit: str) -> None:
    for line, (name, by_amount) in zip(LINES, errors.items(), strict=False):
        for number, (amount, values) in enumerate(by_amount.items()):
            label = f"{amount:g} {unit}" if unit == "px" else f"{amount:g}{unit}"
            axes.plot(values, line, color=f"C{number}", marker=".", label=f"{label}, {name}")
    axes.axhline(math.sqrt(2), color="0.6", linewidth=0.8)
    axes.text(0, math.sqrt(2) - 0.07, "unrelated", color="0.4", fontsize=8)
    axes.set(title=title, xlabel="block", ylabel="equivariance error", ylim=(0, 1.5))
    _by_depth(axes, len(next(iter(next(iter(errors.values())).values()))))
    axes.legend(fontsize=7, ncols=len(errors), framealpha=0.8)


def _highest(axes: Axes, inspections: Mapping[str, Inspection]) -> None:
    for line, (name, inspection) in zip(LINES, inspections.items(), strict=False):
        axes.plot(inspection.amplitude[:, -1].tolist(), line, color="black", marker=".", label=name)
        _by_depth(axes, len(inspection.amplitude))
    axes.set(
        title="Fourier amplitude at the highest frequency",
        xlabel="block",
        ylabel="log amplitude, less that of frequency 0",
    )
    axes.legend(fontsize=8)


def _spectrum(figure: Figure, axes: Axes, name: str, amplitude: Tensor) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    frequencies = torch.linspace(0, 1, amplitude.shape[1]).tolist()
    for number, values in enumerate(amplitude[1:].tolist()):
        axes.plot(frequencies, values, color=colormaps["viridis"](number / max(1, len(amplitude) - 2)))
    axes.set(title=f"Fourier amplitude, {name}", xlabel="frequency, π a token", ylabel="relative log amplitude")
    axes.grid(alpha=0.3)
    figure.colorbar(ScalarMappable(Normalize(0, len(amplitude) - 2), "viridis"), ax=axes, label="block")


def _rollouts(row: Any, image: Tensor, inspections: Mapping[str, Inspection]) -> None:
    shown = image.permute(1, 2, 0).numpy()
    row[0].imshow(shown)
    row[0].set_title("image")
    shares = {name: i.rollout * i.rollout.numel() for name, i in inspections.items()}
    low, high = (float(bound) for bound in torch.stack(list(shares.values())).aminmax())
    for panel, (name, share) in zip(row[1:], shares.items(), strict=False):
        smooth = functional.interpolate(share[None, None], image.shape[1:], mode="bilinear")[0, 0]
        panel.imshow(shown)
        heat = panel.imshow(smooth.numpy(), cmap="inferno", alpha=0.65, vmin=low, vmax=high)
        panel.figure.colorbar(heat, ax=panel, label="attention, 1: even")
        panel.set_title(f"attention rollout, {name}")
    for panel in row:
        panel.set_xticks([])
        panel.set_yticks([])


def _by_depth(axes: Axes, count: int) -> None:
    """Depths below: the projected patches, what block 1 gets, and the blocks by their numbers."""
    places = [0, 1, *range(2, count, max(1, (count - 2) // 12))]
    axes.set_xticks(places, ["patches", "input", *(str(place - 1) for place in places[2:])])
    for label in axes.get_xticklabels()[:2]:
        label.set(rotation=40, ha="right", rotation_mode="anchor")
    axes.grid(alpha=0.3)
