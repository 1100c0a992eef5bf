"""The demonstrations that a run learns from: recorded by itself, or those of a folder that fits its task."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from tqdm import tqdm

from robovision.agents import distributed
from robovision.agents.config import TrainConfig
from robovision.envs.demo_arrays import Demonstrations, load, require_episodes
from robovision.envs.demo_options import RECORD, DemoOptions, differences, identity
from robovision.envs.demos import collect
from robovision.envs.env import PixelEnv
from robovision.envs.minari_dataset import read_metadata
from robovision.envs.registry import make_simulation, resolve
from robovision.errors import UsageError
from robovision.progress import move


def record(config: TrainConfig, folder: Path) -> None:
    """Record the run's own demonstrations, those that the folder does not hold yet."""
    options = DemoOptions(config.task, config.demos, config.seed, config.noise, config.env, config.keep_failures)
    with tqdm(total=config.demos, desc="demonstrations", unit="episode") as bar:
        lost = collect(options, folder, config.workers, lambda done: move(bar, done))
    if lost:
        tqdm.write(f"{lost} simulator workers were lost and replaced")


def load_checked(config: TrainConfig, folder: Path) -> Demonstrations:
    """The run's demonstrations, which lie in a folder.

    Raises:
        UsageError: if they are of another task, seen otherwise, or of other shapes, saying what differs;
            if there are too few.
    """
    check(config, folder)
    demos = load(folder, config.demos)
    if demos.solved is not None and demos.solved < config.demos and distributed.rank() == 0:
        tqdm.write(f"warning: only {demos.solved} of {config.demos} demonstrations end in success; a longer horizon?")
    return demos


def check(config: TrainConfig, folder: Path) -> None:
    """Raise UsageError if the folder's demonstrations are too few, or of another task, camera, preset or size, naming
    each; or if the first one has no pixels or other shapes. `load` sees to it that the others have the same.
    """
    metadata = read_metadata(folder)
    require_episodes(folder, metadata.get("total_episodes", 0), config.demos)
    about = metadata.get(RECORD)
    if isinstance(about, dict):  # a foreign dataset does not say
        _check_record(config, folder, about)
    first = load(folder, 1)
    shapes = {name: list(getattr(first, name).shape[1:]) for name in ("pixels", "proprioception", "actions")}
    differing = differences(shapes, task_shapes(config))
    if differing:
        raise UsageError(f"the demonstrations in {folder} don't fit {config.task}: {'; '.join(differing)}")


def follow(config: TrainConfig, data: Path | None) -> TrainConfig:
    """The config, with the folder that its demonstrations were moved to if the one that it has is gone.

    Raises:
        UsageError: as `check`.
    """
    if config.data is None or data is None or config.data.exists() or config.data == data.resolve():
        return config
    moved = dataclasses.replace(config, data=data.resolve())
    check(moved, data)
    return moved


def _check_record(config: TrainConfig, folder: Path, about: dict[str, Any]) -> None:
    wanted = identity(DemoOptions(config.task, env=config.env))
    differing = differences(_seen(about), _seen(wanted))
    if differing:
        raise UsageError(
            f"the demonstrations in {folder} don't fit this run ({'; '.join(differing)}): "
            "record others with `robovision demos`, or change the run's options"
        )


def _seen(about: dict[str, Any]) -> dict[str, Any]:
    """Of what demonstrations are, the task and how it is seen; an evaluation may be longer than they."""
    return {
        "task": about.get("task"),
        "env": {name: value for name, value in about.get("env", {}).items() if name != "horizon"},
    }


def task_shapes(config: TrainConfig) -> dict[str, list[int]]:
    """The shapes of one frame's pixels, proprioception and action as the task has them."""
    env = PixelEnv(config.task, make_simulation(config.task), resolve(config.task, config.env), render=False)
    try:
        felt = env.boxes.get("proprioception")
        return {
            "pixels": list(env.boxes["pixels"].low.shape),
            "proprioception": [0] if felt is None else list(felt.low.shape),
            "actions": list(env.action_space.low.shape),
        }
    finally:
        env.close()
