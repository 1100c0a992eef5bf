"""What a family of simulators provides: a MuJoCo model that is reset and stepped. Cameras come on top."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from robovision.envs.lidar import Mount
from robovision.envs.rendering import View  # first: it chooses the backend that mujoco reads

# isort: split
import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from robovision.envs.stability import UNSTABLE
from robovision.errors import UsageError

Vector = NDArray[np.float32]
SOFT = 1.5
"""MuJoCo's joint limits are springs: a joint may be pushed beyond its range by so many ranges, in Adroit's door by
1.1; positions further out are cut off."""
FAR = 1e3
"""Bound of joints without limits, in radians or metres, and of velocities; what lies beyond is cut off."""
LARGE = 1e10
"""Bound of numbers that have none: Gymnasium's checker asks for one."""


class Simulation(ABC):
    """One simulated task.

    Attributes:
        model, data: MuJoCo's.
        actions: numbers of an action.
        control_timestep: seconds of one control step.
        proprioception_space, state_space: bounds of what `proprioception` and `state` return.
        cameras: free views by name, on top of those of the model.
        inverted: cameras of the model that hang upside down; each also has an upright picture, `NAME_upright`.
        crop: share of a picture's width, in the middle, that the field's protocol keeps.
        spectator: the view of videos; a name of the model's cameras, of `cameras`, or a number.
        mount: the LiDAR that the robot carries unless another is asked for.
        geomgroups, rangefinders, mirrors: what the simulator's own pictures show; see `Renderer`.
        unstable: MuJoCo's warnings that mean that its physics has blown up, which ends the episode.
    """

    model: mujoco.MjModel
    data: mujoco.MjData
    actions: int
    control_timestep: float
    proprioception_space: spaces.Box
    state_space: spaces.Box
    cameras: dict[str, View]
    inverted: tuple[str, ...] = ()
    crop: float = 1.0
    spectator: str
    mount: Mount = Mount()
    geomgroups: tuple[int, ...] | None = None
    rangefinders: bool = True
    mirrors: bool = True
    unstable: tuple[mujoco.mjtWarning, ...] = UNSTABLE

    @abstractmethod
    def reset(self, random: np.random.Generator) -> None:
        """Begin an episode that depends on `random` alone."""

    @abstractmethod
    def step(self, action: Vector) -> tuple[float, bool]:
        """One control step with an action in -1..1: its reward, and whether the episode has ended by itself.

        The action may be the caller's own array: it is neither changed nor kept.
        If the physics blows up meanwhile, what is returned doesn't count.
        """

    @abstractmethod
    def proprioception(self) -> Vector:
        """What the robot feels of itself, float32 [P]."""

    @abstractmethod
    def state(self) -> Vector:
        """What the simulator itself would give as observation, float32 [S]."""

    def judge(self) -> dict[str, Any]:
        """`success` or `score` of the episode as it stands, for the tasks that define one."""
        return {}

    def expert_action(self) -> Vector:
        """What the task's expert would do now, float32 [A] in -1..1."""
        raise UsageError("this task has no expert; `robovision demos --list` says which have one")

    def hide_goal(self) -> None:
        """Leave the mark at the goal out of the pictures."""
        raise UsageError("show_goal=False is for MetaWorld's tasks; this one draws no mark")

    def close(self) -> None:  # noqa: B027  most have nothing to free
        """Free what the simulator holds."""


class Joints:
    """Positions and velocities of the hinges and slides that actuators move: a robot's proprioception.

    Positions lie within the joints' limits, widened because MuJoCo's limits are soft; radians and metres.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        simple = np.isin(model.jnt_type, (mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE))
        joints = np.array([k for k in driven_joints(model) if simple[k]], int)
        if not len(joints):
            joints = np.flatnonzero(simple)
        self._positions = _picked(data.qpos, model.jnt_qposadr[joints])
        self._velocities = _picked(data.qvel, model.jnt_dofadr[joints])
        self._numbers = np.empty(2 * len(joints), np.float32)
        self._first, self._second = self._numbers[: len(joints)], self._numbers[len(joints) :]
        low, high = position_bounds(model, joints)
        fast = np.full(len(joints), FAR, np.float32)
        self._low, self._high = np.concatenate([low, -fast]), np.concatenate([high, fast])
        self.space = spaces.Box(self._low, self._high)

    def read(self) -> Vector:
        """The numbers in the present state, float32 [2 J]."""
        self._first[:] = self._positions()
        self._second[:] = self._velocities()
        within: Vector = np.minimum(np.maximum(self._numbers, self._low), self._high)  # quicker than np.clip
        return within


def position_bounds(model: mujoco.MjModel, joints: NDArray[np.int_]) -> tuple[Vector, Vector]:
    """The least and greatest position of hinges and slides."""
    low, high = model.jnt_range[joints].T
    soft = SOFT * (high - low)
    limited = model.jnt_limited[joints].astype(bool)
    bounds = np.where(limited, (low - soft, high + soft), ((-FAR,), (FAR,))).astype(np.float32)
    return bounds[0], bounds[1]


def _picked(numbers: NDArray[np.float64], places: NDArray[np.int_]) -> Callable[[], NDArray[np.float64]]:
    """What reads the numbers at these places; where they follow each other it is always the same view."""
    first = int(places[0]) if len(places) else 0
    if (places == first + np.arange(len(places))).all():
        view = numbers[first : first + len(places)]
        return lambda: view
    return lambda: numbers[places]


def driven_joints(model: mujoco.MjModel) -> list[int]:
    """Numbers of the joints that actuators move, themselves or by a tendon, in the model's order."""
    joints: set[int] = set()
    for kind, (target, _) in zip(model.actuator_trntype, model.actuator_trnid, strict=True):
        if kind in (mujoco.mjtTrn.mjTRN_JOINT, mujoco.mjtTrn.mjTRN_JOINTINPARENT):
            joints.add(int(target))
        elif kind == mujoco.mjtTrn.mjTRN_TENDON:
            first, count = model.tendon_adr[target], model.tendon_num[target]
            wraps = range(first, first + count)
            joints |= {int(model.wrap_objid[k]) for k in wraps if model.wrap_type[k] == mujoco.mjtWrap.mjWRAP_JOINT}
    return sorted(joints)


class Scale:
    """Actions in -1..1 as the actuators' controls; where a control has no limit the action is the control."""

    def __init__(self, low: NDArray[Any], high: NDArray[Any]) -> None:
        bounded = (np.abs(low) < 1e6) & (np.abs(high) < 1e6)
        low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
        self._middle, self._half = (low + high) / 2, (high - low) / 2
        self._centred = bool((self._middle == 0).all())

    def __call__(self, action: Vector) -> NDArray[np.float64]:
        scaled: NDArray[np.float64] = self._half * action
        return scaled if self._centred else self._middle + scaled


def unbounded(size: int) -> spaces.Box:
    """The space of float32 [size] without known bounds."""
    return spaces.Box(-LARGE, LARGE, (size,), np.float32)
