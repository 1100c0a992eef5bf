"""Your own MuJoCo model as a task: `make("mjcf/arm.xml")`, with `arm.py` beside it to say what the task is.

    # arm.py
    from robovision.envs.mjcf import MjcfTask

    class Task(MjcfTask):
        control_timestep = 0.05

        def reset(self, model, data, random):
            data.joint("shoulder").qpos = random.uniform(-0.2, 0.2)

        def reward(self, model, data):
            return float(data.site("hand").xpos[2])

        def success(self, model, data):
            return data.site("hand").xpos[2] > 1.4

Without `arm.py` there is no reward, and the start is disturbed a little. `reset` begins from the model's first
keyframe or its zero position; forward kinematics are computed after it. `observation` replaces the proprioception,
`failure` ends the episode. Else it is as any task: `make("mjcf/arm.xml", horizon=200, cameras=("side",), size=84)`,
with 1000 steps and the model's first camera, or a view of the whole, unless you say otherwise; `make_vec` takes it too,
and `gymnasium.make("robovision/mjcf", path="arm.xml")`. Actions in -1..1 span the actuators' control ranges.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from robovision.envs.rendering import View  # first: it chooses the backend that mujoco reads

# isort: split
import mujoco
import numpy as np

from robovision.envs.mjcf_checked import CheckedTask
from robovision.envs.simulation import Joints, Scale, Simulation, Vector, unbounded
from robovision.envs.stability import Stability
from robovision.errors import UsageError

NOISE = 0.01
"""Greatest disturbance of each position and velocity at the start when the task says nothing about it."""


class MjcfTask:
    """What a model is for. Override what you need; each method sees MuJoCo's model and data."""

    control_timestep: float = 0.02
    """Seconds between two actions; rounded to whole steps of the model."""

    def reset(self, model: mujoco.MjModel, data: mujoco.MjData, random: np.random.Generator) -> None:
        """Set the start in `data`, from the model's first keyframe or zero position; a small disturbance here."""
        data.qpos += random.uniform(-NOISE, NOISE, model.nq)
        data.qvel += random.uniform(-NOISE, NOISE, model.nv)

    def observation(self, model: mujoco.MjModel, data: mujoco.MjData) -> Vector | None:
        """The proprioception, or None for positions and velocities of the joints that actuators move."""
        return None

    def reward(self, model: mujoco.MjModel, data: mujoco.MjData) -> float:
        """The reward of the step that has just been made; 0 here."""
        return 0.0

    def success(self, model: mujoco.MjModel, data: mujoco.MjData) -> bool | None:
        """Whether the task is solved in this state, or None if that is not defined."""
        return None

    def failure(self, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
        """Whether the episode ends here."""
        return False


class Mjcf(Simulation):
    """A model from an MJCF file. Actions in -1..1 are scaled to the controls' ranges.

    Raises:
        UsageError: if the file is missing or broken, with MuJoCo's message, which names the line; if the Python
            file beside it can't be run, has no class `Task`, or one that raises or gives something else than numbers
            and truths, with the file, the function and the value.
    """

    spectator = "0"

    def __init__(self, name: str) -> None:
        path = Path(name)
        self.model = _load(path)
        self.data = mujoco.MjData(self.model)
        file = path.with_suffix(".py")
        self._task = CheckedTask(_task(file), file, self.model, self.data)
        self._stability = Stability(self.data, self.unstable)
        self._substeps = max(1, round(self._task.control_timestep / self.model.opt.timestep))
        self.control_timestep = self._substeps * self.model.opt.timestep
        self.actions = self.model.nu
        limited = self.model.actuator_ctrllimited.astype(bool)
        low, high = self.model.actuator_ctrlrange.T
        self._scale = Scale(np.where(limited, low, -np.inf), np.where(limited, high, np.inf))
        self._joints = Joints(self.model, self.data)
        self.cameras = {} if self.model.ncam else {"0": _overview(self.model)}
        mujoco.mj_forward(self.model, self.data)
        own = self._task.observation()
        self.proprioception_space = self._joints.space if own is None else unbounded(np.size(own))
        self.state_space = unbounded(self.model.nq + self.model.nv)

    def reset(self, random: np.random.Generator) -> None:
        if self.model.nkey:
            mujoco.mj_resetDataKeyframe(self.model, self.data, 0)
        else:
            mujoco.mj_resetData(self.model, self.data)
        self._task.reset(random)
        mujoco.mj_forward(self.model, self.data)

    def step(self, action: Vector) -> tuple[float, bool]:
        self.data.ctrl[:] = self._scale(action)
        mujoco.mj_step(self.model, self.data, nstep=self._substeps)
        if self._stability.lost():  # the task need not cope with what is left
            return 0.0, False
        return self._task.reward(), self._task.failure()

    def proprioception(self) -> Vector:
        numbers = self._task.observation()
        if numbers is None:
            return self._joints.read()
        if numbers.shape != self.proprioception_space.shape:
            raise UsageError(
                f"observation() gave {self.proprioception_space.shape[0]} numbers at first, now {len(numbers)}"
            )
        return numbers

    def state(self) -> Vector:
        return np.concatenate([self.data.qpos, self.data.qvel], dtype=np.float32)

    def judge(self) -> dict[str, Any]:
        success = self._task.success()
        return {} if success is None else {"success": success}


def _load(path: Path) -> mujoco.MjModel:
    if not path.is_file():
        raise UsageError(f"there is no MJCF file {path}")
    try:
        return mujoco.MjModel.from_xml_path(str(path))
    except ValueError as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())}") from error


def _task(path: Path) -> type[MjcfTask]:
    """The class of the task that the Python file defines; one without reward if there is no file."""
    if not path.is_file():
        return MjcfTask
    spec = importlib.util.spec_from_file_location(f"robovision_mjcf_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's file may raise
        raise UsageError(f"{path} can't be run: {type(error).__name__}: {error}") from error
    task = getattr(module, "Task", None)
    if not (isinstance(task, type) and issubclass(task, MjcfTask)):
        raise UsageError(f"{path} must define `class Task(MjcfTask)`; see robovision.envs.mjcf")
    return task


def _overview(model: mujoco.MjModel) -> View:
    """MuJoCo's own first view of a model without cameras."""
    camera = mujoco.MjvCamera()
    mujoco.mjv_defaultFreeCamera(model, camera)
    x, y, z = (float(value) for value in camera.lookat)
    return View((x, y, z), float(camera.distance), float(camera.azimuth), float(camera.elevation))
