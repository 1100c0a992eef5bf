"""How like real sweeps the simulated ones are, as a picture.

    python benchmarks/lidar_realism.py DATA

DATA holds `kitti/training` (KITTI's object frames, HDL-64E) and perhaps `av2` (an Argoverse 2 log, two stacked
VLP-32C). Writes benchmarks/lidar-realism.jpg and prints the numbers behind it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robovision.files import write_atomically
from robovision.lidar.birdseye import ground_height, kind_of
from robovision.lidar.boxes import points_in_boxes, to_tensor
from robovision.lidar.frames import Frame, find_clouds, read_frame
from robovision.lidar.simulate import simulate
from robovision.lidar.simulate_options import SimulateOptions
from robovision.types import Array

OUT = Path(__file__).with_name("lidar-realism.jpg")
OPTIONS = SimulateOptions(scenes=6, frames=1, seed=0)
AROUND = 2.5
"""Metres around the sensor that its own car fills."""


@dataclass(frozen=True, eq=False)
class Group:
    """Frames of one sensor, how they are drawn, and their points end to end."""

    name: str
    color: str
    frames: list[Frame]

    def points(self) -> tuple[Array, Array]:
        """All points [N, 3] but those of the sensor's own car, and their intensities [N]."""
        clouds = [frame.cloud for frame in self.frames]
        xyz = np.concatenate([cloud.xyz for cloud in clouds])
        intensity = np.concatenate([np.zeros(0) if c.intensity is None else c.intensity for c in clouds])
        far = np.linalg.norm(xyz, axis=1) > AROUND
        return xyz[far], intensity[far]

    def objects(self) -> dict[str, Array]:
        """By kind: distances and points of the objects with points, [K, 2]."""
        rows: dict[str, list[tuple[float, int]]] = {}
        for frame in self.frames:
            if frame.truth is None:
                continue
            points = torch.from_numpy(frame.cloud.xyz.copy()).double()
            counts = points_in_boxes(points, to_tensor(frame.truth)).sum(dim=1).tolist()
            distances = np.linalg.norm(frame.truth.centers, axis=1).tolist()
            for label, distance, count in zip(frame.truth.labels.tolist(), distances, counts, strict=True):
                if count:
                    rows.setdefault(kind_of(frame.truth.classes[label]), []).append((distance, count))
        return {kind: np.array(pairs) for kind, pairs in rows.items()}


def load(data: Path) -> list[Group]:
    """Real frames, and as many simulated streets."""
    with tempfile.TemporaryDirectory() as folder:
        simulate(OPTIONS, Path(folder), 1, lambda _: None)
        simulated = [read_frame(path) for path in sorted(Path(folder).glob("*/velodyne/*.bin"))]
    groups = [Group("KITTI, HDL-64E", "#1f6fb4", [read_frame(path) for path in find_clouds([data / "kitti/training"])])]
    sweeps = sorted((data / "av2/sensors/lidar").glob("*.feather"))
    if sweeps:
        groups.append(Group("Argoverse 2, 2 x VLP-32C", "#7fae3f", [read_frame(sweeps[0])]))
    return [*groups, Group("simulated, hdl-64e", "#d9480f", simulated)]


def elevation(xyz: Array, intensity: Array) -> Array:
    """Degrees above the horizon."""
    degrees: Array = np.degrees(np.arctan2(xyz[:, 2], np.linalg.norm(xyz[:, :2], axis=1)))
    return degrees


def distance(xyz: Array, intensity: Array) -> Array:
    """Metres."""
    metres: Array = np.linalg.norm(xyz, axis=1)
    return metres


def brightness(xyz: Array, intensity: Array) -> Array:
    """Intensity, 0..1."""
    return intensity


def histogram(axes: Axes, groups: list[Group], measure: Callable[[Array, Array], Array], bins: Array) -> None:
    """The share of points in each bin."""
    for group in groups:
        counts, _ = np.histogram(measure(*group.points()), bins)
        axes.stairs(counts / counts.sum() * 100, bins, color=group.color, label=group.name, linewidth=1.3)
    axes.set(ylabel="% of the points")


