"""A detector in one file: its weights, and in the file's header what it is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import dacite
from torch import Tensor, nn

from robovision import weights
from robovision.errors import UsageError
from robovision.files import write_atomically
from robovision.lidar.detectors.config import DetectorConfig
from robovision.lidar.detectors.detector import Detector
from robovision.run import to_dict

KEY = "robovision.lidar.detector"
"""The entry of the header that holds the config as JSON."""
SHOWN = 5
"""Differences that are named when weights do not fit."""
BACKBONE = ("encoder", "grid", "bev", "pillars", "padding", "intensity", "absolute")
"""What two models must have in common for the weights of their backbones to mean the same."""
WHOLE = ("classes", *BACKBONE, "anchors", "roi")
"""And for all of their weights."""


def save_detector(path: Path, detector: Detector) -> None:
    """Write a detector with its weights in half precision, as safetensors.

    Raises:
        UsageError: if the file can't be written.
    """
    write_described(path, detector, KEY, detector.config)


def load_detector(path: Path) -> Detector:
    """The detector in a file, on the CPU, in evaluation mode.

    Raises:
        UsageError: if it can't be read, is no detector of this library, or its weights do not fit what it says it is.
    """
    config = read_config(path)
    detector = Detector(config)
    assign(detector, weights.load_floats(path), path)
    return detector.eval()


def start_from(detector: Detector, path: Path) -> None:
    """Copy the weights of a file's detector, of the same model and classes, into a detector.

    Raises:
        UsageError: as `load_detector`, and if it is another model or finds other classes, naming what differs.
    """
    check_same(read_config(path), detector.config, WHOLE, f"{path} holds a detector of another model or other classes")
    assign(detector, weights.load_floats(path), path)


def check_same(found: DetectorConfig, wanted: DetectorConfig, names: Sequence[str], fault: str) -> None:
    """Raise UsageError, beginning with `fault`, if models differ in any of these parts, naming each that does."""
    differing = [
        f"{name}: {getattr(found, name)}, not {getattr(wanted, name)}"
        for name in names
        if getattr(found, name) != getattr(wanted, name)
    ]
    if differing:
        places = "absolute" in names and found.absolute != wanted.absolute
        remedy = "\nWhether a model sees absolute x and y is said by --absolute and --no-absolute, in pretraining too"
        raise UsageError(f"{fault}:\n  " + "\n  ".join(differing) + (remedy if places else ""))


def assign(detector: Detector, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy tensors into a detector that has exactly their names and shapes.

    Raises:
        UsageError: saying whether they are of another list of classes or of another model, with what differs first.
    """
    own = {name: tuple(value.shape) for name, value in detector.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in tensors.items()}
    faults = [
        f"{name}: {given.get(name, 'missing')}, not {shape}" for name, shape in own.items() if given.get(name) != shape
    ]
    faults += [f"{name}: unexpected" for name in given if name not in own]
    if faults:
        heads = all(fault.startswith(("head.", "roi_head.")) for fault in faults)
        kind = f"for another list of classes than {', '.join(detector.config.classes)}" if heads else "of another model"
        more = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise UsageError(f"{path} holds weights {kind}:\n  " + "\n  ".join(faults[:SHOWN]) + more)
    detector.load_state_dict(dict(tensors))


def read_config(path: Path) -> DetectorConfig:
    """What the detector in a file is.

    Raises:
        UsageError: as `load_detector`.
    """
    return read_description(
        path, KEY, "holds no detector: its header does not say which; give one of `robovision lidar train`"
    )


def write_described(path: Path, module: nn.Module, key: str, config: DetectorConfig) -> None:
    """Write a module's weights in half precision, and in the header, under a key, the detector that they are of.

    Raises:
        UsageError: if the file can't be written.
    """
    from safetensors.torch import save

    tensors = {
        name: (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for name, value in module.state_dict().items()
    }
    with write_atomically(path) as file:
        file.write(save(tensors, {key: json.dumps(to_dict(config))}))


def read_description(path: Path, key: str, otherwise: str) -> DetectorConfig:
    """The detector that a file's header describes under a key.

    Raises:
        UsageError: if the file can't be read, has no such entry, where `otherwise` says what to do, or one of another
            version.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
    except FileNotFoundError:
        raise UsageError(f"there is no weight file {path}") from None
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is no readable safetensors file: {error}") from error
    if key not in header:
        raise UsageError(f"{path} {otherwise}")
    try:
        return dacite.from_dict(DetectorConfig, json.loads(header[key]), dacite.Config(strict=True, cast=[tuple]))
    except (dacite.DaciteError, ValueError, UsageError) as error:
        raise UsageError(f"{path}: its header describes no model of this version: {error}") from error
