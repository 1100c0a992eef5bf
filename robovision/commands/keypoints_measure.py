"""Keypoints measured: under rotation, on HPatches, by relative pose."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from robovision.commands import Command, list_faults
from robovision.devices import Device
from robovision.errors import UsageError

if TYPE_CHECKING:
    from robovision.keypoints.extractors import Extractor

EVALUATE = """Measure keypoints side by side: under rotation on any images, on HPatches, or by relative pose.

protocols:
  rotation       each image turned by 0, 15, ... 345 degrees on a larger canvas, in other light; shorter side 480
                 pixels, 1,024 keypoints; points near the image's edge are left out for every extractor
  hpatches       HPatches as glue-factory does: shorter side 480, 1,024 keypoints; homographies by OpenCV's RANSAC
                 (0.5 px, 3,000 samples, 0.995), and by `verify` (1 px)
  hpatches-full  HPatches as D2-Net does: full size, 2,048 keypoints; homographies by OpenCV's RANSAC (3 px, 10,000
                 samples, 0.999999), and by `verify` (1 px)
  poses          relative pose of all pairs of photographs image/NAME.jpg with intrinsic/NAME.txt (3 x 3) and
                 pose/NAME.txt (4 x 4, camera to world); essential matrices by OpenCV's RANSAC (1 px, 0.99999)

`verify` is what `match` does: OpenCV's MAGSAC++, then a fit to all matches that agree.

Matches are mutual nearest neighbours. Prints tables in Markdown; --out gets results.json, and the rotation's curve.
What can't be read is listed at the end, the rest is measured, and the exit code is 1; of HPatches a whole sequence is
left out.

examples:
  robovision keypoints evaluate rotation photographs --out runs/rotation
  robovision keypoints evaluate hpatches hpatches-sequences-release --extractors strek rootsift
  robovision keypoints evaluate poses mobilebrick --keypoints 2048
  robovision keypoints evaluate rotation photographs --extractors strek strek=runs/descriptor/strek.safetensors"""

Protocol = Literal["rotation", "hpatches", "hpatches-full", "poses"]
POSE_KEYPOINTS = 2048


@dataclass(frozen=True)
class Evaluate:
    """The options of `robovision keypoints evaluate`."""

    protocol: tyro.conf.Positional[Protocol]
    """What to measure."""
    folder: tyro.conf.Positional[Path]
    """The images, or a local copy of the benchmark."""
    extractors: tuple[str, ...] = ("strek", "strek-fast", "rootsift", "sift", "orb")
    """Which extractors; strek=FILE has weights of your own training."""
    keypoints: int | None = None
    """Keypoints of an image at most; by default the protocol's, for poses 2,048."""
    step: int = 15
    """Degrees between two rotations; a divisor of 90."""
    out: Path | None = None
    """A folder for results.json and the curve."""
    device: Device = "auto"
    """Where S-TREK computes: cpu, cuda, mps, or auto, CUDA if there is any; OpenCV's extractors use the processor."""

    def __post_init__(self) -> None:
        if self.keypoints is not None and self.keypoints < 1:
            raise UsageError(f"--keypoints must be at least 1, got {self.keypoints}")
        if not self.extractors:
            raise UsageError("--extractors must name at least one")


def _evaluate(options: Evaluate) -> int:
    from robovision.files import cannot_write, write_json

    if options.out is not None:
        try:
            options.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(options.out, error) from error
    measure = {"rotation": _rotation, "poses": _poses}.get(options.protocol, _hpatches)
    measured = measure(options)
    print(measured.text)
    if options.out is not None:
        about = {"protocol": options.protocol, "folder": str(options.folder)}
        write_json(options.out / "results.json", {**about, "results": measured.numbers})
        print(f"\nnumbers    {options.out / 'results.json'}")
    return list_faults(measured.faults, measured.total, measured.unit)


