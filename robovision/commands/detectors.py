"""Train detectors on point clouds, and use them."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from robovision.commands import Command, check_resumed, program, resumed_path
from robovision.errors import UsageError
from robovision.lidar.detectors.train_options import TrainOptions
from robovision.run import Run, differences

if TYPE_CHECKING:
    from robovision.processes import Processes

TRAIN = """Train a detector on labelled point clouds: KITTI's layout, or what `robovision lidar simulate` writes.

The run folder gets checkpoints, curve.csv and detector.safetensors, which `robovision lidar detect --weights` takes. A
share of the labels (--fraction) is a share of whole sequences. Under torchrun the processes share each batch.

examples:
  robovision lidar simulate --scenes 300 --frames 1 --out streets
  robovision lidar train --data streets --out runs/streets
  robovision lidar train --data kitti/training --view --model pointpillars --paste 15 --steps 74000
  robovision lidar train --data streets --fraction 0.05 --seed 1
  torchrun --nproc-per-node 8 -m robovision.cli lidar train --data kitti/training --view --model second --batch 32
  robovision lidar train --resume runs/streets"""

DETECT = """Detect objects in point clouds; write boxes, KITTI results, bird's-eye pictures and a video.

Without --weights it uses the detector that the package carries, trained on simulated streets alone: cars, trucks,
pedestrians and cyclists within 40 m, from any LiDAR that stands upright, without intensity. The ground is found in each
cloud, so that the sensor's height does not matter. Truth beside the clouds is drawn next to what is found. Of several
clouds, those that can't be read are passed over, and listed in the end; the exit status is then 2.

examples:
  robovision lidar detect scan.bin
  robovision lidar detect kitti/training --score 0.4 --out found
  robovision lidar detect streets/0000 --weights runs/streets/detector.safetensors
  robovision lidar detect scan.bin --weights pointpillar_7728.pth --model pointpillars --ground -1.73"""

SPACE = 500_000_000
"""Bytes that a run needs at most."""


@dataclass(frozen=True)
class Train:
    """The options of `robovision lidar train`."""

    options: Annotated[TrainOptions, tyro.conf.arg(name="")] = TrainOptions()
    out: Path | None = None
    """The run folder; by default a new one under runs/."""
    resume: Path | None = None
    """Continue the run in this folder; the other options must not differ from the run's."""


@dataclass(frozen=True)
class Detect:
    """The options of `robovision lidar detect`."""

    clouds: tyro.conf.Positional[tuple[Path, ...]]
    """Files (.bin, .pcd.bin, .feather, .pcd, .ply, .npz), or folders or sequences of them."""
    weights: Path | None = None
    """A detector that `robovision lidar train` wrote, or OpenPCDet's checkpoint; by default the embedded one."""
    model: str | None = None
    """Which model OpenPCDet's checkpoint is of: pointpillars, second, centerpoint-pillar or centerpoint-voxel."""
    score: float = 0.4
    """The least score of a detection; at 0.4 the embedded detector does best in simulated streets."""
    ground: float | None = None
    """Height of the ground in the clouds' frame, metres; by default found in each cloud."""
    pictures: bool = True
    """Whether to draw."""
    out: Path = Path("lidar-detections")
    """The folder."""

    def __post_init__(self) -> None:
        if not self.clouds:
            raise UsageError("name at least one point cloud, such as training/velodyne/000000.bin")
        if not 0 <= self.score <= 1:
            raise UsageError(f"--score must be in 0..1, got {self.score:g}")
        if self.model is not None and self.weights is None:
            raise UsageError("--model goes with --weights: it says which model OpenPCDet's checkpoint is of")


def _detect(options: Detect) -> int:
    from tqdm import tqdm

    from robovision.lidar.detectors.detecting import Outputs, choose_detector, detect_files
    from robovision.lidar.frames import find_clouds
    from robovision.progress import move

    clouds = find_clouds(options.clouds)
    detector = choose_detector(options.weights, options.model)
    outputs = Outputs(options.score, options.ground, options.pictures)
    with tqdm(total=len(clouds), desc="clouds", unit="cloud") as bar:
        found = detect_files(detector, clouds, outputs, options.out, lambda done: move(bar, done))
    print(f"{found.objects} objects in {found.clouds} cloud{'' if found.clouds == 1 else 's'}; look into {options.out}")
    if found.unread:
        print(f"{len(found.unread)} of {len(clouds)} could not be read:", *found.unread, sep="\n  ", file=sys.stderr)
    return 2 if found.unread else 0


def _train(command: Train) -> int:
    from robovision.processes import joined

    options = command.options.resolved()
    with joined(options.device) as processes:
        return _fit(command, options, processes)


def _fit(command: Train, options: TrainOptions, processes: Processes) -> int:
    from robovision.lidar.detectors.training import Training

    path = command.resume or command.out or Path("runs") / f"lidar-{options.model}-seed{options.seed}"
    if command.resume is None and processes.leads:
        Run.create(path, "lidar train", options, SPACE)
    processes.wait()
    run = Run.open(path)
    if command.resume is not None:
        options = run.config(TrainOptions)
        check_resumed(differences(options, command.options), command.out)
    try:
        with run.lock() if processes.leads else contextlib.nullcontext():
            metrics = Training(run, options, processes).execute()
    except KeyboardInterrupt:
        print(f"\nstopped; continue with: {program()} lidar train --resume {run.path}", file=sys.stderr)
        return 130
    if processes.leads:
        for metric in metrics:
            print(f"  {metric.name:<24} {metric}")
        print(f"detector   {run.path / 'detector.safetensors'}\nlook at    {run.path / 'curve.csv'}")
    return 0


def _prepare(arguments: list[str]) -> tuple[list[str], Train]:
    """The defaults of `lidar train`: with --resume, those of the run."""
    path = resumed_path(arguments)
    if path is None:
        return arguments, Train()
    return arguments, dataclasses.replace(
        Train(), options=Run.open(path, "lidar train").config(TrainOptions), resume=path
    )


COMMANDS = {
    "lidar train": Command(Train, TRAIN, _train, _prepare),
    "lidar detect": Command(Detect, DETECT, _detect),
}
