"""Time and memory of voxels, sparse convolutions beside spconv's and dense ones, and whole detectors on one sweep."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision.bench.timing import compare, markdown, peak_megabytes
from robovision.devices import cpu_count
from robovision.lidar.detectors.detector import Detector, detect
from robovision.lidar.detectors.folding import fold
from robovision.lidar.detectors.models import MODELS
from robovision.lidar.detectors.sparse_backbones import VoxelEncoder
from robovision.lidar.sensors import make_sensor
from robovision.lidar.sparse import Sites, SparseMap, SubmanifoldConv3d
from robovision.lidar.sweep import take_sweep
from robovision.lidar.traffic import make_street
from robovision.lidar.voxels import voxelise
from robovision.types import PointCloud

SENSOR = "hdl-64e"
BACKBONE = MODELS["second"]
"""Whose voxels and sparse backbone are measured."""
DETECTORS = MODELS
MASK = 2.5
"""Metres around the sensor that are its own car."""


def make_sweep() -> PointCloud:
    """A sweep in a street, the same every time."""
    street = make_street(np.random.default_rng(0))
    sensor = make_sensor(SENSOR)
    return take_sweep(sensor, street.shapes, street.ego, 0.0, street.albedo, np.random.default_rng(1), MASK).cloud


def table(rounds: int) -> str:
    """All measurements, on as many threads as there are cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(cpu_count())
    try:
        cloud = make_sweep()
        with torch.no_grad():
            return "\n\n".join([backbones(cloud, rounds), whole(cloud, rounds)])
    finally:
        torch.set_num_threads(before)


def backbones(cloud: PointCloud, rounds: int) -> str:
    """Voxels, SECOND's sparse backbone and spconv's on the same voxels, and one convolution beside a dense one."""
    config = BACKBONE
    points = torch.from_numpy(np.c_[cloud.xyz, np.zeros(len(cloud), np.float32)])
    sample = torch.zeros(len(points), dtype=torch.int64)
    encoder = fold(VoxelEncoder(config).eval())
    ways: dict[str, Callable[[], object]] = {
        "voxels": lambda: voxelise(points, sample, config.grid),
        "robovision, voxels and sparse backbone": lambda: encoder.stages(points, sample, 1),
    }
    stage = encoder.stages(points, sample, 1)[2]
    grid, kernel = stage.dense(), torch.randn(64, 64, 3, 3, 3)
    sparse = SubmanifoldConv3d(64, 64)
    ways["one convolution at the third stage, rulebook made anew"] = lambda: sparse(
        SparseMap(stage.features, Sites(stage.sites.coordinates, stage.sites.shape, 1))
    )
    ways["the same, dense"] = lambda: functional.conv3d(grid, kernel, padding=1)
    if importlib.util.find_spec("spconv") is not None:
        theirs = _spconv()
        ways["spconv, voxels of robovision and sparse backbone"] = lambda: theirs(points, sample)
    speeds = compare(ways, rounds)
    rows = [[name, f"{s.seconds * 1e3:.0f}", _memory(ways[name])] for name, s in speeds.items()]
    voxels = len(voxelise(points, sample, config.grid).coordinates)
    note = "" if importlib.util.find_spec("spconv") is not None else "; spconv is not installed"
    return f"One sweep of {len(cloud):,} points, {voxels:,} voxels of SECOND's grid, float32{note}\n\n" + markdown(
        ("what", "ms", "peak, MB"), rows
    )


def whole(cloud: PointCloud, rounds: int) -> str:
    """Every detector by name with its first weights, from points to boxes."""
    rows = []
    for name, config in DETECTORS.items():
        detector = fold(Detector(config).eval())
        call = _call(detector, cloud)
        speed = compare({name: call}, rounds)[name]
        size = sum(p.numel() for p in detector.parameters()) / 1e6
        rows.append([name, f"{size:.1f}", f"{speed.seconds * 1e3:.0f}", f"{1 / speed.seconds:.1f}", _memory(call)])
    return f"Whole detectors on that sweep, {torch.get_num_threads()} threads, float32\n\n" + markdown(
        ("detector", "million weights", "ms", "sweeps/s", "peak, MB"), rows
    )


def _call(detector: Detector, cloud: PointCloud) -> Callable[[], object]:
    return lambda: detect(detector, cloud)


def _memory(call: Callable[[], object]) -> str:
    peak = peak_megabytes(call)
    return "-" if peak is None else f"{peak:.0f}"


def _spconv() -> Callable[[Tensor, Tensor], object]:
    """SECOND's backbone by spconv, whose convolutions have no bias on a CPU, so that normalisations stay apart."""
    spconv: Any = importlib.import_module("spconv.pytorch")
    plan = [
        ("subm", 4, 16, 3, 1, 1, "1"), ("subm", 16, 16, 3, 1, 1, "1"),
        ("down", 16, 32, 3, 2, 1, "a"), ("subm", 32, 32, 3, 1, 1, "2"), ("subm", 32, 32, 3, 1, 1, "2"),
        ("down", 32, 64, 3, 2, 1, "b"), ("subm", 64, 64, 3, 1, 1, "3"), ("subm", 64, 64, 3, 1, 1, "3"),
        ("down", 64, 64, 3, 2, (0, 1, 1), "c"), ("subm", 64, 64, 3, 1, 1, "4"), ("subm", 64, 64, 3, 1, 1, "4"),
        ("down", 64, 128, (3, 1, 1), (2, 1, 1), 0, "d"),
    ]  # fmt: skip
    layers: list[nn.Module] = []
    for kind, width, channels, kernel, stride, padding, key in plan:
        if kind == "subm":
            layers.append(spconv.SubMConv3d(width, channels, kernel, padding=padding, bias=False, indice_key=key))
        else:
            layers.append(spconv.SparseConv3d(width, channels, kernel, stride, padding, bias=False, indice_key=key))
        layers += [nn.BatchNorm1d(channels, eps=1e-3, momentum=0.01), nn.ReLU(inplace=True)]
    net: nn.Module = spconv.SparseSequential(*layers).eval()
    grid = BACKBONE.grid

    def run(points: Tensor, sample: Tensor) -> object:
        voxels = voxelise(points, sample, grid)
        features = voxels.mean(voxels.points)
        depth, height, width = grid.shape
        return net(spconv.SparseConvTensor(features, voxels.coordinates.int(), [depth + 1, height, width], 1))

    return run