def objects(axes: Axes, groups: list[Group], kind: str) -> None:
    """Points on each object, by distance."""
    for group in groups:
        found = group.objects().get(kind)
        if found is not None:
            simulated = group is groups[-1]
            style = {"marker": ".", "alpha": 0.5} if simulated else {"marker": "x", "s": 40}
            axes.scatter(found[:, 0], found[:, 1], color=group.color, label=group.name, **style)  # type: ignore[arg-type]
    axes.set(yscale="log", ylabel="points", title=f"points on each {kind}")
    logarithmic(axes)


def logarithmic(axes: Axes) -> None:
    """An x axis of distances with round numbers."""
    axes.set(xscale="log", xlabel="distance, m")
    axes.set_xticks([5, 10, 20, 40, 80, 160], ["5", "10", "20", "40", "80", "160"], minor=False)
    axes.set_xticks([], minor=True)


def intensity_by_distance(axes: Axes, groups: list[Group]) -> None:
    """Median intensity, and the band of the middle half, in bins of distance."""
    bins = np.geomspace(4, 80, 16)
    for group in groups:
        xyz, intensity = group.points()
        index = np.digitize(distance(xyz, intensity), bins)
        middle = np.sqrt(bins[1:] * bins[:-1])
        parts = [intensity[index == k] for k in range(1, len(bins))]
        quartiles = np.array([np.percentile(p, (25, 50, 75)) if len(p) > 50 else [np.nan] * 3 for p in parts])
        axes.plot(middle, quartiles[:, 1], color=group.color, label=group.name)
        axes.fill_between(middle, quartiles[:, 0], quartiles[:, 2], color=group.color, alpha=0.15, linewidth=0)
    axes.set(ylabel="intensity", title="intensity by distance: median, middle half")
    logarithmic(axes)


def draw(groups: list[Group]) -> Figure:
    """All comparisons."""
    figure = Figure(figsize=(13, 7.2), layout="constrained")
    panels = figure.subplots(2, 3)
    kitti = [group for group in groups if "64" in group.name.lower()]
    histogram(panels[0, 0], kitti, elevation, np.arange(-26, 4, 0.1))
    panels[0, 0].set(xlabel="degrees above the horizon", title="elevations of the beams (from the sensor's origin)")
    histogram(panels[0, 1], groups, distance, np.arange(0, 82, 2.0))
    panels[0, 1].set(xlabel="distance, m", title="ranges", yscale="log")
    histogram(panels[0, 2], groups, brightness, np.linspace(0, 1, 51))
    panels[0, 2].set(xlabel="intensity", title="intensities", yscale="log")
    objects(panels[1, 0], groups, "car")
    objects(panels[1, 1], groups, "person")
    intensity_by_distance(panels[1, 2], groups)
    panels[0, 1].legend(frameon=False)
    for panel in panels.flat:
        panel.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Compare, write the picture, print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    groups = load(parser.parse_args().data)
    with write_atomically(OUT) as file:
        draw(groups).savefig(file, format="jpg", dpi=100, pil_kwargs={"quality": 85})
    print("| frames | points a sweep | median range, m | beyond 40 m | median intensity | over 0.6 | 0 | ground, m |")
    print("|---|---|---|---|---|---|---|---|")
    for group in groups:
        xyz, intensity = group.points()
        far = distance(xyz, intensity)
        ground = np.mean([ground_height(frame.cloud) for frame in group.frames])
        count = np.mean([len(frame.cloud) for frame in group.frames])
        bright, dark = (intensity > 0.6).mean(), (intensity == 0).mean()
        print(
            f"| {group.name} ({len(group.frames)}) | {count:,.0f} | {np.median(far):.1f} | {(far > 40).mean():.1%} "
            f"| {np.median(intensity):.2f} | {bright:.1%} | {dark:.1%} | {ground:.2f} |"
        )


if __name__ == "__main__":
    main()
