"""Evaluate detectors on point clouds, simulate a LiDAR."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from robovision.commands import Command, check_workers
from robovision.lidar.simulate_options import SimulateOptions

GROUP = """Evaluate detectors on point clouds, and simulate a LiDAR.

commands:
  evaluate   score detections by the metrics of KITTI, nuScenes, Waymo, or scene flow
  simulate   write sequences of a simulated LiDAR with exact boxes and flow

`robovision lidar COMMAND --help` lists a command's options."""

EVALUATE = """Score detections against ground truth; write numbers, curves and the worst frames.

The folders hold, for kitti: one .txt a frame; nuscenes: .json as the devkit writes them; waymo: .parquet as the
dataset 2.0 keeps boxes, with a column `score`; flow: one .npz or .feather a sweep.

examples:
  robovision lidar evaluate --metric kitti --truth training/label_2 --detections results
  robovision lidar evaluate --metric nuscenes --truth truth --detections results --out scores"""

SIMULATE = """Write sequences of a simulated LiDAR in streets made by chance, in KITTI's layout, with exact truth.

The same options give the same files. Finished sequences stay when the command is stopped; call it again to go on.

examples:
  robovision lidar simulate --scenes 2 --frames 5 --out streets
  robovision lidar simulate --scenes 100 --sensor vlp-16 --seed 7 --out vlp"""


@dataclass(frozen=True)
class Evaluate:
    """The options of `robovision lidar evaluate`."""

    metric: Literal["kitti", "nuscenes", "waymo", "flow"]
    """Whose definitions."""
    truth: Path
    """The folder with the ground truth."""
    detections: Path
    """The folder with what was detected."""
    out: Path = Path("lidar-evaluation")
    """The folder for results.json, worst.json and precision-recall.png."""


@dataclass(frozen=True)
class Simulate:
    """The options of `robovision lidar simulate`."""

    options: Annotated[SimulateOptions, tyro.conf.arg(name="")] = SimulateOptions()
    workers: int = 0
    """Processes that simulate; 0: as many as there are cores."""
    out: Path = Path("lidar-scenes")
    """The folder; one that was interrupted goes on."""

    def __post_init__(self) -> None:
        check_workers(self.workers)


def _evaluate(options: Evaluate) -> int:
    from robovision.lidar.evaluate import evaluate

    result = evaluate(options.metric, options.truth, options.detections, options.out)
    print(f"{result.table()}\n\nnumbers and curves are in {options.out}")
    return 0


def _simulate(options: Simulate) -> int:
    from tqdm import tqdm

    from robovision.devices import cpu_count
    from robovision.lidar.simulate import simulate
    from robovision.progress import move

    with tqdm(total=options.options.scenes, desc="sequences", unit="sequence") as bar:
        simulate(options.options, options.out, options.workers or cpu_count(), lambda done: move(bar, done))
    print(f"{options.options.scenes} sequences of {options.options.frames} frames in {options.out}")
    return 0


COMMANDS = {
    "lidar evaluate": Command(Evaluate, EVALUATE, _evaluate),
    "lidar simulate": Command(Simulate, SIMULATE, _simulate),
}
