"""Bird's-eye pictures of point clouds with boxes: x (forward) is up, y is to the left, as seen from above."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robovision.errors import UsageError
from robovision.files import write_atomically
from robovision.lidar.boxes import corners, to_tensor
from robovision.lidar.frames import Frame
from robovision.lidar.view_options import Colouring, ViewOptions
from robovision.types import Array, Boxes3D, PointCloud

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FAR = 75.0
"""Metres from the sensor beyond which nothing is shown unless it is asked for."""
MARGIN = 2.0
DEEP = 50.0
"""Metres below the middle of a cloud's heights where its ground is looked for."""
SPAN = 4.5
"""Metres above the ground at which the colours of height end."""
PANEL = 900
"""Pixels of the longer side of a picture with one panel; of several, each is smaller."""
SCALE = 140
"""Pixels of the scale of the points' colours."""
NARROW = 0.6
"""The least share of its length that a panel is wide, so that there is room for its words."""
SHEET = 2400
"""Pixels of the longer side of a sheet."""
DPI = 100.0

BACKGROUND, GRID, INK, FAINT = "#0b0f14", "#26313d", "#d7dee6", "#8795a3"
SHADES = ("#2b4a6f", "#2f7f92", "#5fb58c", "#c9dd7a", "#fdf6b2")
"""Colours of points, from the ground up or from dark to bright."""
KINDS = {
    "cyclist": ("#ff5c8a", ("cycl", "bike", "bicycle")),
    "person": ("#e08bff", ("ped", "person", "officer", "stroller", "wheelchair")),
    "large vehicle": ("#ffd23f", ("van", "truck", "bus", "trailer", "construction", "tram", "large", "vehicular")),
    "car": ("#ff8a2b", ("car", "vehicle")),
    "other": ("#b8c4d0", ("",)),
}
"""Colours of boxes, and the words in the names of classes that choose them, the first that fits."""


@dataclass(frozen=True)
class Window:
    """The rectangle of the ground that is shown, metres."""

    back: float
    front: float
    right: float
    left: float

    @property
    def shape(self) -> tuple[float, float]:
        """Length along x and width along y, metres."""
        return self.front - self.back, self.left - self.right


