"""Pictures of every simulated task from random cameras, in random light and colours, for pretraining encoders.

A store is a folder of shards: `shard-00000.npz` holds `pixels`, uint8 [K, 3, S, S], of one task, compressed;
`frames.json` says what was asked for. A shard depends on the seed and its number alone and is written whole or
not at all, so a collection that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robovision.envs.demo_options import differences
from robovision.envs.registry import EnvOptions, Preset, find_task
from robovision.envs.tasks import TASKS
from robovision.envs.workers import WorkerPool
from robovision.errors import UsageError
from robovision.files import write_atomically, write_json
from robovision.seeding import derive

SHARES = {"metaworld": 0.5, "dmc": 0.25, "adroit": 0.15, "mujoco": 0.1}
"""Each family's share of the shards."""
HELD_OUT = (
    "metaworld/assembly",
    "metaworld/bin-picking",
    "metaworld/button-press-topdown",
    "metaworld/drawer-open",
    "metaworld/hammer",
    "dmc/cheetah-run",
    "dmc/finger-spin",
    "dmc/finger-turn_easy",
    "dmc/finger-turn_hard",
    "adroit/pen",
    "mujoco/half-cheetah",
)
"""Tasks that are never rendered for pretraining, so that an encoder can be judged on what it has not seen."""
SHARD = 128
"""Frames of a shard."""


@dataclass(frozen=True)
class FrameOptions:
    """Which frames to render."""

    count: int = 48_000
    """How many, rounded up to whole shards of 128."""
    size: int = 128
    """Side of the square frames in pixels."""
    preset: Preset = "fastest"
    """Rendering: exact, fast or fastest."""
    tasks: tuple[str, ...] = ()
    """Tasks to render, in turn; empty: all families but the tasks that are held out to judge encoders."""
    seed: int = 0
    """Chooses states, cameras, colours and lights."""

    def __post_init__(self) -> None:
        EnvOptions(size=self.size, preset=self.preset)
        if self.count < 1:
            raise UsageError(f"there must be at least 1 frame, got {self.count}")
        for task in self.tasks:
            find_task(task)

    @property
    def shards(self) -> int:
        """How many shards hold the frames."""
        return -(-self.count // SHARD)


def schedule(options: FrameOptions) -> list[str]:
    """The task of each shard: the families by their shares, the tasks of each in turn.

    >>> schedule(FrameOptions(300, tasks=("dmc/walker-walk", "adroit/door")))
    ['dmc/walker-walk', 'adroit/door', 'dmc/walker-walk']
    """
    if options.tasks:
        return [options.tasks[k % len(options.tasks)] for k in range(options.shards)]
    families = {
        family: [name for name in TASKS if name.startswith(f"{family}/") and name not in HELD_OUT] for family in SHARES
    }
    given = dict.fromkeys(SHARES, 0)
    order = []
    for k in range(options.shards):
        family = max(SHARES, key=lambda name: SHARES[name] * (k + 1) - given[name])
        tasks = families[family]
        order.append(tasks[(given[family] * _stride(len(tasks))) % len(tasks)])
        given[family] += 1
    return order


def render(
    options: FrameOptions, folder: Path, workers: int, progress: Callable[[int], None] = lambda done: None
) -> int:
    """Render the shards that the folder does not hold yet; returns how many workers were lost.

    Args:
        options: what to render.
        folder: where; made if there is none.
        workers: number of processes.
        progress: called with the number of frames that are there.

    Raises:
        UsageError: if the folder holds other frames, naming what differs; if it can't be written.
    """
    prepare(options, folder)
    order = schedule(options)
    missing = [k for k in range(len(order)) if not shard_path(folder, k).exists()]
    progress(SHARD * (len(order) - len(missing)))
    lost = 0
    if missing:
        build = functools.partial(_Photographer, options, folder)
        with WorkerPool[int, None](build, min(workers, len(missing))) as pool:
            for count, done in enumerate(pool.map(missing), start=1):
                lost += done.lost
                progress(SHARD * (len(order) - len(missing) + count))
    return lost


def prepare(options: FrameOptions, folder: Path) -> None:
    """Write down what the folder is for, or check that it is for the same."""
    wanted = json.loads(json.dumps(dataclasses.asdict(options)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "frames.json"
        if not path.exists():
            write_json(path, wanted)
        present = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder} can't be used as a store of frames: {error}") from error
    differing = differences(present, wanted)
    if differing:
        raise UsageError(f"{folder} holds other frames ({'; '.join(differing)}): choose another folder")


def shard_path(folder: Path, number: int) -> Path:
    """The file of a shard."""
    return folder / f"shard-{number:05d}.npz"


def load(folder: Path, part: int = 0, parts: int = 1) -> NDArray[np.uint8]:
    """All frames of a store, uint8 [N, 3, S, S], or every `parts`-th shard of it from `part` on.

    Raises:
        UsageError: if there are none, or a shard is damaged, naming it.
    """
    paths = sorted(folder.glob("shard-*.npz"))[part::parts]
    if not paths:
        raise UsageError(f"{folder} holds no frames")
    first = read_shard(paths[0])
    frames = np.empty((len(paths), *first.shape), np.uint8)
    for k, path in enumerate(paths):
        pixels = read_shard(path)
        if pixels.shape != first.shape:
            raise UsageError(f"{path} holds frames {pixels.shape}, the others {first.shape}")
        frames[k] = pixels
    return frames.reshape(-1, *first.shape[1:])


def read_shard(path: Path) -> NDArray[np.uint8]:
    """The frames of one shard, uint8 [K, 3, S, S]; UsageError if it is damaged."""
    try:
        with path.open("rb") as file, np.load(file) as content:
            pixels: NDArray[np.uint8] = content["pixels"]
    except Exception as error:  # a damaged archive raises a dozen types
        raise UsageError(f"{path} is damaged ({error!r}): delete it and render again") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3:
        raise UsageError(f"{path} holds {pixels.dtype} {pixels.shape}, expected uint8 [K, 3, S, S]")
    return pixels


class _Photographer:
    """A worker's job: renders one shard after another."""

    def __init__(self, options: FrameOptions, folder: Path) -> None:
        warnings.filterwarnings("ignore", message="Constant.s. may be too high")
        self._options = options
        self._folder = folder
        self._order = schedule(options)

    def __call__(self, number: int) -> None:
        from robovision.envs.photographs import photograph

        task = self._order[number]
        random = np.random.default_rng(derive(self._options.seed, "shard", number))
        pixels = np.stack(list(photograph(task, SHARD, self._options.size, self._options.preset, random)))
        content = io.BytesIO()
        np.savez_compressed(content, pixels=pixels)
        with write_atomically(shard_path(self._folder, number)) as file:
            file.write(content.getbuffer())

    def close(self) -> None:
        pass


def _stride(count: int) -> int:
    """A step that visits all of `count` places in a scattered order."""
    return next(k for k in range(max(1, round(0.618 * count)), count + 2) if np.gcd(k, count) == 1)
