"""What an expert is trained on: a task as its state, with the protocol's horizon; and episodes played on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import robovision.envs.rendering  # noqa: F401 - first: it chooses the backend that mujoco reads

# isort: split
import gymnasium
import numpy as np
from dm_control import suite
from gymnasium import spaces
from numpy.typing import NDArray

from robovision.envs.experts import Array, Expert, flatten
from robovision.envs.registry import EnvOptions, make_simulation, resolve
from robovision.seeding import derive

FRAME_SKIP = 2
"""Control steps for which an action is held, as the protocol has it: 500 actions an episode."""


class StateEnv(gymnasium.Env[Array, Array]):
    """A dm_control task as its state.

    Observation: float32 [S], the parts of dm_control's observation in their order, each with any finite value.
    Action: float32 [A] in the task's bounds, held for 2 control steps, whose rewards are summed. An episode lasts
    1000 control steps and is then truncated; it never terminates.
    """

    def __init__(self, task: str) -> None:
        domain, name = task.removeprefix("dmc/").split("-", 1)
        self._env = suite.load(domain, name)
        self.parts = {name: int(np.prod(spec.shape)) for name, spec in self._env.observation_spec().items()}
        actions = self._env.action_spec()
        self.observation_space = spaces.Box(-np.inf, np.inf, (sum(self.parts.values()),), np.float32)
        self.action_space = spaces.Box(actions.minimum.astype(np.float32), actions.maximum.astype(np.float32))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._env.task.random.seed(seed % 2**32)
        return flatten(self._env.reset().observation), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        held = [self._env.step(action) for _ in range(FRAME_SKIP)]
        return flatten(held[-1].observation), sum(step.reward for step in held), False, held[-1].last(), {}


class HandEnv(gymnasium.Env[Array, Array]):
    """A task of Adroit's hand as its state, with the protocol's horizon, end and rule of success.

    Observation: float32 [S], the simulator's own, each number any finite value. Action: float32 [A] in -1..1, held
    for one control step. `info["success"]` judges the episode so far.
    """

    def __init__(self, task: str) -> None:
        self._simulation = make_simulation(task)
        self._horizon = resolve(task, EnvOptions()).horizon
        self.parts = {"state": self._simulation.state().size}
        self.observation_space = spaces.Box(-np.inf, np.inf, (self.parts["state"],), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (self._simulation.actions,), np.float32)
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        self._simulation.reset(self.np_random)
        self._steps = 0
        return self._simulation.state(), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        reward, terminated = self._simulation.step(action)
        self._steps += 1
        truncated = self._steps >= self._horizon
        return self._simulation.state(), reward, terminated, truncated, self._simulation.judge()


def state_env(task: str) -> StateEnv | HandEnv:
    """A task as its state."""
    return StateEnv(task) if task.startswith("dmc/") else HandEnv(task)


@dataclass(frozen=True)
class Played:
    """Episodes that an expert played: their returns, float64 [episodes], and, where the task says, bool [episodes]
    whether each was solved at its end.
    """

    returns: NDArray[np.float64]
    solved: NDArray[np.bool_] | None


def play(expert: Expert, seeds: Sequence[int]) -> Played:
    """Whole episodes that an expert plays, one for each seed."""
    envs = [state_env(expert.info.task) for _ in seeds]
    states = np.stack([env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)])
    returns, last = np.zeros(len(seeds)), [dict[str, Any]() for _ in seeds]
    going = list(range(len(seeds)))
    while going:
        still = []
        for k, action in zip(going, expert(states[going]), strict=True):
            states[k], reward, terminated, truncated, last[k] = envs[k].step(action)
            returns[k] += reward
            if not (terminated or truncated):
                still.append(k)
        going = still
    says = all("success" in info for info in last)
    return Played(returns, np.array([info["success"] for info in last]) if says else None)


def report_seeds(seed: int, episodes: int) -> list[int]:
    """Seeds of fresh episodes, used neither in training nor in choosing a checkpoint."""
    return [derive(seed, "report", k) for k in range(episodes)]
