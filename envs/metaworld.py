"""MetaWorld's tasks (Yu et al., CoRL 2019), with fresh goals from any seed."""

from __future__ import annotations

from typing import Any

from robovision.envs.rendering import CROP, View  # first: it chooses the backend that mujoco reads

# isort: split
import numpy as np
from gymnasium import spaces
from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE
from metaworld.policies import ENV_POLICY_MAP

from robovision.envs.simulation import LARGE, Simulation, Vector

TOP_CAP2 = View(lookat=(0.0, 0.6, 0.0), distance=0.6708, azimuth=-90.0, elevation=-63.435)
"""CortexBench's camera `top_cap2`, which MetaWorld itself does not have."""
SPECTATOR = View(lookat=(0.0, 0.68, 0.1), distance=1.25, azimuth=130.0, elevation=-28.0)
"""A view of the whole arm, for videos."""


class MetaWorld(Simulation):
    """A MetaWorld task.

    Proprioception: float32 [4], the hand's x, y, z in metres and the gripper's opening in 0..1. Action: the
    hand's displacement and the gripper's effort. Success: MetaWorld's own, at each step.
    """

    actions = 4
    cameras = {"top_cap2": TOP_CAP2, "spectator": SPECTATOR}  # noqa: RUF012
    inverted = ("corner", "corner2", "corner3", "corner4")
    crop = CROP
    spectator = "spectator"
    mirrors = False
    """They change no picture by over 0.2 of 255 in the mean, and cost a third of the time of `fast`."""

    def __init__(self, name: str) -> None:
        self._env = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{name}-v3-goal-observable"]()
        self._env._freeze_rand_vec = False
        self._env.seeded_rand_vec = True
        self._expert = ENV_POLICY_MAP[f"{name}-v3"]()
        self.model, self.data = self._env.model, self._env.data
        self.control_timestep = self._env.dt
        bounds = self._env.sawyer_observation_space
        low, high = (np.clip(bound, -LARGE, LARGE).astype(np.float32) for bound in (bounds.low, bounds.high))
        self.state_space = spaces.Box(low, high)
        self.proprioception_space = spaces.Box(self.state_space.low[:4], self.state_space.high[:4])
        self._state = np.zeros(bounds.shape)
        self._success = False

    def reset(self, random: np.random.Generator) -> None:
        self._env.seed(int(random.integers(2**31)))
        self._state, _ = self._env.reset()
        self._success = False

    def step(self, action: Vector) -> tuple[float, bool]:
        self._state, reward, terminated, _, info = self._env.step(action)
        self._success = bool(info["success"])
        return float(reward), bool(terminated)

    def proprioception(self) -> Vector:
        hand: Vector = self._state[:4].astype(np.float32)
        return hand

    def state(self) -> Vector:
        return self._state.astype(np.float32)

    def judge(self) -> dict[str, Any]:
        return {"success": self._success}

    def expert_action(self) -> Vector:
        action: Vector = np.clip(self._expert.get_action(self._state), -1.0, 1.0).astype(np.float32)
        return action

    def hide_goal(self) -> None:
        for k in range(self.model.nsite):
            if self.model.site(k).name.startswith("goal"):
                self.model.site_rgba[k, 3] = 0.0

    def close(self) -> None:
        self._env.close()
