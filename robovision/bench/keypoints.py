"""Keypoints side by side on photographs that none of ours was trained on: rotation, perspective, light,
pose, time, memory.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from robovision.bench.timing import compare, markdown, peak_megabytes
from robovision.devices import Device
from robovision.errors import UsageError
from robovision.files import write_atomically
from robovision.keypoints import Extractor, load, posed, report, selfwarp
from robovision.keypoints.extractors import extractor_device
from robovision.keypoints.opencv import import_cv2
from robovision.keypoints.pixels import read_grey
from robovision.keypoints.sources import find, readable
from robovision.types import Array

HELD_OUT = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
"""Photographs that scikit-image carries and S-TREK was not trained on."""
CHANGES: tuple[selfwarp.Change, ...] = ("rotation", "perspective", "light")
TIMED = (640, 480)
"""Width and height of the image that is timed."""
LARGE = 4000, 3000
"""Of the image whose memory is measured."""
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


def photographs(data: Path | None) -> tuple[dict[str, list[Path]], list[str]]:
    """The photographs to measure on, by what they are called, and a message for each that can't be read.

    Raises:
        UsageError: if there are none.
    """
    named, faults = {"scikit-image": held_out()}, list[str]()
    if data is not None:
        good, faults = readable([source.path for source in find([str(data)]) if not source.is_video])
        named |= {data.resolve().name: good} if good else {}
    return named, faults


def count(named: dict[str, list[Path]], options: selfwarp.WarpOptions) -> int:
    """How often `sections` calls its `progress`."""
    return sum(len(paths) * options.count(change) for paths in named.values() for change in CHANGES)


@dataclass(frozen=True)
class Section:
    """One part of the benchmark.

    Convention:
        name: for files, such as scikit-image-rotation.
        text: a headline and a table in Markdown.
        rows: for a CSV file, its head first; none where the table says all.
        curves: by extractor [V, 3], of the versions of the photographs.
        x: [V], degrees or the change's strength, with its label.
        faults: a message for each photograph that was left out.
    """

    name: str
    text: str
    rows: Sequence[Sequence[str]] = ()
    curves: Mapping[str, Array] = field(default_factory=dict)
    x: tuple[Array, str] = (np.zeros(0), "")
    faults: Sequence[str] = ()


def write(folder: Path, done: Sequence[Section]) -> None:
    """keypoints.md, all tables so far, and of the last part NAME.csv and NAME.png."""
    with write_atomically(folder / "keypoints.md") as file:
        file.write("\n".join(f"{part.text}\n" for part in done).encode())
    last = done[-1]
    if last.rows:
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows(last.rows)
        with write_atomically(folder / f"{last.name}.csv") as file:
            file.write(lines.getvalue().encode())
    if last.curves:
        report.plot(folder / f"{last.name}.png", last.curves, *last.x)


def sections(
    names: Sequence[str],
    named: dict[str, list[Path]],
    options: selfwarp.WarpOptions,
    rounds: int,
    progress: Callable[[], object],
    device: Device,
) -> Iterator[Section]:
    """The parts, each as soon as it is measured."""
    extractors = selfwarp.load_all(names, options, device)
    for title, paths in named.items():
        for change in CHANGES:
            yield _changed(extractors, title, paths, change, options, progress)
    photograph = read_grey(held_out()[0])
    yield Section("time", times(names, options.keypoints, photograph, rounds, device))
    yield Section("memory", memory(names, options.keypoints, photograph))


def _changed(
    extractors: Mapping[str, Extractor],
    title: str,
    paths: Sequence[Path],
    change: selfwarp.Change,
    options: selfwarp.WarpOptions,
    progress: Callable[[], object],
) -> Section:
    scores = selfwarp.measure(extractors, (read_grey(path) for path in paths), change, options, progress)
    count, curves = options.count(change), report.version_curves(scores)
    head = f"{change}: {len(paths)} photographs of {title}, {count} versions of each"
    rows = report.score_rows(scores, selfwarp.ESTIMATORS)
    if change == "rotation":
        x, table = (np.arange(count) * float(options.step), "rotation (degrees)"), report.rotation_table(curves)
    else:
        flat = {name: [score for row in photographs for score in row] for name, photographs in scores.items()}
        x, table = (
            (np.arange(1, count + 1) / count, f"strength ({change})"),
            report.planar_table(flat, selfwarp.ESTIMATORS),
        )
    return Section(f"{title}-{change}", f"{head}\n\n{table}", rows, curves, x)


def poses(names: Sequence[str], data: Path, device: Device) -> Iterator[Section]:
    """A part for each folder under `data` that holds photographs with their cameras."""
    for folder in sorted({path.parent for path in data.rglob("pose") if path.is_dir()}):
        try:
            found, faults = posed.photographs(folder)
        except UsageError as error:
            yield Section(f"{folder.name}-poses", f"relative pose: not measured in {folder.name}", faults=[str(error)])
            continue
        errors = posed.measure({name: load(name, MATCHED, device=device) for name in names}, found)
        head = f"relative pose: {len(found)} photographs of {folder.name}"
        yield Section(f"{folder.name}-poses", f"{head}\n\n{report.pose_table(errors)}", faults=faults)


def times(names: Sequence[str], keypoints: int, photograph: Array, rounds: int, device: Device) -> str:
    """Milliseconds of each extractor for one image, and images a second, one after the other."""
    image = import_cv2().resize(photograph, TIMED, interpolation=import_cv2().INTER_AREA).clip(0, 1)
    extractors = {name: load(name, keypoints, device=device) for name in names}
    speeds = compare({name: lambda e=e: e.extract(image) for name, e in extractors.items()}, rounds)  # type: ignore[misc]
    rows = [
        [
            name,
            str(len(extractors[name].extract(image))),
            f"{1000 * speed.seconds:.1f}",
            f"{1 / speed.seconds:.1f}",
            f"{speed.ratio:.2f}x",
        ]
        for name, speed in speeds.items()
    ]
    threads = (
        f"{torch.get_num_threads()} threads of torch, {import_cv2().getNumThreads()} of OpenCV, {platform.machine()}"
    )
    gpu = f", S-TREK on {torch.cuda.get_device_name()}" if extractor_device(device) == "cuda" else ""
    head = f"time: {TIMED[0]} x {TIMED[1]}, {threads}{gpu}, median of {rounds}; ratio to the first"
    return f"{head}\n\n" + markdown(["", "keypoints", "ms", "images a second", "ratio"], rows)


def memory(names: Sequence[str], keypoints: int, photograph: Array) -> str:
    """The most memory that each extractor takes for a large image on the processor, beside what was held before."""
    image = import_cv2().resize(photograph, LARGE, interpolation=import_cv2().INTER_CUBIC).clip(0, 1)
    rows = []
    for name in names:
        extractor = load(name, keypoints, device="cpu")
        peak = peak_megabytes(lambda e=extractor: e.extract(image))  # type: ignore[misc]
        rows.append([name, "not told here" if peak is None else f"{peak:,.0f}"])
    head = f"memory: {LARGE[0]} x {LARGE[1]} pixels, beside the image"
    return f"{head}\n\n" + markdown(["", "MB"], rows)
