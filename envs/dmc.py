"""The DeepMind Control Suite (Tassa et al., 2018), every task that dm_control has."""

from __future__ import annotations

from typing import Any

import robovision.envs.rendering  # noqa: F401  first: it chooses the backend that mujoco reads

# isort: split
import numpy as np
from dm_control import suite
from dm_control.rl.control import PhysicsError
from dm_control.suite import quadruped

from robovision.envs import experts
from robovision.envs.context import keep_display
from robovision.envs.simulation import Joints, Scale, Simulation, Vector, unbounded
from robovision.envs.stability import INACCURATE, UNSTABLE

keep_display()

EPISODE = 1000.0
"""The greatest return of an episode of 1000 control steps: rewards lie in 0..1."""


def _sensor_names(physics: quadruped.Physics, *types: int) -> list[str]:
    """Names of the sensors of these types, in the model's order."""
    found = np.flatnonzero(np.isin(physics.model.sensor_type, types))
    return [physics.model.id2name(int(k), "sensor") for k in found]


quadruped.Physics._get_sensor_names = _sensor_names  # dm_control 1.0.28 calls np.in1d, which numpy 2.4 took away


class ControlSuite(Simulation):
    """A task of the suite, such as `walker-walk`.

    Proprioception: positions, then velocities, of the joints that the actuators move. State: dm_control's
    observation, its arrays one after another. Score: the return so far over 1000, the field's measure.
    """

    cameras = {}  # noqa: RUF012
    spectator = "0"
    rangefinders = False
    unstable = (*INACCURATE, *UNSTABLE)
    """As dm_control has it."""

    def __init__(self, name: str) -> None:
        domain, task = name.split("-", 1)
        env = suite.load(domain, task, task_kwargs={"random": 0, "time_limit": float("inf")})
        self._physics, self._task = env.physics, env.task
        self.control_timestep = env.control_timestep()
        self._substeps = round(self.control_timestep / env.physics.timestep())
        self.model, self.data = env.physics.model.ptr, env.physics.data.ptr
        spec = env.action_spec()
        self.actions = spec.shape[0]
        self._scale = Scale(*np.broadcast_arrays(spec.minimum, spec.maximum))
        self._joints = Joints(self.model, self.data)
        self.proprioception_space = self._joints.space
        self.state_space = unbounded(len(self.state()))
        self._expert = experts.find(f"dmc/{name}")
        self._return = 0.0

    def reset(self, random: np.random.Generator) -> None:
        self._task._random = np.random.RandomState(random.integers(2**31))
        with self._physics.reset_context():
            self._task.initialize_episode(self._physics)
        self._return = 0.0

    def step(self, action: Vector) -> tuple[float, bool]:
        self._task.before_step(self._scale(action), self._physics)
        try:
            self._physics.step(self._substeps)
        except PhysicsError:  # the environment sees it too, and says so
            return 0.0, False
        self._task.after_step(self._physics)
        reward = float(self._task.get_reward(self._physics))
        self._return += reward
        return reward, self._task.get_termination(self._physics) is not None

    def proprioception(self) -> Vector:
        return self._joints.read()

    def state(self) -> Vector:
        values = self._task.get_observation(self._physics).values()
        return np.concatenate([np.ravel(value) for value in values], dtype=np.float32)

    def expert_action(self) -> Vector:
        """What the shipped expert does; it was trained to hold each action for two control steps."""
        return super().expert_action() if self._expert is None else self._expert(self.state())

    def judge(self) -> dict[str, Any]:
        return {"score": self._return / EPISODE}
