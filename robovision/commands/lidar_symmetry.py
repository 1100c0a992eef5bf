"""Measure the symmetry of detectors on point clouds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from robovision.commands import Command
from robovision.errors import UsageError
from robovision.files import make_folder

if TYPE_CHECKING:
    from torch import Tensor

    from robovision.lidar.detectors.config import DetectorConfig
    from robovision.lidar.detectors.detector import Detector
    from robovision.types import PointCloud

SYMMETRY = """How detectors on point clouds answer when the scene moves: the error of features and boxes by
transformation (shift, turn, scale, flip) and magnitude, 0 for an equivariant detector.

Several detectors, such as one trained from scratch and one that was pretrained, are drawn into one plot. Backbones that
`robovision pretrain lidar` wrote are drawn beside the same model with random weights; they find no boxes yet. Sweeps
that have their flow beside them, as simulated ones have, add one more transformation, from each sweep to the next, by
which features are carried along the flow. Prints a table; writes equivariance.csv and equivariance.png.

examples:
  robovision symmetry lidar runs/streets/detector.safetensors --on streets/0000
  robovision symmetry lidar scratch.safetensors pretrained.safetensors --on kitti/training
  robovision symmetry lidar --pretrained runs/spatial runs/both --on streets/0000"""

RANDOM = "random weights"
"""The name of a model that learnt nothing."""


@dataclass(frozen=True)
class LidarSymmetry:
    """The options of `robovision symmetry lidar`."""

    detectors: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Detectors of this library (.safetensors)."""
    pretrained: tuple[Path, ...] = ()
    """Runs of `robovision pretrain lidar`, or their backbone.safetensors."""
    on: tuple[Path, ...] = ()
    """Point clouds, or folders of them."""
    score: float = 0.3
    """The least score of the boxes that are compared."""
    out: Path = Path("lidar-symmetry")
    """The folder."""

    def __post_init__(self) -> None:
        if not (self.detectors or self.pretrained) or not self.on:
            raise UsageError(
                "name detectors (.safetensors), or by --pretrained backbones, and by --on point clouds to look at"
            )


def _measure(options: LidarSymmetry) -> int:
    from functools import partial

    import torch
    from tqdm import tqdm

    from robovision.lidar.clouds import read_cloud
    from robovision.lidar.detectors.data import check_within
    from robovision.lidar.detectors.equivariance import KINDS, measure, table, write_report
    from robovision.lidar.detectors.flow_equivariance import find_pairs, measure_flow
    from robovision.lidar.frames import find_clouds
    from robovision.progress import move

    paths = find_clouds(options.on)
    clouds, pairs = [read_cloud(path) for path in paths], find_pairs(paths)
    detectors, backbones = _load(options)
    for detector in (*detectors.values(), *backbones.values()):
        check_within(torch.cat(_sweeps(detector, clouds)), detector.config.grid, paths)
    random = _random({d.config for d in backbones.values()}, clouds)
    make_folder(options.out)
    answers = {}
    count = sum(len(magnitudes) for _, magnitudes, _ in KINDS.values())
    for name, detector in {**detectors, **random, **backbones}.items():
        score = options.score if name in detectors else math.inf
        with tqdm(total=count, desc=name, unit="motion", leave=False) as bar:
            answers[name] = measure(detector, _sweeps(detector, clouds), score, partial(move, bar))
        if pairs:
            before, now = [pair.before for pair in pairs], [pair.now for pair in pairs]
            flows = [pair.flow for pair in pairs]
            sweeps = zip(_sweeps(detector, before), _sweeps(detector, now), flows, strict=True)
            answers[name].append(measure_flow(detector, list(sweeps)))
    print(table(answers))
    write_report(options.out, answers)
    print(f"\nthe plot is {options.out / 'equivariance.png'}")
    return 0


def _load(options: LidarSymmetry) -> tuple[dict[str, Detector], dict[str, Detector]]:
    """The detectors and the backbones by name."""
    from robovision.lidar.detectors.files import load_detector
    from robovision.lidar.pretraining.files import load_backbone

    short = {path: _name(path) for path in (*options.detectors, *options.pretrained)}
    twice = {name for name, count in Counter(short.values()).items() if count > 1}
    names = {path: str(path) if name in twice else name for path, name in short.items()}
    return (
        {names[path]: load_detector(path) for path in options.detectors},
        {names[path]: load_backbone(path) for path in options.pretrained},
    )


def _random(configs: set[DetectorConfig], clouds: Sequence[PointCloud]) -> dict[str, Detector]:
    """Models with random weights, whose normalisations know the clouds, by name."""
    import torch

    from robovision.lidar.detectors.detector import Detector
    from robovision.lidar.detectors.equivariance import fit_normalisations

    made = {}
    for number, config in enumerate(sorted(configs, key=str)):
        torch.manual_seed(0)
        detector = made[RANDOM if len(configs) == 1 else f"{RANDOM} {number + 1}"] = Detector(config)
        fit_normalisations(detector, _sweeps(detector, clouds))
    return made


def _sweeps(detector: Detector, clouds: Sequence[PointCloud]) -> list[Tensor]:
    """The clouds as a detector sees them, with the ground where it knows it."""
    from robovision.lidar.detectors.detector import features, ground_level

    sweeps = []
    for cloud in clouds:
        points = features(cloud, detector.config.intensity)
        points[:, 2] += detector.config.ground - ground_level(cloud)
        sweeps.append(points)
    return sweeps


def _name(path: Path) -> str:
    """A short name: that of the run, if a file is called as in every run."""
    return path.parent.name if path.name in ("detector.safetensors", "backbone.safetensors") else path.stem


COMMANDS = {"symmetry lidar": Command(LidarSymmetry, SYMMETRY, _measure)}
