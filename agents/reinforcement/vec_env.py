"""Our parallel environments as a `VecEnv` of Stable-Baselines3."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from robovision.envs.vector import PixelVecEnv

Observation = dict[str, NDArray[Any]]
Infos = list[dict[str, Any]]


class SB3VecEnv(VecEnv):
    """The environments of `make_vec`, for any algorithm of Stable-Baselines3.

    An environment whose episode is over begins the next at once: `step` returns its first observation, and the info
    holds `terminal_observation`, `is_success` where the task says, and, if the episode was cut and did not end by
    itself, `TimeLimit.truncated` with `truncation_reason`: the horizon, or why the simulator's worker was lost.
    `seed(s)` seeds environment i with s + i at the next reset.

    Args:
        envs: what `robovision.envs.make_vec` made.
    """

    def __init__(self, envs: PixelVecEnv) -> None:
        self._envs = envs
        self._actions: NDArray[Any] = np.zeros(0)
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    @property
    def workers_lost(self) -> int:
        """Simulator workers that died or hung and were replaced."""
        return self._envs.workers_lost

    def reset(self) -> Observation:
        first = self._seeds[0]
        observations, infos = self._envs.reset(seed=first if first is not None else self._seeds)
        self.reset_infos = self._split(infos)
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: NDArray[Any]) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[Observation, NDArray[Any], NDArray[Any], Infos]:
        last, rewards, terminated, truncated, gathered = self._envs.step(self._actions)
        infos, observations = self._split(gathered), last
        over = begins = terminated | truncated
        for env in np.flatnonzero(over).tolist():
            self._end(infos[env], last, env, bool(truncated[env] and not terminated[env]))
        while begins.any():
            observations, fresh = self._envs.begin(begins)
            begins = np.array(["worker_lost" in info for info in self._split(fresh)])
            for env, info in enumerate(self._split(fresh)):
                if begins[env] and not over[env]:
                    infos[env].update(info)
                    self._end(infos[env], last, env, truncated=True)
            over = over | begins
        return observations, rewards.astype(np.float32), over, infos

    def close(self) -> None:
        self._envs.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return [getattr(self._envs, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        raise AttributeError(f"{attr_name} can't be set: the environments live in other processes")

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        raise AttributeError(f"{method_name} can't be called: the environments live in other processes")

    def env_is_wrapped(self, wrapper_class: type, indices: VecEnvIndices = None) -> list[bool]:
        return [False] * len(list(self._get_indices(indices)))

    @staticmethod
    def _end(info: dict[str, Any], last: Observation, env: int, truncated: bool) -> None:
        info["terminal_observation"] = {name: value[env] for name, value in last.items()}
        info["TimeLimit.truncated"] = truncated
        if truncated:
            info["truncation_reason"] = info.get("worker_lost", "the horizon is reached")
        if "success" in info:
            info["is_success"] = bool(info["success"])

    def _split(self, infos: dict[str, Any]) -> Infos:
        """Gymnasium's dictionary of arrays as a dictionary for each environment."""
        names = [name for name in infos if not name.startswith("_")]
        return [{name: infos[name][env] for name in names if infos[f"_{name}"][env]} for env in range(self.num_envs)]
