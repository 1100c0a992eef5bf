"""A pretrained backbone in one file: its weights, and in the file's header the detector that it is of."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from robovision import weights
from robovision.errors import UsageError
from robovision.lidar.detectors.config import DetectorConfig
from robovision.lidar.detectors.detector import Detector
from robovision.lidar.detectors.files import BACKBONE, SHOWN, check_same, read_description, write_described
from robovision.lidar.pretraining.network import Trunk

FILE = "backbone.safetensors"
"""Its name in a run folder."""
KEY = "robovision.lidar.backbone"
"""The entry of the header that holds the config as JSON."""


def save_backbone(path: Path, trunk: Trunk) -> None:
    """Write a trunk's weights in half precision, by the names that they have in a detector.

    Raises:
        UsageError: if the file can't be written.
    """
    write_described(path, trunk, KEY, trunk.config)


def load_backbone(path: Path) -> Detector:
    """A detector with the pretrained backbone of a file or a run folder and a head of random weights, not in training.

    Raises:
        UsageError: as `assign_backbone`.
    """
    detector = Detector(_read(path)[1])
    assign_backbone(detector, path)
    return detector.eval()


def assign_backbone(detector: Detector | Trunk, path: Path) -> None:
    """Copy a pretrained backbone, of a file or of a run folder, into a detector; its head, if any, stays as it is.

    Raises:
        UsageError: if it can't be read, is no backbone, or is another model's, naming what differs.
    """
    file, config = _read(path)
    check_same(config, detector.config, BACKBONE, f"{file} holds the backbone of another model")
    own = {name: value for name, value in detector.state_dict().items() if not name.startswith(("head.", "roi_head."))}
    given = weights.load_floats(file)
    faults = [f"missing: {name}" for name in own if name not in given]
    faults += [f"unexpected: {name}" for name in given if name not in own]
    faults += [
        f"misshapen: {name} is {list(given[name].shape)}, not {list(own[name].shape)}"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    if faults:
        more = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise UsageError(f"{file} does not fit the detector's backbone:\n  " + "\n  ".join(faults[:SHOWN]) + more)
    detector.load_state_dict({**detector.state_dict(), **given})


def as_pretrained(config: DetectorConfig, path: Path) -> DetectorConfig:
    """A detector that sees no more of where points lie than a pretrained backbone, of a file or of a run folder, does.

    Raises:
        UsageError: as `assign_backbone`, if that can't be read or is no backbone.
    """
    return dataclasses.replace(config, absolute=config.absolute and _read(path)[1].absolute)


def _read(path: Path) -> tuple[Path, DetectorConfig]:
    """The file of a backbone, which may be in a run folder, and the detector that it is of."""
    file = path / FILE if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise UsageError(f"{path} holds no {FILE}: its pretraining has not ended; continue it with --resume {path}")
    otherwise = (
        "holds no pretrained backbone; give what `robovision pretrain lidar` wrote, or a whole detector by --start"
    )
    return file, read_description(file, KEY, otherwise)
