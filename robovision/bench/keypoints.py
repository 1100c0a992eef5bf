"""Keypoints side by side on photographs that none of ours was trained on: rotation, perspective, light, pose, time."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from robovision.bench.timing import compare, markdown
from robovision.errors import UsageError
from robovision.keypoints import load, posed, report, selfwarp
from robovision.keypoints.opencv import import_cv2
from robovision.keypoints.pixels import read_grey
from robovision.keypoints.sources import find
from robovision.types import Array

HELD_OUT = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
"""Photographs that scikit-image carries and S-TREK was not trained on."""
CHANGES: tuple[selfwarp.Change, ...] = ("rotation", "perspective", "light")
TIMED = (640, 480)
"""Width and height of the image that is timed."""
MATCHED = 2048
"""Keypoints of a photograph whose pose is estimated, at most."""


def held_out() -> list[Path]:
    """The files of scikit-image's photographs.

    Raises:
        UsageError: if it is not installed.
    """
    package = importlib.util.find_spec("skimage")
    if package is None or not package.submodule_search_locations:
        raise UsageError("the photographs come with scikit-image: pip install scikit-image")
    folder = Path(package.submodule_search_locations[0]) / "data"
    return [folder / name for name in HELD_OUT]


def photographs(data: Path | None) -> dict[str, list[Path]]:
    """The photographs to measure on, by what they are called.

    Raises:
        UsageError: if there are none.
    """
    named = {"scikit-image": held_out()}
    if data is not None:
        named[data.name] = [source.path for source in find([str(data)]) if not source.is_video]
    return named


def count(named: dict[str, list[Path]], options: selfwarp.WarpOptions) -> int:
    """How often `table` calls its `progress`."""
    return sum(len(paths) * options.count(change) for paths in named.values() for change in CHANGES)


def table(
    names: Sequence[str],
    named: dict[str, list[Path]],
    options: selfwarp.WarpOptions,
    rounds: int,
    progress: Callable[[], object],
) -> Iterator[str]:
    """The tables, each as soon as it is measured."""
    for title, paths in named.items():
        for change in CHANGES:
            extractors = selfwarp.load_all(names, options)
            scores = selfwarp.measure(extractors, (read_grey(path) for path in paths), change, options, progress)
            head = f"{change}: {len(paths)} photographs of {title}, {options.count(change)} versions of each"
            if change == "rotation":
                yield f"{head}\n\n{report.rotation_table(report.rotation_curves(scores))}"
            else:
                flat = {name: [score for row in rows for score in row] for name, rows in scores.items()}
                yield f"{head}\n\n{report.planar_table(flat)}"
    yield times(names, options.keypoints, read_grey(held_out()[0]), rounds)


def poses(names: Sequence[str], data: Path) -> Iterator[str]:
    """A table for each folder under `data` that holds photographs with their cameras."""
    for folder in sorted({path.parent for path in data.rglob("pose") if path.is_dir()}):
        found = posed.photographs(folder)
        errors = posed.measure({name: load(name, MATCHED) for name in names}, found)
        yield f"relative pose: {len(found)} photographs of {folder.name}\n\n{report.pose_table(errors)}"


def times(names: Sequence[str], keypoints: int, photograph: Array, rounds: int) -> str:
    """Milliseconds of each extractor for one image, on the threads that torch and OpenCV have."""
    image = import_cv2().resize(photograph, TIMED, interpolation=import_cv2().INTER_AREA).clip(0, 1)
    extractors = {name: load(name, keypoints) for name in names}
    speeds = compare({name: lambda e=e: e.extract(image) for name, e in extractors.items()}, rounds)  # type: ignore[misc]
    rows = [
        [name, str(len(extractors[name].extract(image))), f"{1000 * speed.seconds:.0f}", f"{speed.ratio:.2f}x"]
        for name, speed in speeds.items()
    ]
    threads = f"{torch.get_num_threads()} threads, {platform.machine()}"
    head = f"time: {TIMED[0]} x {TIMED[1]}, {threads}, median of {rounds}; ratio to the first"
    return f"{head}\n\n" + markdown(["", "keypoints", "ms", "ratio"], rows)
