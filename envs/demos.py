"""Collects demonstrations: episodes of a task's expert, rendered in parallel, kept as a Minari dataset.

Each episode is a file that is written whole or not at all, so a collection that was interrupted goes on where it
stopped; `minari_dataset` says how they make one dataset.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from robovision.envs.demo_options import RECORD, DemoOptions, differences, identity
from robovision.envs.demo_recording import Recorder
from robovision.envs.minari_dataset import (
    Publisher,
    create,
    data_folder,
    dataset_id,
    episode_path,
    is_described,
    metadata_path,
    read_metadata,
)
from robovision.envs.ray_pool import open_pool
from robovision.envs.registry import resolve, try_out
from robovision.envs.task_table import require_expert
from robovision.envs.tasks import DRAWN
from robovision.errors import UsageError

START = 300.0
"""Seconds that a worker may take to begin and to try starts without pictures."""


def collect(
    options: DemoOptions,
    folder: Path,
    workers: int,
    progress: Callable[[int], None] = lambda done: None,
    ray: str | None = None,
) -> int:
    """Write the demonstrations that the folder does not hold yet; returns how many workers were lost.

    Args:
        options: what to collect.
        folder: where; made if there is none.
        workers: number of processes.
        progress: called with the number of episodes that are there.
        ray: the Ray cluster whose processes simulate, as `robovision.envs.ray_pool.cluster` takes it, with a folder
            that all its machines see; None: this machine's.

    Raises:
        UsageError: for a task and options that `make` refuses, before anything is written; if the folder holds other
            demonstrations, naming what differs; if the task has no expert, or one that fails ten times in a row; if the
            disk is full, and then the episodes before are intact.
    """
    require_expert(options.task)
    described = is_described(prepare(options, folder))
    missing = [k for k in range(options.episodes) if not (described and episode_path(folder, k).exists())]
    progress(options.episodes - len(missing))
    publisher = Publisher(folder)
    publisher.publish()
    if not missing:
        return 0
    lost = 0
    build = functools.partial(Recorder, options, folder.resolve())
    with _nothing_left(folder), open_pool(build, min(workers, len(missing)), patience(options), ray) as pool:
        for count, done in enumerate(pool.map(missing), start=1):
            lost += done.lost
            publisher.publish(done.result)
            progress(options.episodes - len(missing) + count)
    return lost


def patience(options: DemoOptions) -> float:
    """Seconds after which a worker counts as hung over one episode: five minutes, and one second more a picture.

    >>> patience(DemoOptions("metaworld/drawer-open"))
    800.0
    """
    env = resolve(options.task, options.env)
    pictures = len(env.cameras) * sum(item in DRAWN for item in env.observe)
    return START + env.horizon * pictures


@contextlib.contextmanager
def _nothing_left(folder: Path) -> Iterator[None]:
    """If recording fails before its first episode, take the empty dataset away again."""
    try:
        yield
    except UsageError:
        if _is_blank(folder):
            metadata_path(folder).unlink()
            with contextlib.suppress(OSError):  # it holds something else
                data_folder(folder).rmdir()
                folder.rmdir()
        raise


def prepare(options: DemoOptions, folder: Path) -> dict[str, Any]:
    """Make the dataset and write down what it is for, or check that it is for the same; returns its metadata."""
    from robovision.envs.gymnasium_ids import env_spec

    wanted = identity(options)
    if not metadata_path(folder).exists() or _is_blank(folder):
        try_out(options.task, options.env)
        expert = "the expert's intention is recorded, and carried out disturbed" if options.noise else "no noise"
        create(
            folder,
            {
                "dataset_id": dataset_id(options.task),
                "algorithm_name": "expert",
                "description": f"Demonstrations of {options.task}; {expert}.",
                "env_spec": env_spec(options.task, options.env).to_json(),
                RECORD: wanted,
            },
        )
    metadata = read_metadata(folder)
    if not isinstance(metadata.get(RECORD), dict):
        raise UsageError(f"{folder} holds a Minari dataset that was not recorded by `robovision demos`")
    older: dict[str, Any] = {"keep_failures": True}  # before there was a choice
    differing = differences(older | metadata[RECORD], wanted)
    if differing:
        raise UsageError(f"{folder} holds other demonstrations ({'; '.join(differing)})")
    return metadata


def _is_blank(folder: Path) -> bool:
    """Whether a recording began here that left no episode: with a wrong option, say."""
    metadata = read_metadata(folder)
    return RECORD in metadata and not is_described(metadata) and not any(data_folder(folder).glob("episode-*"))
