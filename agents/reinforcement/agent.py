"""A policy that reinforcement learning trained, in use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from robovision.agents.agent import Actions, Agent, Observation, find_step
from robovision.agents.reinforcement.config import RLConfig
from robovision.agents.reinforcement.environments import KeypointObserver, spaces_of
from robovision.agents.reinforcement.extractor import PixelExtractor
from robovision.agents.reinforcement.models import ALGORITHMS, policy_options, restore_policy
from robovision.devices import Device
from robovision.errors import UsageError
from robovision.run import Run

CLIP, EPSILON = 10.0, 1e-8
"""Of Stable-Baselines3's `VecNormalize`."""
NORMALISE = "normalise."
"""How the names of running statistics begin among a checkpoint's tensors."""


def load(run: Run, checkpoint: str, device: Device, half: bool) -> Agent:
    """The policy of a run of `robovision rl`; nothing is unpickled."""
    found = run.at(find_step(run, checkpoint))
    return ReinforcedAgent(run.config(RLConfig), found.tensors("model"), str(found.path), device, half)


class ReinforcedAgent(Agent):
    """A policy of Stable-Baselines3 that takes its most likely action.

    Args:
        config: of the run.
        tensors: the policy's weights, and the running statistics of what is normalised.
        source: where they come from, for errors.
        device: where it computes.
        half: see in bfloat16.

    Raises:
        UsageError: if the weights don't fit the config, naming those at fault.
    """

    def __init__(
        self, config: RLConfig, tensors: Mapping[str, Tensor], source: str, device: Device, half: bool = False
    ) -> None:
        self.space, actions = spaces_of(config)
        kind = cast(Any, ALGORITHMS[config.algorithm][1])
        self.policy: BasePolicy = kind(self.space, actions, lambda _: 0.0, **policy_options(config))
        own = {name: value for name, value in tensors.items() if not name.startswith(NORMALISE)}
        restore_policy(self.policy, own, source)
        self.policy.to(device).set_training_mode(False)
        for extractor in (module for module in self.policy.modules() if isinstance(module, PixelExtractor)):
            extractor.set_half(half)
        self._observe = KeypointObserver(config.keypoints, device) if config.keypoints.method != "none" else None
        self.moments = {
            name: tuple(tensors[f"{NORMALISE}{name}.{part}"].numpy() for part in ("mean", "var"))
            for name in config.normalise
            if name != "reward"
        }

    def reset(self) -> None:
        """There is nothing to forget: the environment stacks the frames."""

    @torch.inference_mode()
    def act(self, observations: Observation) -> Actions:
        seen = {name: np.asarray(value) for name, value in observations.items()}
        seen = self._observe(seen) if self._observe else seen
        self._check(seen)
        parts = {name: self._normalised(name, seen[name]) for name in self.space.spaces}
        actions, _ = self.policy.predict(parts, deterministic=True)
        return actions.astype(np.float32)

    def _check(self, observations: Observation) -> None:
        """Raise UsageError unless the observations are what the policy was trained on."""
        for name, space in self.space.spaces.items():
            assert isinstance(space, spaces.Box)
            if name not in observations:
                held = ", ".join(observations) or "nothing"
                raise UsageError(f"the policy observes {name}, and the observation holds {held}")
            found = observations[name]
            if found.shape[1:] != space.shape or found.dtype != space.dtype:
                raise UsageError(
                    f"the policy observes {name} {space.dtype} {list(space.shape)}, and it is {found.dtype} "
                    f"{list(found.shape[1:])}"
                )

    def _normalised(self, name: str, value: NDArray[Any]) -> NDArray[Any]:
        if name not in self.moments:
            return value
        mean, variance = self.moments[name]
        scaled: NDArray[np.float32] = np.clip((value - mean) / np.sqrt(variance + EPSILON), -CLIP, CLIP).astype(
            np.float32
        )
        return scaled
