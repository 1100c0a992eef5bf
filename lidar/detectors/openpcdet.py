"""Weights of OpenPCDet's checkpoints in detectors of this library, by the names of their tensors.

What differs from OpenPCDet when its weights are used: all points of a voxel count, where OpenPCDet keeps at most so
many of them by chance; sparse kernels are kept as [places, inputs, outputs].
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from robovision.encoders.pickles import read_tensors
from robovision.errors import UsageError
from robovision.lidar.detectors.config import DetectorConfig
from robovision.lidar.detectors.detector import Detector
from robovision.lidar.detectors.files import assign
from robovision.lidar.sparse import SparseConvolution

NAMES = (
    (r"vfe\.pfn_layers\.(.*)", r"encoder.layers.\1"),
    (r"backbone_3d\.(.*)", r"encoder.\1"),
    (r"backbone_2d\.(.*)", r"backbone.\1"),
    (r"dense_head\.shared_conv\.(.*)", r"head.shared.\1"),
    (r"dense_head\.heads_list\.0\.(.*)", r"head.parts.\1"),
    (r"dense_head\.(.*)", r"head.\1"),
)
"""OpenPCDet's names and ours, the first that fits."""
IGNORED = ("global_step",)


def load_openpcdet(path: Path, config: DetectorConfig) -> Detector:
    """The detector of a config with the weights of an OpenPCDet checkpoint (.pth), in evaluation mode.

    Raises:
        UsageError: if the file can't be read, or is of another model or another list of classes, naming what differs.
    """
    detector = Detector(config)
    assign(detector, convert(read_tensors(path), detector), path)
    return detector.eval()


def convert(tensors: dict[str, Tensor], detector: Detector) -> dict[str, Tensor]:
    """OpenPCDet's tensors under our names, sparse kernels in our order, from those of spconv 1 or 2."""
    sparse = {
        f"{name}.weight": module for name, module in detector.named_modules() if isinstance(module, SparseConvolution)
    }
    result = {}
    for name, value in tensors.items():
        if name not in IGNORED:
            own = _rename(name)
            result[own] = _kernel(name, value, sparse[own]) if own in sparse else value
    return result


def _rename(name: str) -> str:
    for pattern, replacement in NAMES:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    return name


def _kernel(name: str, value: Tensor, module: SparseConvolution) -> Tensor:
    """A kernel [D, H, W, inputs, outputs] (spconv 1) or [outputs, D, H, W, inputs] (spconv 2) as ours."""
    _, width, channels = module.weight.shape
    if value.shape == (channels, *module.kernel, width):
        value = value.permute(1, 2, 3, 4, 0)
    elif value.shape != (*module.kernel, width, channels):
        raise UsageError(
            f"{name} has shape {list(value.shape)}; a kernel of spconv has {[channels, *module.kernel, width]} or "
            f"{[*module.kernel, width, channels]} here: are these weights of another model?"
        )
    return value.reshape(-1, width, channels).contiguous()