def write_picture(
    path: Path, frames: Sequence[Frame], options: ViewOptions | None = None, window: Window | None = None
) -> None:
    """Write one PNG of a frame, or a sheet of several; truth and detections of a frame stand side by side.

    The window is chosen so that everything within the range is shown, unless it is given.

    Raises:
        UsageError: if there is no frame, or the file can't be written.
    """
    from matplotlib.figure import Figure

    options = options or ViewOptions()
    if not frames:
        raise UsageError("there is no frame to show")
    window = window or choose_window(frames, options)
    panels = [panel for frame in frames for panel in panels_of(frame)]
    columns = _columns(len(frames), len(panels) // len(frames), window)
    rows = -(-len(panels) // columns)
    length, width = window.shape
    scale = min(PANEL / max(length, width), SHEET / (rows * length), SHEET / (columns * width))
    high, wide = round(length * scale), round(width * scale)
    left, gap, top, foot = 52, 64, 46, 40
    total = (left + columns * wide + (columns - 1) * gap + 18, rows * (high + top + 36) + foot)
    figure = Figure(figsize=(total[0] / DPI, total[1] / DPI), dpi=DPI, facecolor=BACKGROUND)
    for k, panel in enumerate(panels):
        row, column = divmod(k, columns)
        x, y = left + column * (wide + gap), total[1] - (row + 1) * (high + top) - row * 36
        axes = figure.add_axes((x / total[0], y / total[1], wide / total[0], high / total[1]))
        _draw_panel(axes, panel, window, (high, wide), options)
    _draw_legends(figure, panels, options, total, left)
    with write_atomically(path) as file:
        figure.savefig(file, format="png", dpi=DPI, facecolor=BACKGROUND)


@dataclass(frozen=True, eq=False)
class Panel:
    """One view of a frame: its points, its boxes, and boxes to compare them with, which are only outlined."""

    title: str
    cloud: PointCloud
    boxes: Boxes3D | None
    compared: Boxes3D | None = None


def panels_of(frame: Frame) -> list[Panel]:
    """One panel, or two side by side where there are detections and truth."""
    count = f"{frame.name}   {len(frame.cloud):,} points"
    if frame.detections is None:
        return [Panel(f"{count}{_counted(frame.truth)}", frame.cloud, frame.truth)]
    seen = Panel(f"{frame.name}   detections{_counted(frame.detections)}", frame.cloud, frame.detections, frame.truth)
    if frame.truth is None:
        return [seen]
    return [Panel(f"{frame.name}   truth{_counted(frame.truth)}", frame.cloud, frame.truth), seen]


def choose_window(frames: Sequence[Frame], options: ViewOptions) -> Window:
    """What to show of frames: all points and boxes within the range, without the emptiness around them."""
    most = options.range or FAR
    sensor = np.zeros((1, 2), np.float32)
    points = np.concatenate([sensor, *(frame.cloud.xyz[:, :2] for frame in frames)])
    boxes = [b.centers[:, :2] for frame in frames for b in (frame.truth, frame.detections) if b is not None]
    # A few stray returns must not make everything small, but every box counts.
    points = points[(np.abs(points) <= most).all(axis=1)]
    corner = np.concatenate([sensor, np.percentile(points, (0.2, 99.8), axis=0), *boxes])
    low = np.maximum(corner.min(axis=0) - MARGIN, -most)
    high = np.minimum(corner.max(axis=0) + MARGIN, most)
    middle, half = (low + high) / 2, np.maximum((high - low) / 2, 5.0)
    half[1] = max(half[1], NARROW * half[0])
    return Window(middle[0] - half[0], middle[0] + half[0], middle[1] - half[1], middle[1] + half[1])


def ground_height(cloud: PointCloud) -> float:
    """The height, metres, at which most points lie in the lower half of a cloud: that of the ground."""
    z = cloud.xyz[:, 2]
    if not len(z):
        return 0.0
    middle = np.median(z)
    low = z[(z <= middle) & (z >= middle - DEEP)]
    if not len(low):  # of heights so large that single metres are lost
        return float(middle)
    counts, edges = np.histogram(low, np.arange(low.min(), low.max() + 0.2, 0.1))
    return float(edges[counts.argmax()] + 0.05)


def rasterise(cloud: PointCloud, values: Array, window: Window, shape: tuple[int, int]) -> Array:
    """The largest value of the points in each pixel, float32 [H, W]; NaN where there are none, first row in front.

    A point covers its pixel and the three to the right and below, so that lonely ones can be seen.
    """
    high, wide = shape
    length, width = window.shape
    row = np.floor(np.clip((window.front - cloud.xyz[:, 0]) / length, -1, 2) * high).astype(np.int64)
    column = np.floor(np.clip((window.left - cloud.xyz[:, 1]) / width, -1, 2) * wide).astype(np.int64)
    inside = (row >= 0) & (row < high) & (column >= 0) & (column < wide)
    order = np.flatnonzero(inside)[np.argsort(values[inside], kind="stable")]
    image = np.full((high + 1, wide + 1), -np.inf, np.float32)
    image[row[order], column[order]] = values[order]  # of points in one pixel the last, which is the largest, stays
    spread = np.maximum(image[:-1], np.vstack([np.full((1, wide + 1), -np.inf, np.float32), image[:-2]]))
    spread = np.maximum(spread[:, :-1], np.hstack([np.full((high, 1), -np.inf, np.float32), spread[:, :-2]]))
    return np.where(np.isfinite(spread), spread, np.nan)


def colors_of(cloud: PointCloud, color: Colouring) -> Array:
    """RGB of the points, uint8 [N, 3].

    Raises:
        UsageError: for intensity, if the cloud has none.
    """
    rgb: Array = (_shades()(_values(cloud, color))[:, :3] * 255).astype(np.uint8)
    return rgb


def kind_of(name: str) -> str:
    """The kind of road user that a class is of.

    >>> kind_of("Cyclist"), kind_of("REGULAR_VEHICLE"), kind_of("Truck"), kind_of("barrier")
    ('cyclist', 'car', 'large vehicle', 'other')
    """
    return next(kind for kind, (_, words) in KINDS.items() if any(word in name.lower() for word in words))


def _columns(frames: int, side_by_side: int, window: Window) -> int:
    """Panels next to each other that make a sheet about 1.4 times as wide as high, with few empty places."""
    length, width = window.shape

    def fault(columns: int) -> float:
        rows = -(-frames // columns)
        aspect = columns * side_by_side * width / (rows * length)
        return abs(math.log(aspect / 1.4)) + (rows * columns - frames) / frames

    return side_by_side * min(range(1, frames + 1), key=fault)


def _counted(boxes: Boxes3D | None) -> str:
    if boxes is None:
        return ""
    return f"   {len(boxes)} box{'' if len(boxes) == 1 else 'es'}"


def _values(cloud: PointCloud, color: Colouring) -> Array:
    if color == "intensity":
        if cloud.intensity is None:
            raise UsageError("this point cloud has no intensity; colour it by height")
        return np.sqrt(cloud.intensity)
    return np.clip((cloud.xyz[:, 2] - ground_height(cloud)) / SPAN, 0, 1)


def _draw_panel(axes: Axes, panel: Panel, window: Window, shape: tuple[int, int], options: ViewOptions) -> None:
    axes.set_facecolor(BACKGROUND)
    _draw_grid(axes, window)
    image = rasterise(panel.cloud, _values(panel.cloud, options.color), window, shape)
    extent = (window.left, window.right, window.back, window.front)
    axes.imshow(image, cmap=_shades(), vmin=0, vmax=1, extent=extent, interpolation="nearest", zorder=2)
    axes.set_aspect("auto")
    if panel.compared is not None:
        _draw_boxes(axes, panel.compared, outline="#ffffff")
    if panel.boxes is not None:
        _draw_boxes(axes, panel.boxes)
    axes.plot([0.0], [0.0], marker=(3, 0, 0), color=INK, markersize=9, zorder=6)
    axes.set_xlim(window.left, window.right)
    axes.set_ylim(window.back, window.front)
    axes.set_title(panel.title, color=INK, fontsize=10, loc="left", pad=8)
    axes.tick_params(colors=FAINT, labelsize=8, length=0)
    for side in axes.spines.values():
        side.set_color(GRID)


def _draw_grid(axes: Axes, window: Window) -> None:
    """Lines and circles at round distances, with numbers along the edges in metres."""
    from matplotlib.patches import Circle

    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 1000) if max(window.shape) / s <= 12)
    for low, high, set_ticks in (
        (window.right, window.left, axes.set_xticks),
        (window.back, window.front, axes.set_yticks),
    ):
        ticks = np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step
        set_ticks(ticks, [f"{t:g} m" for t in ticks])
    axes.grid(color=GRID, linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)
    for radius in np.arange(1, math.hypot(*window.shape) / (2 * step) + 1) * 2 * step:
        axes.add_patch(Circle((0, 0), radius, fill=False, color=GRID, linewidth=0.8, zorder=1))


def _draw_boxes(axes: Axes, boxes: Boxes3D, outline: str = "") -> None:
    """Ground rectangles in the colours of their kinds, with a line from the middle to beyond the front."""
    from matplotlib.collections import LineCollection, PolyCollection
    from matplotlib.colors import to_rgba

    if not len(boxes):
        return
    ground = corners(to_tensor(boxes))[:, :4, :2].numpy()[..., ::-1]
    if outline:
        dashed = PolyCollection(list(ground), facecolors="none", edgecolors=outline, linewidths=1.0, zorder=4)
        dashed.set_linestyle((0, (3, 2)))
        axes.add_collection(dashed)
        return
    rgba = np.array([to_rgba(KINDS[kind_of(boxes.classes[label])][0]) for label in boxes.labels.tolist()])
    fill = rgba * [1, 1, 1, 0.16]
    axes.add_collection(PolyCollection(list(ground), facecolors=fill, edgecolors=rgba, linewidths=1.4, zorder=5))
    ahead = np.stack([np.sin(boxes.yaw), np.cos(boxes.yaw)], axis=1)
    middle = boxes.centers[:, 1::-1]
    tip = middle + ahead * (boxes.sizes[:, :1] / 2 + np.clip(boxes.sizes[:, :1] * 0.2, 0.4, 1.0))
    axes.add_collection(LineCollection(list(np.stack([middle, tip], axis=1)), colors=rgba, linewidths=1.4, zorder=5))


def _draw_legends(
    figure: Any, panels: Sequence[Panel], options: ViewOptions, total: tuple[int, int], left: int
) -> None:
    """Below everything: a scale of the points' colours, and the kinds of boxes with how many there are."""
    from matplotlib.lines import Line2D

    axes = figure.add_axes((left / total[0], 30 / total[1], SCALE / total[0], 8 / total[1]))
    axes.imshow(np.linspace(0, 1, 256)[None], cmap=_shades(), aspect="auto", extent=(0, 1, 0, 1))
    axes.set_yticks([])
    ends = ["ground", f"{SPAN:g} m above"] if options.color == "height" else ["dark", "bright"]
    axes.set_xticks([0, 1], ends)
    axes.tick_params(colors=FAINT, labelsize=8, length=0)
    for text, side in zip(axes.get_xticklabels(), ("left", "right"), strict=True):
        text.set_horizontalalignment(side)
    for spine in axes.spines.values():
        spine.set_visible(False)
    shown = [boxes for panel in panels for boxes in (panel.boxes, panel.compared) if boxes is not None]
    kinds = {kind_of(boxes.classes[label]) for boxes in shown for label in np.unique(boxes.labels).tolist()}
    marks = [Line2D([], [], color=KINDS[kind][0], linewidth=2.5, label=kind) for kind in KINDS if kind in kinds]
    if any(panel.compared is not None for panel in panels):
        marks.append(Line2D([], [], color="#ffffff", linewidth=1, linestyle=(0, (3, 2)), label="truth"))
    if marks:
        place = ((left + SCALE + 20) / total[0], 18 / total[1])
        legend = figure.legend(
            handles=marks, loc="lower left", bbox_to_anchor=place, ncols=len(marks), frameon=False,
            fontsize=9, borderaxespad=0, handlelength=1.2, columnspacing=1.2,
        )  # fmt: skip
        for text in legend.get_texts():
            text.set_color(INK)


def _shades() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("robovision", SHADES).with_extremes(bad=(0, 0, 0, 0))
