"""Measure the symmetry of detectors on point clouds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from robovision.commands import Command
from robovision.errors import UsageError
from robovision.files import make_folder

SYMMETRY = """How detectors on point clouds answer when the scene moves: the error of features and boxes by
transformation (shift, turn, scale, flip) and magnitude, 0 for an equivariant detector.

Several detectors, such as one trained from scratch and one that was pretrained, are drawn into one plot. Prints tables;
writes equivariance.csv and equivariance.png.

examples:
  robovision symmetry lidar runs/streets/detector.safetensors --on streets/0000
  robovision symmetry lidar scratch.safetensors pretrained.safetensors --on kitti/training"""


@dataclass(frozen=True)
class LidarSymmetry:
    """The options of `robovision symmetry lidar`."""

    detectors: tyro.conf.Positional[tuple[Path, ...]]
    """Detectors of this library (.safetensors)."""
    on: tuple[Path, ...] = ()
    """Point clouds, or folders of them."""
    score: float = 0.3
    """The least score of the boxes that are compared."""
    out: Path = Path("lidar-symmetry")
    """The folder."""

    def __post_init__(self) -> None:
        if not self.detectors or not self.on:
            raise UsageError("name detectors (.safetensors), and by --on point clouds to look at")


def _measure(options: LidarSymmetry) -> int:
    from functools import partial

    from tqdm import tqdm

    from robovision.lidar.clouds import read_cloud
    from robovision.lidar.detectors.detector import features, ground_level
    from robovision.lidar.detectors.equivariance import KINDS, Answer, measure, table, write_report
    from robovision.lidar.detectors.files import load_detector
    from robovision.lidar.frames import find_clouds
    from robovision.progress import move

    clouds = [read_cloud(path) for path in find_clouds(options.on)]
    make_folder(options.out)
    answers: dict[str, list[Answer]] = {}
    count = sum(len(magnitudes) for _, magnitudes, _ in KINDS.values())
    for path in options.detectors:
        detector = load_detector(path)
        sweeps = []
        for cloud in clouds:
            points = features(cloud, detector.config.intensity)
            points[:, 2] += detector.config.ground - ground_level(cloud)
            sweeps.append(points)
        with tqdm(total=count, desc=path.stem, unit="motion", leave=False) as bar:
            answers[str(path)] = measure(detector, sweeps, options.score, partial(move, bar))
        print(f"{path}\n{table(answers[str(path)])}\n")
    write_report(options.out, answers)
    print(f"the plot is {options.out / 'equivariance.png'}")
    return 0


COMMANDS = {"symmetry lidar": Command(LidarSymmetry, SYMMETRY, _measure)}
