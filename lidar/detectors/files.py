"""A detector in one file: its weights, and in the file's header what it is."""

from __future__ import annotations

import json
from pathlib import Path

import dacite

from robovision import weights
from robovision.errors import UsageError
from robovision.files import write_atomically
from robovision.lidar.detectors.config import DetectorConfig
from robovision.lidar.detectors.detector import Detector
from robovision.run import to_dict

KEY = "robovision.lidar.detector"
"""The entry of the header that holds the config as JSON."""


def save_detector(path: Path, detector: Detector) -> None:
    """Write a detector with its weights in half precision, as safetensors.

    Raises:
        UsageError: if the file can't be written.
    """
    from safetensors.torch import save

    tensors = {
        name: (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for name, value in detector.state_dict().items()
    }
    with write_atomically(path) as file:
        file.write(save(tensors, {KEY: json.dumps(to_dict(detector.config))}))


def load_detector(path: Path) -> Detector:
    """The detector in a file, on the CPU, in evaluation mode.

    Raises:
        UsageError: if it can't be read, is no detector of this library, or its weights do not fit what it says it is.
    """
    config = read_config(path)
    detector = Detector(config)
    weights.assign(detector, weights.load_floats(path), str(path))
    return detector.eval()


def read_config(path: Path) -> DetectorConfig:
    """What the detector in a file is.

    Raises:
        UsageError: as `load_detector`.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
    except FileNotFoundError:
        raise UsageError(f"there is no weight file {path}") from None
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is no readable safetensors file: {error}") from error
    if KEY not in header:
        raise UsageError(
            f"{path} holds no detector: its header does not say which; give one of `robovision lidar train`"
        )
    try:
        return dacite.from_dict(DetectorConfig, json.loads(header[KEY]), dacite.Config(strict=True, cast=[tuple]))
    except (dacite.DaciteError, ValueError, UsageError) as error:
        raise UsageError(f"{path}: its header describes no detector of this version: {error}") from error
