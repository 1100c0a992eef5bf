"""Record demonstrations, list the tasks, export to LeRobot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from robovision.commands import Command, check_workers, process_count
from robovision.envs.demo_options import DemoOptions

DEMOS = """Record demonstrations of a task by its expert, as a Minari dataset.

The folder holds `data`, which Farama's tools open: minari.MinariDataset("FOLDER/data"). In its default place,
demos/TASK-v0, it also has a name: MINARI_DATASETS_PATH=demos and minari.load_dataset("metaworld/hammer-v0").
Episodes are files of their own, so what is there stays readable after Ctrl-C, kill -9 or a full disk.
`robovision demos export` converts a dataset to LeRobot's layout.

examples:
  robovision demos --list
  robovision demos metaworld/hammer --episodes 50
  robovision demos metaworld/hammer --episodes 50 --env.size 96 --out data/hammer-96"""

EXPORT = """Convert a Minari dataset to the layout of LeRobot datasets v3.0: Parquet and MP4.

SOURCE is a folder of `robovision demos`, any other Minari dataset's folder, or its id. The video is lossy (H.264),
and the observation after an episode's last action is left out.

example:
  robovision demos export demos/metaworld/hammer-v0 --lerobot lerobot/hammer"""


@dataclass(frozen=True)
class Demos:
    """The options of `robovision demos`."""

    options: Annotated[DemoOptions, tyro.conf.arg(name="")] = DemoOptions()
    list: bool = False
    """Print the tasks and stop."""
    workers: int = 0
    """Processes that simulate; 0: as many as there are cores, here or in the cluster."""
    ray: str | None = None
    """Simulate on a Ray cluster: its address, as `auto`, or `local` for one of this machine's cores."""
    out: Path | None = None
    """The folder; by default demos/ and the task's name and -v0. One that was interrupted goes on."""

    def __post_init__(self) -> None:
        check_workers(self.workers)


@dataclass(frozen=True)
class Export:
    """The options of `robovision demos export`."""

    source: tyro.conf.Positional[str]
    """A folder, or the id of one of Minari's datasets on this machine."""
    lerobot: Path
    """The folder to write; there must be none yet."""
    fps: float | None = None
    """Steps a second; by default what the dataset says."""


def _demos(options: Demos) -> int:
    from tqdm import tqdm

    from robovision.envs.demo_arrays import summarise
    from robovision.envs.demos import collect
    from robovision.envs.minari_dataset import data_folder, dataset_id
    from robovision.envs.task_table import table
    from robovision.progress import move

    if options.list:
        print(table())
        return 0
    path = options.out or Path("demos") / dataset_id(options.options.task)
    with tqdm(total=options.options.episodes, desc="demonstrations", unit="episode") as bar:
        workers = process_count(options.workers, options.ray, options.options.episodes)
        lost = collect(options.options, path, workers, lambda done: move(bar, done), options.ray)
    print(f"{summarise(path, options.options.episodes)}; {lost} simulator workers lost\nMinari     {data_folder(path)}")
    return 0


def _export(options: Export) -> int:
    from tqdm import tqdm

    from robovision.envs.lerobot import export
    from robovision.progress import move

    source = Path(options.source) if Path(options.source).exists() else options.source
    with tqdm(desc="export", unit="episode") as bar:
        left_out = export(source, options.lerobot, options.fps, lambda done: move(bar, done))
    print(f"LeRobot    {options.lerobot}{'; left out: ' + ', '.join(left_out) if left_out else ''}")
    return 0


def _prepare(arguments: list[str]) -> tuple[list[str], Any]:
    """The task may stand first, without its flag."""
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--task", *arguments]
    return arguments, tyro.MISSING_NONPROP


COMMANDS = {
    "demos": Command(Demos, DEMOS, _demos, _prepare),
    "demos export": Command(Export, EXPORT, _export),
}
