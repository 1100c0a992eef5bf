"""One episode as Minari keeps it: what it is, how it lies in HDF5, how it comes out of any Minari dataset."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robovision.errors import UsageError

if TYPE_CHECKING:
    import h5py
    from minari import EpisodeData

ROWS = 4
"""Image rows a chunk. Few enough that the same row of the frame before lies within gzip's reach of 32 KiB, so
that what did not move costs next to nothing; more would compress no better."""
FRAMES = 512
"""Frames a chunk at most."""
GZIP = 4
DISCARDED = "discarded_attempts"
"""The attribute of an episode, and the key of a dataset's metadata, that counts attempts in which the expert failed.
An episode without it has none."""
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Episode:
    """One episode of T steps.

    Convention:
        observations: by name, each [T + 1, ...]: at the reset and after each action.
        actions: [T, A].
        rewards: float64 [T].
        terminations, truncations: bool [T].
        infos: by name, each [T + 1, ...] as Minari writes them, at the reset and after each action.
    """

    observations: Arrays
    actions: NDArray[Any]
    rewards: NDArray[np.float64]
    terminations: NDArray[np.bool_]
    truncations: NDArray[np.bool_]
    infos: Arrays

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def success(self) -> NDArray[np.bool_] | None:
        """Whether the task was solved after each action, bool [T]; None where the task does not say."""
        if "success" not in self.infos:
            return None
        return self.infos["success"][-len(self) :].astype(bool).reshape(len(self))


def to_hdf5(episode: Episode, number: int, seed: int, discarded: int = 0) -> bytes:
    """An HDF5 file whose root is this episode's group, as Minari 0.5 lays it out; lossless.

    `discarded` counts the attempts before it that failed. Images, [T, ..., H, W], lie in chunks of a few rows
    through time, compressed by gzip.
    """
    import h5py

    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.attrs.update(
            {"id": number, "seed": seed, "total_steps": len(episode)} | ({DISCARDED: discarded} if discarded else {})
        )
        _store(file.create_group("observations"), episode.observations)
        _store(file.create_group("infos"), episode.infos)
        names = ("actions", "rewards", "terminations", "truncations")
        _store(file, {name: getattr(episode, name) for name in names})
    return content.getvalue()


def _store(group: h5py.Group, arrays: Arrays) -> None:
    for name, values in arrays.items():
        compression = {"compression": "gzip", "compression_opts": GZIP, "shuffle": values.dtype.itemsize > 1}
        chunked = {"chunks": chunks(values.shape), **compression} if values.size else {}
        group.create_dataset(name, data=values, maxshape=(None, *values.shape[1:]) if chunked else None, **chunked)


def chunks(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The chunks of an array [T, ...] that is not empty: a piece of the time, and of images a few rows.

    >>> chunks((131, 3, 224, 224)), chunks((131, 4))
    ((131, 3, 4, 224), (131, 4))
    """
    frames = min(shape[0], FRAMES)
    if len(shape) < 3:
        return (frames, *shape[1:])
    return (frames, *shape[1:-2], min(shape[-2], ROWS), shape[-1])


def from_minari(data: EpisodeData) -> Episode:
    """The episode in Minari's own form; nested observations and infos become `outer/inner`, bare ones `state`.

    Raises:
        UsageError: if its actions are not one array, or its parts differ in length.
    """
    if not isinstance(data.actions, np.ndarray):
        raise UsageError(f"episode {data.id} has actions that are a {type(data.actions).__name__}, not one array")
    observations = flatten(data.observations)
    steps = len(data.rewards)
    lengths = {name: len(values) for name, values in observations.items()}
    if len(data.actions) != steps or set(lengths.values()) != {steps + 1}:
        raise UsageError(
            f"episode {data.id} has {steps} rewards, {len(data.actions)} actions and observations {lengths}; "
            f"there must be as many actions as rewards, and one observation more"
        )
    return Episode(
        observations=observations,
        actions=data.actions,
        rewards=np.asarray(data.rewards, np.float64),
        terminations=np.asarray(data.terminations, bool),
        truncations=np.asarray(data.truncations, bool),
        infos=flatten(data.infos or {}),
    )


def flatten(tree: Any, prefix: str = "") -> Arrays:
    """Nested mappings and tuples of arrays by name.

    >>> list(flatten({"hand": {"x": [0.0]}, "goal": ([1.0], [2.0])})), list(flatten([0.0]))
    (['hand/x', 'goal/0', 'goal/1'], ['state'])
    """
    if isinstance(tree, tuple):
        tree = dict(enumerate(tree))
    if not isinstance(tree, Mapping):
        return {prefix or "state": np.asarray(tree)}
    flat: Arrays = {}
    for name, values in tree.items():
        flat |= flatten(values, f"{prefix}/{name}" if prefix else str(name))
    return flat
