"""Gymnasium's MuJoCo tasks, version 5."""

from __future__ import annotations

import importlib
from typing import Any

from robovision.envs.rendering import View  # first: it chooses the backend that mujoco reads

# isort: split
import mujoco
import numpy as np
from numpy.typing import NDArray

from robovision.envs.simulation import Joints, Scale, Simulation, Vector, unbounded

FELT = ("ant", "humanoid", "humanoid-standup")
"""Tasks with the forces of contacts in their observation."""


class GymnasiumMujoco(Simulation):
    """A task such as `half-cheetah`, with Gymnasium's own reward and end.

    Proprioception: positions, then velocities, of the joints that the actuators move. State: Gymnasium's
    observation. Camera `track`: the one that Gymnasium itself renders from.
    """

    spectator = "track"

    def __init__(self, name: str) -> None:
        words = name.split("-")
        module = importlib.import_module(f"gymnasium.envs.mujoco.{_module(words)}_v5")
        self._env = getattr(module, "".join(word.capitalize() for word in words) + "Env")()
        self.model, self.data = self._env.model, self._env.data
        self._control, self._felt = self.data.ctrl, name in FELT
        self._env.do_simulation = self._simulate
        self.control_timestep = self._env.dt
        space = self._env.action_space
        self.actions = space.shape[0]
        self._scale = Scale(space.low.astype(np.float64), space.high.astype(np.float64))
        self._joints = Joints(self.model, self.data)
        self.proprioception_space = self._joints.space
        self.state_space = unbounded(self._env.observation_space.shape[0])
        names = [self.model.camera(k).name for k in range(self.model.ncam)]
        self.cameras = {} if "track" in names else {"track": self._free_view()}

    def reset(self, random: np.random.Generator) -> None:
        self._env.np_random = random  # the start is then Gymnasium's own of the same seed, and nothing is seeded anew
        self._env.reset()

    def step(self, action: Vector) -> tuple[float, bool]:
        _, reward, terminated, _, _ = self._env.step(self._scale(action))
        return float(reward), bool(terminated)

    def proprioception(self) -> Vector:
        return self._joints.read()

    def state(self) -> Vector:
        return self._env._get_obs().astype(np.float32)  # type: ignore[no-any-return]

    def close(self) -> None:
        self._env.close()

    def _simulate(self, control: NDArray[np.float64], frames: int) -> None:
        """Gymnasium's `do_simulation`; the forces of contacts, which move nothing, are worked out only where felt."""
        self._control[:] = control
        mujoco.mj_step(self.model, self.data, frames)
        if self._felt:
            mujoco.mj_rnePostConstraint(self.model, self.data)

    def _free_view(self) -> View:
        """Where Gymnasium looks from when the model has no camera of that name."""
        config: dict[str, Any] = {
            "lookat": np.median(self.data.geom_xpos, axis=0),
            "distance": self.model.stat.extent,
            "azimuth": 90.0,
            "elevation": -45.0,
        }
        config |= self._env.mujoco_renderer.default_cam_config or {}
        x, y, z = (float(value) for value in config["lookat"])
        return View((x, y, z), float(config["distance"]), float(config["azimuth"]), float(config["elevation"]))


def _module(words: list[str]) -> str:
    """Gymnasium joins the words of `humanoid-standup` alone."""
    return "humanoidstandup" if words == ["humanoid", "standup"] else "_".join(words)
