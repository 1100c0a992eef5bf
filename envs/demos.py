"""Demonstrations: episodes of a task's expert, rendered in parallel, kept as a Minari dataset.

Each episode is a file that is written whole or not at all, so a collection that was interrupted goes on where it
stopped; `minari_dataset` says how they make one dataset.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robovision.envs.experts import available, find
from robovision.envs.minari_dataset import (
    Publisher,
    Spaces,
    create,
    data_folder,
    dataset_id,
    episode_path,
    episodes,
    is_described,
    lengths,
    main_path,
    metadata_path,
    open_dataset,
    read_metadata,
)
from robovision.envs.minari_episode import DISCARDED, Episode, to_hdf5
from robovision.envs.ray_pool import open_pool
from robovision.envs.registry import EnvOptions, find_task, list_tasks, make, resolve, try_out
from robovision.envs.tasks import TASKS
from robovision.errors import UsageError
from robovision.files import write_atomically
from robovision.seeding import derive

if TYPE_CHECKING:
    from robovision.envs.env import PixelEnv

HOLD = 0.2
"""The part of the horizon for which a demonstration goes on after the first success, so that a policy learns to stay
there: with 0.08, 40 of 500 steps, one that solved the task left again in 8 of 10 episodes."""
ATTEMPTS = 10
"""Starts that are tried for one demonstration until the expert succeeds."""
ENOUGH = 0.5
"""On DMC an expert fails if its return is less than this share of its own mean return."""
RECORD = "robovision"
"""The key of the dataset's metadata under which lies what was asked for."""


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
    keep_failures: bool = False
    """Record the episodes too in which the expert fails: those without success at any step, and on DMC those whose
    return is under half of the expert's mean. Otherwise another start is tried, up to ten for a demonstration."""

    def __post_init__(self) -> None:
        find_task(self.task)
        if not 0 <= self.noise <= 1:
            raise UsageError(f"noise must lie in 0..1 (actions lie in -1..1), got {self.noise}")
        if self.episodes < 1:
            raise UsageError(f"there must be at least 1 episode, got {self.episodes}")


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


def experts() -> dict[str, str]:
    """For each task, how its expert came about: `scripted`, `trained`, or `none` if there is no expert."""
    trained = available()
    return {
        task: "scripted" if task.startswith(("metaworld/", "lidar/")) else "trained" if task in trained else "none"
        for task in list_tasks()
    }


def hold_steps(horizon: int) -> int:
    """Steps that a demonstration goes on after the first success.

    >>> hold_steps(500)
    100
    """
    return round(HOLD * horizon)


def table() -> str:
    """The tasks as text: how long an episode is, what is observed, what judges it, whether there is an expert."""
    heads = ("task", "steps", "skip", "observation", "camera", "judged by", "expert")
    kinds = experts()
    rows = [
        (
            t.name,
            str(t.horizon),
            str(t.frame_skip),
            ", ".join(t.observe),
            t.camera,
            t.measure,
            kinds.get(t.name, "none"),
        )
        for t in (*TASKS.values(), find_task("mjcf/PATH"))
    ]
    widths = [max(len(row[k]) for row in (heads, *rows)) for k in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (heads, *rows)
    )


def require_expert(task: str) -> None:
    """Raise UsageError unless the task has an expert."""
    if experts().get(task, "none") == "none":
        raise UsageError(f"{task} has no expert to record; `robovision demos --list` says which tasks have one")


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
    build = functools.partial(_Recorder, options, folder.resolve())
    with _nothing_left(folder), open_pool(build, min(workers, len(missing)), ray=ray) as pool:
        for count, done in enumerate(pool.map(missing), start=1):
            lost += done.lost
            publisher.publish(done.result)
            progress(options.episodes - len(missing) + count)
    return lost


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


def identity(options: DemoOptions) -> dict[str, Any]:
    """What must agree for demonstrations to lie in one dataset, as JSON gives it back."""
    asked = dataclasses.asdict(dataclasses.replace(options, env=resolve(options.task, options.env)))
    del asked["episodes"]
    if "lidar" not in asked["env"]["observe"]:
        del asked["env"]["lidar"]  # it makes no difference, and older datasets do not say
    content: dict[str, Any] = json.loads(json.dumps(asked, default=str))
    return content


