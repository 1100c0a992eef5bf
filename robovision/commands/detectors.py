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
from robovision.lidar.detectors.train_options import TrainOptions
from robovision.run import Run, differences

if TYPE_CHECKING:
    from robovision.encoders.processes import Processes

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


def _train(command: Train) -> int:
    from robovision.encoders.processes import joined
    from robovision.lidar.detectors.training import resolve

    options = resolve(command.options)
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
    return arguments, dataclasses.replace(Train(), options=Run.open(path).config(TrainOptions), resume=path)


COMMANDS = {"lidar train": Command(Train, TRAIN, _train, _prepare)}
