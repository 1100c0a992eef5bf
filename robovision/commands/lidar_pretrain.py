"""Pretrain the backbones of detectors on point clouds."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from robovision.commands import Command, check_resumed, program, resumed_path
from robovision.lidar.pretraining.options import PretrainOptions
from robovision.run import Run, differences

if TYPE_CHECKING:
    from robovision.processes import Processes

PRETRAIN = """Pretrain a LiDAR detector's backbone on sequences without labels, by equivariance in space and time.

Objectives: contrast (features of a point agree between views that were shifted, scaled and flipped), rotation (by how
much a sweep was turned is told from its features), flow (features of a sweep, carried along the scene's flow, are those
of the next one). Baselines: pointcontrast, strl and also. Any of them may be combined.

The run folder gets checkpoints, curve.csv, curve.png and backbone.safetensors, which `robovision lidar train
--pretrained` takes. Under torchrun the processes share each batch.

examples:
  robovision lidar simulate --scenes 80 --frames 4 --out streets
  robovision pretrain lidar --data streets --model small
  robovision pretrain lidar --data streets --objectives contrast rotation
  robovision pretrain lidar --data streets --flow estimated
  robovision pretrain lidar --data streets --objectives also --out runs/also
  robovision pretrain lidar --resume runs/also
  robovision lidar train --data streets --fraction 0.05 --pretrained runs/also"""

SPACE = 500_000_000
"""Bytes that a run needs at most."""


@dataclass(frozen=True)
class PretrainLidar:
    """The options of `robovision pretrain lidar`."""

    options: Annotated[PretrainOptions, tyro.conf.arg(name="")] = PretrainOptions()
    out: Path | None = None
    """The run folder; by default a new one under runs/."""
    resume: Path | None = None
    """Continue the run in this folder; the other options must not differ from the run's."""


def _pretrain(command: PretrainLidar) -> int:
    from robovision.processes import joined

    options = command.options.resolved()
    with joined(options.device) as processes:
        return _fit(command, options, processes)


def _fit(command: PretrainLidar, options: PretrainOptions, processes: Processes) -> int:
    from robovision.lidar.pretraining.files import FILE
    from robovision.lidar.pretraining.training import Pretraining

    name = f"lidar-{options.model}-{'-'.join(options.objectives)}-seed{options.seed}"
    path = command.resume or command.out or Path("runs") / name
    if command.resume is None and processes.leads:
        Run.create(path, "pretrain lidar", options, SPACE)
    processes.wait()
    run = Run.open(path)
    if command.resume is not None:
        options = run.config(PretrainOptions)
        check_resumed(differences(options, command.options), command.out)
    try:
        with run.lock() if processes.leads else contextlib.nullcontext():
            metrics = Pretraining(run, options, processes).execute()
    except KeyboardInterrupt:
        print(f"\nstopped; continue with: {program()} pretrain lidar --resume {run.path}", file=sys.stderr)
        return 130
    if processes.leads:
        for metric in metrics:
            print(f"  {metric.name:<24} {metric}")
        print(f"weights    {run.path / FILE}\nlook at    {run.path / 'curve.png'}\n\ntry next")
        print(f"  {program()} lidar train --model {options.model} --pretrained {run.path}")
    return 0


def _prepare(arguments: list[str]) -> tuple[list[str], PretrainLidar]:
    """The defaults of `pretrain lidar`: with --resume, those of the run."""
    path = resumed_path(arguments)
    if path is None:
        return arguments, PretrainLidar()
    return arguments, PretrainLidar(Run.open(path, "pretrain lidar").config(PretrainOptions), resume=path)


COMMANDS = {"pretrain lidar": Command(PretrainLidar, PRETRAIN, _pretrain, _prepare)}