def differences(present: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> list[str]:
    """In words, where what is there differs from what is wanted, option by option.

    >>> differences({"task": "a", "env": {"size": 64}}, {"task": "a", "env": {"size": 96}})
    ['env.size: 64 there, 96 wanted']
    """
    found = []
    for key in sorted({*present, *wanted}):
        one, other = present.get(key), wanted.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            found += differences(one, other, f"{prefix}{key}.")
        elif one != other:
            found.append(f"{prefix}{key}: {one!r} there, {other!r} wanted")
    return found


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


def attempt_seed(options: DemoOptions, number: int, attempt: int) -> int:
    """The seed of an attempt, from 0 on, at a demonstration."""
    return derive(options.seed, "demonstration", number, *((attempt,) if attempt else ()))


def least_return(options: DemoOptions) -> float | None:
    """The return under which an episode counts as failed; None where success says it.

    Half of the expert's own mean, which is over the task's whole length, or the share of it that the horizon allows.
    """
    if find_task(options.task).measure == "success":
        return None
    expert = find(options.task)
    assert expert is not None
    env, whole = resolve(options.task, options.env), resolve(options.task, EnvOptions())
    share = env.horizon * env.frame_skip / (whole.horizon * whole.frame_skip)
    return ENOUGH * expert.info.return_mean * min(1.0, share)


def failed(episode: Episode, least: float | None) -> bool:
    """Whether the expert's episode shows how not to do it: no success at any step, or a return under the least."""
    if least is not None:
        return bool(episode.rewards.sum() < least)
    return episode.success is None or not episode.success.any()


class _Recorder:
    """A worker's job: records one demonstration after another."""

    def __init__(self, options: DemoOptions, folder: Path) -> None:
        warnings.filterwarnings("ignore", message="Constant.s. may be too high")
        self._options = options
        self._folder = folder
        self._env = make(options.task, options.env)
        self._hold = hold_steps(resolve(options.task, options.env).horizon)
        self._rehearsal = make(options.task, dataclasses.replace(options.env, observe=("state",)))  # draws nothing
        self._spaces = Spaces.of(self._env)

    def __call__(self, number: int) -> Spaces:
        keep = self._options.keep_failures
        seed, discarded = (attempt_seed(self._options, number, 0), 0) if keep else self._try(number)
        content = to_hdf5(self._record(self._env, seed), number, seed, discarded)
        with write_atomically(episode_path(self._folder, number)) as file:
            file.write(content)
        return self._spaces

    def close(self) -> None:
        self._env.close()
        self._rehearsal.close()

    def _try(self, number: int) -> tuple[int, int]:
        """The seed of the first start from which the expert succeeds, and how many failed before it."""
        least, returns = least_return(self._options), []
        for attempt in range(ATTEMPTS):
            seed = attempt_seed(self._options, number, attempt)
            episode = self._record(self._rehearsal, seed)
            if not failed(episode, least):
                return seed, attempt
            returns.append(episode.rewards.sum())
        horizon = self._rehearsal.options.horizon
        wanted = "a success" if least is None else f"a return of {least:.4g}, half of its mean,"
        raise UsageError(
            f"the expert of {self._options.task} failed at {ATTEMPTS} starts of demonstration {number}: none reached "
            f"{wanted} within {horizon} steps (returns {min(returns):.4g} to {max(returns):.4g}); "
            f"allow more steps, less noise, or record failures too with --keep-failures"
        )

    def _record(self, env: PixelEnv, seed: int) -> Episode:
        random = np.random.default_rng(derive(seed, "noise"))
        observation, info = env.reset(seed=seed)
        observations, infos, steps = [observation], [info], []
        held = 0
        over = False
        while not over and held <= self._hold:
            action = env.expert_action()
            disturbed = action + random.normal(0.0, self._options.noise, action.shape).astype(np.float32)
            observation, reward, terminated, truncated, info = env.step(disturbed.clip(-1, 1))
            observations.append(observation)
            infos.append(info)
            steps.append((action, float(reward), terminated, truncated))
            held = held + 1 if info.get("success", False) or held else 0
            over = terminated or truncated
        actions, rewards, terminations, truncations = (np.array(part) for part in zip(*steps, strict=True))
        return Episode(
            observations={name: np.stack([o[name] for o in observations]) for name in observation},
            actions=actions,
            rewards=rewards,
            terminations=terminations,
            truncations=truncations,
            infos={"success": np.array([i.get("success", False) for i in infos])} if "success" in info else {},
        )
