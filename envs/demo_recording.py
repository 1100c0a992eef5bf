"""Records one demonstration: tries starts until the expert succeeds, then plays the same episode rendered."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from robovision.envs.demo_options import DemoOptions
from robovision.envs.experts import find
from robovision.envs.minari_dataset import Spaces, episode_path
from robovision.envs.minari_episode import Episode, to_hdf5
from robovision.envs.registry import EnvOptions, find_task, make, resolve
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


def hold_steps(horizon: int) -> int:
    """Steps that a demonstration goes on after the first success.

    >>> hold_steps(500)
    100
    """
    return round(HOLD * horizon)


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


class Recorder:
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
