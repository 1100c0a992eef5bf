"""Record the sweeps of a robot's LiDAR in a simulated task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from robovision.commands import Command, program
from robovision.envs.sweep_options import SweepOptions

RECORD = """Record what a robot's LiDAR measures while the task's expert drives it: sequences to pretrain an agent's
eye on.

Writes one folder an episode, with KITTI's layout (velodyne/000000.bin); no labels.

examples:
  robovision lidar record --out rooms
  robovision pretrain lidar --data rooms --model room --absolute --objectives contrast --out runs/eye
  robovision rl --task lidar/navigate --env.observe lidar proprioception --lidar.model room --lidar.weights runs/eye"""


@dataclass(frozen=True)
class Record:
    """The options of `robovision lidar record`."""

    options: Annotated[SweepOptions, tyro.conf.arg(name="")] = SweepOptions()
    out: Path = Path("lidar-sweeps")
    """The folder."""


def _record(command: Record) -> int:
    from tqdm import tqdm

    from robovision.envs.sweeps import record_sweeps
    from robovision.progress import move

    with tqdm(total=command.options.episodes, desc="episodes", unit="episode") as bar:
        count = record_sweeps(command.options, command.out, lambda done: move(bar, done))
    print(f"{count} sweeps in {command.options.episodes} sequences: {command.out}\n\ntry next")
    print(f"  {program()} pretrain lidar --data {command.out} --model room --absolute --objectives contrast rotation")
    return 0


COMMANDS = {"lidar record": Command(Record, RECORD, _record)}
