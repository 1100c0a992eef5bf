"""Demonstrations as arrays in memory: what a policy learns from."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robovision.envs.minari_dataset import episode_path, episodes, lengths, main_path, open_dataset
from robovision.envs.minari_episode import DISCARDED, Episode
from robovision.errors import UsageError


@dataclass(frozen=True)
class Demonstrations:
    """K demonstrations end to end, N steps in all: what a policy learns from.

    Convention:
        pixels: uint8 [N, C, H, W], RGB, before each action.
        proprioception: float32 [N, P], before each action; P is 0 where it was not observed.
        actions: float32 [N, A].
        lengths: int64 [K], the steps of each; they sum to N.
        solved: how many end in success; None where the task does not say.
    """

    pixels: NDArray[np.uint8]
    proprioception: NDArray[np.float32]
    actions: NDArray[np.float32]
    lengths: NDArray[np.int64]
    solved: int | None


def load(folder: Path, count: int) -> Demonstrations:
    """The first `count` demonstrations of a Minari dataset; in memory once, and beside them one at a time.

    Raises:
        UsageError: if there are fewer, one is damaged (naming it), or they have no pixels.
    """
    dataset = open_dataset(folder)
    require_episodes(folder, dataset.total_episodes, count)
    steps = lengths(dataset, count)
    arrays: dict[str, NDArray[Any]] = {}
    success = []
    for number, episode in enumerate(itertools.islice(episodes(dataset), count)):
        first = int(steps[:number].sum())
        for name, piece in _learnt_from(episode, f"episode {number} in {folder}").items():
            if name not in arrays:
                arrays[name] = np.empty((int(steps.sum()), *piece.shape[1:]), piece.dtype)
            space = arrays[name][first : first + int(steps[number])]
            if piece.shape != space.shape:
                raise UsageError(f"episode {number} in {folder}: {name} are {piece.shape}, expected {space.shape}")
            space[:] = piece
        if episode.success is not None:
            success.append(bool(episode.success[-1]))
    return Demonstrations(**arrays, lengths=steps, solved=sum(success) if len(success) == count else None)


def require_episodes(folder: Path, there: int, count: int) -> None:
    """Raise UsageError if so many demonstrations are there but more are wanted."""
    if there < count:
        raise UsageError(f"{folder} holds {there} demonstrations, not {count}: collect the others")


def _learnt_from(episode: Episode, where: str) -> dict[str, NDArray[Any]]:
    """What a policy learns from an episode: the pixels and proprioception before each action, and the actions."""
    pixels = episode.observations.get("pixels")
    if pixels is None:
        raise UsageError(f"{where} observes no pixels, but {', '.join(sorted(episode.observations))}")
    if pixels.dtype != np.uint8 or pixels.ndim != 4:
        raise UsageError(f"{where} has pixels {pixels.dtype} {pixels.shape}, expected uint8 [T + 1, C, H, W]")
    proprioception = episode.observations.get("proprioception", np.zeros((len(pixels), 0)))[:-1].astype(np.float32)
    return {"pixels": pixels[:-1], "proprioception": proprioception, "actions": episode.actions.astype(np.float32)}


def summarise(folder: Path, count: int) -> str:
    """One line about the first `count` demonstrations: successes or else the mean return, frames, bytes a frame."""
    import h5py

    frames, discarded, total, solved = 0, 0, 0.0, list[bool]()
    with h5py.File(main_path(folder), "r") as file:
        for episode in (file[f"episode_{k}"] for k in range(count)):
            frames += len(episode["rewards"])
            discarded += int(episode.attrs.get(DISCARDED, 0))
            total += float(episode["rewards"][()].sum())
            solved += [bool(episode["infos/success"][-1])] if "success" in episode["infos"] else []
    size = sum(episode_path(folder, k).stat().st_size for k in range(count))
    outcome = f"{sum(solved)} successful" if len(solved) == count else f"mean return {total / count:.4g}"
    left_out = f", {discarded} failed {'attempt' if discarded == 1 else 'attempts'} discarded" if discarded else ""
    return f"{count} demonstrations, {outcome}{left_out}, {frames} frames, {size / frames:.0f} bytes a frame"
