"""`lidar/navigate`: a robot on two wheels reaches a goal among obstacles that stand and move; every episode is new."""

from __future__ import annotations

import math
from typing import Any

from robovision.envs.rendering import View  # first: it chooses the backend that mujoco reads

# isort: split
import mujoco
import numpy as np
from gymnasium import spaces

from robovision.envs import navigate_scene as scene
from robovision.envs.lidar import Mount
from robovision.envs.navigate_expert import Planner
from robovision.envs.navigate_model import mjcf
from robovision.envs.simulation import Simulation, Vector, unbounded

SPEED, TURN = 1.0, 2.0
"""Metres and radians a second at an action of 1."""
WHEEL, TRACK = 0.1, 0.2
"""Metres: radius of the wheels, and half of the distance between them."""
LOOKS, SUBSTEPS = 5, 2
"""How often a step looks for touches, and the simulator's steps before each."""
REACHED, COLLIDED, WAITING = 10.0, -5.0, -0.02
"""Rewards of the goal, of a collision, and of every step; on top come the metres by which the goal gets nearer."""
BOUND = np.array([20.0, 20.0, 3.0, 10.0], np.float32)


class Navigate(Simulation):
    """The task. It ends when the robot reaches the goal, and when it touches anything but the floor.

    Actions: forward speed and turn rate (counter-clockwise), as shares of 1 m/s and 2 rad/s; wheels with limited
    force follow them. Proprioception: float32 [4], the goal ahead and to the left of the robot, metres; forward
    speed, metres a second; turn rate, radians a second. State: the robot's place, heading (cosine, sine) and
    speeds, the goal, the movers' places and velocities, the obstacles' places and sizes, the walls.

    Reward: metres nearer to the goal, -0.02 a step, 10 for the goal, -5 for a collision. `info` has `success` and
    `collision`.
    """

    actions = 2
    cameras = {"spectator": View((0.0, 0.0, 0.0), 14.5, 60.0, -50.0)}  # noqa: RUF012
    spectator = "spectator"
    mount = Mount("planar", "lidar")

    def __init__(self, name: str) -> None:
        self.model = mujoco.MjModel.from_xml_string(mjcf())
        self.data = mujoco.MjData(self.model)
        self.control_timestep = LOOKS * SUBSTEPS * self.model.opt.timestep
        self.proprioception_space = spaces.Box(-BOUND, BOUND)
        self.state_space = unbounded(10 + 4 * scene.MOVING + 4 * scene.STATIC)
        names = [self.model.body(k).name for k in range(self.model.nbody)]
        self._mocap = {name: self.model.body_mocapid[k] for k, name in enumerate(names) if name}
        self._movers = [self._mocap[f"mover{k}"] for k in range(scene.MOVING)]
        self._robot = np.isin(self.model.geom_bodyid, [names.index(part) for part in ("robot", "left", "right")])
        self._floor = self.model.geom("floor").id
        self._layout = scene.make_layout(np.random.default_rng(0))
        self._planner: Planner | None = None
        self._success = self._collision = False
        self._distance = 0.0

    def reset(self, random: np.random.Generator) -> None:
        self._layout = layout = scene.make_layout(random)
        self._planner = None
        self._success = self._collision = False
        mujoco.mj_resetData(self.model, self.data)
        for k in range(scene.STATIC):
            self._resize(f"obstacle{k}", layout.size[k], layout.height[k])
            self._put(f"obstacle{k}", (*layout.place[k], layout.height[k]), layout.turn[k])
        for k, place in enumerate(scene.wall_places(layout.half)):
            self._put(f"wall{k}", place)
        self._put("goal", (*layout.goal, 0.01))
        self._move()
        x, y, yaw = layout.start
        self.data.qpos[:7] = (x, y, 0.0, *scene.yaw_quaternion(yaw))
        mujoco.mj_forward(self.model, self.data)
        self._distance = self._to_goal()

    def step(self, action: Vector) -> tuple[float, bool]:
        forward, turn = SPEED * float(action[0]), TURN * float(action[1])
        self.data.ctrl[:] = ((forward - TRACK * turn) / WHEEL, (forward + TRACK * turn) / WHEEL)
        for _ in range(LOOKS):  # a touch may be over before the step is
            mujoco.mj_step(self.model, self.data, nstep=SUBSTEPS)
            self._move()
            self._collision = self._collision or self._touches()
        mujoco.mj_kinematics(self.model, self.data)  # observations see where things are now
        before, self._distance = self._distance, self._to_goal()
        self._success = not self._collision and self._distance < scene.GOAL
        reward = before - self._distance + WAITING + REACHED * self._success + COLLIDED * self._collision
        return reward, self._success or self._collision

    def proprioception(self) -> Vector:
        x, y, yaw = self.pose()
        ahead, left = self._layout.goal - (x, y)
        cos, sin = math.cos(yaw), math.sin(yaw)
        numbers = np.array([cos * ahead + sin * left, cos * left - sin * ahead, *self._speeds()], np.float32)
        return np.clip(numbers, -BOUND, BOUND)

    def state(self) -> Vector:
        x, y, yaw = self.pose()
        layout, time = self._layout, self.data.time
        parts = (
            (x, y, math.cos(yaw), math.sin(yaw), *self._speeds()),
            layout.goal,
            layout.movers(time).ravel(),
            (layout.movers(time + 1e-3) - layout.movers(time)).ravel() / 1e-3,
            layout.place.ravel(),
            layout.size.ravel(),
            layout.half,
        )
        return np.concatenate(parts, dtype=np.float32)

    def judge(self) -> dict[str, Any]:
        return {"success": self._success, "collision": self._collision}

    def expert_action(self) -> Vector:
        """What the planner does, which knows the layout and how everything will move."""
        if self._planner is None:
            self._planner = Planner(self._layout, SPEED, TURN)
        return self._planner(np.array(self.pose()), self.data.time)

    def hide_goal(self) -> None:
        self.model.site_rgba[[self.model.site(name).id for name in ("goal", "goal_beam")], 3] = 0.0

    def pose(self) -> tuple[float, float, float]:
        """The robot's x and y, metres, and yaw, radians, counter-clockwise from x."""
        ahead = self.data.body("robot").xmat.reshape(3, 3)[:, 0]
        x, y, _ = self.data.qpos[:3]
        return float(x), float(y), math.atan2(ahead[1], ahead[0])

    def _speeds(self) -> tuple[float, float]:
        """Forward speed and turn rate."""
        yaw = self.pose()[2]
        x, y = self.data.qvel[:2]
        return math.cos(yaw) * x + math.sin(yaw) * y, float(self.data.qvel[5])

    def _to_goal(self) -> float:
        return float(np.linalg.norm(self.data.qpos[:2] - self._layout.goal))

    def _touches(self) -> bool:
        pairs = self.data.contact.geom[: self.data.ncon]
        mine = self._robot[pairs]
        return bool(((mine[:, 0] != mine[:, 1]) & (pairs != self._floor).all(axis=1)).any())

    def _move(self) -> None:
        """Put the movers where they are now."""
        self.data.mocap_pos[self._movers, :2] = self._layout.movers(self.data.time)

    def _put(self, name: str, place: Any, yaw: float = 0.0) -> None:
        self.data.mocap_pos[self._mocap[name]] = place
        self.data.mocap_quat[self._mocap[name]] = scene.yaw_quaternion(yaw)

    def _resize(self, name: str, size: Any, height: float) -> None:
        """Give an obstacle its size; collisions need the sphere and the box around it too."""
        geom = self.model.geom(name)
        box = geom.type[0] == mujoco.mjtGeom.mjGEOM_BOX
        geom.size[:] = (*size, height) if box else (size[0], height, 0)
        half = np.array([size[0], size[1], height])
        self.model.geom_aabb[geom.id, 3:] = half
        self.model.geom_rbound[geom.id] = np.linalg.norm(half if box else half[1:])
