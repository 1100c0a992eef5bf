"""Adroit's hand (Rajeswaran et al., RSS 2018) in Gymnasium-Robotics, judged as its authors do."""

from __future__ import annotations

import contextlib
import importlib
import io
from dataclasses import dataclass
from typing import Any

from robovision.envs.rendering import CROP  # first: it chooses the backend that mujoco reads

# isort: split
import numpy as np
from gymnasium import spaces

from robovision.envs import experts
from robovision.envs.simulation import Simulation, Vector, position_bounds, unbounded

DROPPED = 0.075
"""Height in metres below which the pen counts as dropped."""


@dataclass(frozen=True)
class Rule:
    """How many joints are the robot's own, and at how many steps at least, plus one, the goal must be met."""

    joints: int
    steps: int


RULES = {"pen": Rule(24, 20), "door": Rule(28, 25), "hammer": Rule(26, 25), "relocate": Rule(30, 25)}
"""Success as in the authors' `mj_envs`; CortexBench takes pen and relocate from there."""


class Adroit(Simulation):
    """A task of the hand: pen, door, hammer or relocate.

    Proprioception: positions of the arm's and hand's joints, `qpos[:24]` (pen), `[:28]`, `[:26]`, `[:30]`
    (relocate), radians and metres. Success: the goal was met at more than 20 (pen) or 25 steps so far; for pen
    this is a distance under 0.075 m and a cosine over 0.95, for relocate under 0.1 m. Dropping the pen ends the
    episode.
    """

    cameras = {}  # noqa: RUF012
    crop = CROP
    spectator = "vil_camera"

    def __init__(self, name: str) -> None:
        with contextlib.redirect_stderr(io.StringIO()):  # a notice about rewards of versions that are not used here
            module = importlib.import_module(f"gymnasium_robotics.envs.adroit_hand.adroit_{name}")
        self._env = getattr(module, f"AdroitHand{name.capitalize()}Env")()
        self._name, self._rule = name, RULES[name]
        self.model, self.data = self._env.model, self._env.data
        self.control_timestep = self._env.dt
        self.actions = self._env.action_space.shape[0]
        self.proprioception_space = spaces.Box(*position_bounds(self.model, np.arange(self._rule.joints)))
        self.state_space = unbounded(self._env.observation_space.shape[0])
        self._expert = experts.find(f"adroit/{name}")
        self._met = 0

    def reset(self, random: np.random.Generator) -> None:
        self._env.reset(seed=int(random.integers(2**31)))
        self._met = 0

    def step(self, action: Vector) -> tuple[float, bool]:
        _, reward, terminated, _, info = self._env.step(action)
        self._met += bool(info["success"])
        dropped = self._name == "pen" and self.data.xpos[self._env.obj_body_id][2] < DROPPED
        return float(reward), bool(terminated or dropped)

    def proprioception(self) -> Vector:
        space = self.proprioception_space
        joints: Vector = self.data.qpos[: self._rule.joints].clip(space.low, space.high).astype(np.float32)
        return joints

    def state(self) -> Vector:
        return self._env._get_obs().astype(np.float32)  # type: ignore[no-any-return]

    def expert_action(self) -> Vector:
        return super().expert_action() if self._expert is None else self._expert(self.state())

    def judge(self) -> dict[str, Any]:
        return {"success": self._met > self._rule.steps}

    def close(self) -> None:
        self._env.close()
