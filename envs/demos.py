"""Demonstrations: episodes of a task's expert, rendered in parallel, one file an episode.

A folder of demonstrations holds `demos.json` (task, options, seed) and `episode-0000.npz` and so on. Each file
is written whole or not at all, so a collection that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robovision.envs.registry import EnvOptions, find_task, make
from robovision.envs.workers import WorkerPool
from robovision.errors import UsageError
from robovision.files import cannot_write, write_atomically, write_json
from robovision.seeding import derive

HOLD = 40
"""Steps that a demonstration goes on after the first success, so that a policy learns to stay there."""


@dataclass(frozen=True)
class DemoOptions:
    """Which demonstrations to collect."""

    task: str = "metaworld/drawer-open"
    """Family and name of the task."""
    episodes: int = 25
    """How many."""
    seed: int = 0
    """Chooses the goals; episode k of seed s has its own goal, whatever the number of workers."""
    noise: float = 0.0
    """Standard deviation of the noise that disturbs the expert's hand; what it meant to do is recorded. The
    expert then shows how to recover (DART, Laskey et al., CoRL 2017)."""
    env: EnvOptions = EnvOptions()
    """How the task is seen."""

    def __post_init__(self) -> None:
        find_task(self.task)
        if not 0 <= self.noise <= 1:
            raise UsageError(f"noise must lie in 0..1 (actions lie in -1..1), got {self.noise}")
        if self.episodes < 1:
            raise UsageError(f"there must be at least 1 episode, got {self.episodes}")


@dataclass(frozen=True)
class Episode:
    """One demonstration of T steps.

    Convention:
        pixels: uint8 [T, 3, H, W], RGB, before each action.
        proprioception: float32 [T, P], before each action.
        actions: float32 [T, A].
        success: bool [T], after each action.
    """

    pixels: NDArray[np.uint8]
    proprioception: NDArray[np.float32]
    actions: NDArray[np.float32]
    success: NDArray[np.bool_]


def collect(
    options: DemoOptions, folder: Path, workers: int, progress: Callable[[int], None] = lambda done: None
) -> int:
    """Write the demonstrations that the folder does not hold yet; returns how many workers were lost.

    Args:
        options: what to collect.
        folder: where; made if there is none.
        workers: number of processes.
        progress: called with the number of episodes that are there.

    Raises:
        UsageError: if the folder holds other demonstrations, naming what differs.
    """
    prepare(options, folder)
    missing = [k for k in range(options.episodes) if not episode_path(folder, k).exists()]
    progress(options.episodes - len(missing))
    if not missing:
        return 0
    lost = 0
    build = functools.partial(_Recorder, options, folder)
    with WorkerPool[int, None](build, min(workers, len(missing))) as pool:
        for count, done in enumerate(pool.map(missing), start=1):
            lost += done.lost
            progress(options.episodes - len(missing) + count)
    return lost


def prepare(options: DemoOptions, folder: Path) -> None:
    """Make the folder and write down what it is for, or check that it is for the same."""
    manifest = folder / "demos.json"
    wanted = _identity(options)
    if manifest.exists():
        present = read_manifest(folder)
        differing = [
            f"{key}: {present.get(key)!r} there, {wanted[key]!r} wanted"
            for key in wanted
            if key != "episodes" and present.get(key) != wanted[key]
        ]
        if differing:
            raise UsageError(f"{folder} holds other demonstrations ({'; '.join(differing)})")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    write_json(manifest, wanted)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `demos.json` in the folder says.

    Raises:
        UsageError: if there is none, or it can't be read.
    """
    manifest = folder / "demos.json"
    if not manifest.is_file():
        raise UsageError(f"{folder} holds no demonstrations: there is no {manifest.name} in it")
    try:
        content: dict[str, Any] = dict(json.loads(manifest.read_text()))
    except (ValueError, TypeError) as error:
        raise UsageError(f"{manifest} can't be read: {error}") from error
    return content


def load(folder: Path, count: int) -> list[Episode]:
    """The first `count` demonstrations of a folder.

    Raises:
        UsageError: if there are fewer, or a file is damaged, naming it.
    """
    return [load_episode(episode_path(folder, k)) for k in range(count)]


def summarise(folder: Path, count: int) -> str:
    """One line about demonstrations: how many, frames, successes, bytes a frame."""
    episodes = load(folder, count)
    frames = sum(len(e.actions) for e in episodes)
    solved = sum(bool(e.success[-1]) for e in episodes)
    size = sum(episode_path(folder, k).stat().st_size for k in range(count))
    return f"{count} demonstrations, {solved} successful, {frames} frames, {size / frames:.0f} bytes a frame"


def load_episode(path: Path) -> Episode:
    """One demonstration from its file.

    Raises:
        UsageError: if the file is missing or damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            episode = Episode(**{field.name: arrays[field.name] for field in dataclasses.fields(Episode)})
    except FileNotFoundError:
        raise UsageError(f"demonstration {path} is missing: collect it again with `robovision demos`") from None
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise UsageError(f"demonstration {path} is damaged ({error}): delete it and collect again") from error
    return episode


def episode_path(folder: Path, number: int) -> Path:
    """Where a folder keeps its demonstration of this number."""
    return folder / f"episode-{number:04d}.npz"


def _identity(options: DemoOptions) -> dict[str, Any]:
    return dataclasses.asdict(options)


class _Recorder:
    """A worker's job: records one demonstration after another."""

    def __init__(self, options: DemoOptions, folder: Path) -> None:
        warnings.filterwarnings("ignore", message="Constant.s. may be too high")
        self._options = options
        self._folder = folder
        self._env = make(options.task, options.env)

    def __call__(self, number: int) -> None:
        episode = self._record(number)
        with write_atomically(episode_path(self._folder, number)) as file:
            np.savez_compressed(file, **{f.name: getattr(episode, f.name) for f in dataclasses.fields(episode)})

    def close(self) -> None:
        self._env.close()

    def _record(self, number: int) -> Episode:
        steps = list(self._steps(derive(self._options.seed, "demonstration", number)))
        pixels, proprioception, actions, success = zip(*steps, strict=True)
        return Episode(np.stack(pixels), np.stack(proprioception), np.stack(actions), np.array(success))

    def _steps(self, seed: int) -> Iterator[tuple[Any, Any, Any, bool]]:
        observation, _ = self._env.reset(seed=seed)
        random = np.random.default_rng(derive(seed, "noise"))
        held = 0
        over = False
        while not over and held <= HOLD:
            action = self._env.expert_action()
            disturbed = action + random.normal(0.0, self._options.noise, action.shape).astype(np.float32)
            following, _, terminated, truncated, info = self._env.step(disturbed.clip(-1, 1))
            yield observation["pixels"], observation["proprioception"], action, info["success"]
            held = held + 1 if info["success"] or held else 0
            over = terminated or truncated
            observation = following
