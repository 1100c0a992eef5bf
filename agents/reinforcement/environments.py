"""The environments that a config describes, as Stable-Baselines3 wants them."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor, VecNormalize

from robovision.agents.reinforcement.config import KeypointOptions, RLConfig
from robovision.agents.reinforcement.vec_env import SB3VecEnv
from robovision.devices import Device
from robovision.envs.env import PixelEnv
from robovision.envs.lidar import parse_mount
from robovision.envs.registry import EnvOptions, make_simulation, make_vec
from robovision.errors import UsageError
from robovision.types import Keypoints

Observation = dict[str, NDArray[Any]]
RGB = 3


def make_envs(config: RLConfig) -> tuple[VecEnv, SB3VecEnv]:
    """The environments with everything that the config puts around them, and what is at the core."""
    core = SB3VecEnv(make_vec(config.task, config.envs, config.env, workers=config.workers or None))
    envs: VecEnv = core
    if config.keypoints.method != "none":
        envs = KeypointVecEnv(envs, config.keypoints, config.device)
    envs = VecMonitor(envs)
    if config.normalise:
        observed: list[str] = [name for name in config.normalise if name != "reward"]
        check_observed(observed, envs.observation_space)
        envs = VecNormalize(
            envs,
            norm_obs=bool(observed),
            norm_reward="reward" in config.normalise,
            gamma=config.learning.gamma,
            norm_obs_keys=observed or None,
        )
    return envs, core


def check_observed(names: list[str], space: spaces.Space[Any]) -> None:
    """Raise UsageError unless everything that is to be normalised is observed."""
    observed = list(space.spaces) if isinstance(space, spaces.Dict) else []
    for name in names:
        if name not in observed:
            raise UsageError(
                f"normalise names {name}, but what is observed is {', '.join(observed)}: see --env.observe"
            )


def spaces_of(config: RLConfig) -> tuple[spaces.Dict, spaces.Box]:
    """The spaces of what the policy observes and does, without an environment to render."""
    env = PixelEnv(config.task, make_simulation(config.task), config.env, render=False)
    observed, actions = env.observation_space, env.action_space
    env.close()
    return (with_keypoints_space(observed, config.keypoints), actions)


def sensor_of(task: str, options: EnvOptions) -> str:
    """The name of the LiDAR that a task's robot carries."""
    return parse_mount(options.lidar, make_simulation(task).mount).sensor


def with_keypoints_space(space: spaces.Dict, options: KeypointOptions) -> spaces.Dict:
    """The space of observations to which keypoints were added.

    Raises:
        UsageError: if there are no pixels to extract them from.
    """
    if options.method == "none":
        return space
    if "pixels" not in space.spaces:
        raise UsageError(f"keypoints are extracted from pixels, and what is observed is {', '.join(space.spaces)}")
    kept = {name: part for name, part in space.spaces.items() if options.pixels or name != "pixels"}
    return spaces.Dict({**kept, "keypoints": spaces.Box(-np.inf, np.inf, (options.count, 3), np.float32)})


class KeypointObserver:
    """Adds `keypoints` to observations: float32 [B, N, 3], x and y in -1..1 of the image, and 1; zeros for none.

    They are those of the newest frame of `pixels`, strongest first, found on CUDA or on the processor.
    """

    def __init__(self, options: KeypointOptions, device: Device = "cpu") -> None:
        from robovision.keypoints import extractors

        self._options = options
        place: Device = "cuda" if device == "cuda" else "cpu"
        self._extractor = extractors.load(options.method, options.count, device=place)

    def __call__(self, observations: Observation) -> Observation:
        """The observations [B, ...] with keypoints, and without pixels unless these are to stay."""
        found = np.stack([self._rows(pixels[-RGB:]) for pixels in observations["pixels"]])
        kept = {name: part for name, part in observations.items() if self._options.pixels or name != "pixels"}
        return {**kept, "keypoints": found}

    def _rows(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        keypoints: Keypoints = self._extractor.extract(np.ascontiguousarray(image.transpose(1, 2, 0)))
        xy = np.asarray(keypoints.xy)[: self._options.count]
        rows = np.zeros((self._options.count, 3), np.float32)
        rows[: len(xy), :2] = 2 * (xy + 0.5) / image.shape[-1] - 1
        rows[: len(xy), 2] = 1
        return rows


class KeypointVecEnv(VecEnvWrapper):
    """Environments whose observations hold keypoints; see `KeypointObserver`."""

    def __init__(self, venv: VecEnv, options: KeypointOptions, device: Device = "cpu") -> None:
        assert isinstance(venv.observation_space, spaces.Dict)
        super().__init__(venv, with_keypoints_space(venv.observation_space, options))
        self._observe = KeypointObserver(options, device)

    def reset(self) -> Observation:
        observations = self.venv.reset()
        assert isinstance(observations, dict)
        return self._observe(observations)

    def step_wait(self) -> tuple[Observation, NDArray[Any], NDArray[Any], list[dict[str, Any]]]:
        observations, rewards, dones, infos = self.venv.step_wait()
        assert isinstance(observations, dict)
        for env in np.flatnonzero(dones):
            last = {name: value[None] for name, value in infos[env]["terminal_observation"].items()}
            infos[env]["terminal_observation"] = {name: value[0] for name, value in self._observe(last).items()}
        return self._observe(observations), rewards, dones, infos