@dataclass(frozen=True)
class _Measured:
    """A table, the numbers for programs, and what could not be read, of so many things of a kind."""

    text: str
    numbers: Mapping[str, Any]
    faults: Sequence[str]
    total: int
    unit: str = "files"


def _rotation(options: Evaluate) -> _Measured:
    from robovision.keypoints import report, selfwarp, sources
    from robovision.keypoints.pixels import read_grey

    settings = selfwarp.WarpOptions(options.step, keypoints=options.keypoints or 1024)
    extractors = selfwarp.load_all(options.extractors, settings, options.device)
    found = [source.path for source in sources.find([str(options.folder)]) if not source.is_video]
    with _bar(len(found), "image", "reading") as step:
        good, faults = sources.readable(found, step)
    if not good:
        raise UsageError(f"no image in {options.folder} can be read" + "".join(f"\n  {fault}" for fault in faults))
    with _bar(len(good) * settings.count("rotation"), "image") as step:
        scores = selfwarp.measure(extractors, map(read_grey, good), "rotation", settings, step)
    curves = report.version_curves(scores)
    if options.out is not None:
        report.rotation_plot(options.out / "rotation.png", curves)
    numbers = {
        name: {"step_degrees": options.step, "repeatability@3": c[:, 0].tolist(), "mma@3": c[:, 1].tolist()}
        for name, c in curves.items()
    }
    text = f"{len(good)} images\n\n{report.rotation_table(curves)}"
    return _Measured(text, numbers, faults, len(found))


def _hpatches(options: Evaluate) -> _Measured:
    from robovision.keypoints import hpatches, report

    setting = hpatches.SETTINGS["hpatches" if options.protocol == "hpatches" else "hpatches-full"]
    if options.keypoints is not None:
        setting = dataclasses.replace(setting, keypoints=options.keypoints)
    found = hpatches.sequences(options.folder)
    with _bar(len(found), "sequence") as step:
        scores, faults = hpatches.measure(_load(options, setting.keypoints), found, setting, step)
    parts = {"all": ("i_", "v_"), "light": ("i_",), "viewpoint": ("v_",)}
    texts, numbers = [f"{len(found) - len(faults)} sequences"], {}
    for title, prefixes in parts.items():
        chosen = {
            name: [s for sequence, row in rows.items() if sequence.startswith(prefixes) for s in row]
            for name, rows in scores.items()
        }
        if any(chosen.values()):
            texts.append(f"{title}\n\n{report.planar_table(chosen, setting.estimators)}")
            numbers[title] = report.planar_numbers(chosen, setting.estimators)
    return _Measured("\n\n".join(texts), numbers, faults, len(found), "sequences")


def _poses(options: Evaluate) -> _Measured:
    from robovision.keypoints import posed, report

    found, faults = posed.photographs(options.folder)
    extractors = _load(options, options.keypoints or POSE_KEYPOINTS)
    with _bar(len(extractors) * len(found), "image") as step:
        errors = posed.measure(extractors, found, step)
    numbers = {
        name: {" ".join(pair): error if error < 360 else None for pair, error in entries.items()}
        for name, entries in errors.items()
    }
    text = f"{len(found)} photographs\n\n{report.pose_table(errors)}"
    return _Measured(text, {"errors_degrees": numbers}, faults, len(found) + len(faults), "photographs")


def _load(options: Evaluate, count: int) -> dict[str, Extractor]:
    from robovision.keypoints import load

    return {name: load(name, count, device=options.device) for name in options.extractors}


@contextlib.contextmanager
def _bar(total: int, unit: str, title: str = "measuring") -> Iterator[Callable[[], object]]:
    """A progress bar; gives what to call after each thing."""
    from tqdm import tqdm

    with tqdm(total=total, desc=title, unit=unit, leave=False) as bar:
        yield bar.update


COMMANDS = {"keypoints evaluate": Command(Evaluate, EVALUATE, _evaluate)}
