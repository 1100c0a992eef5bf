"""A simulation that is seen through cameras: the environment that every family shares."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from robovision.envs.gymnasium_ids import env_spec
from robovision.envs.lidar import MountedLidar, check_mount, parse_mount
from robovision.envs.registry import EnvOptions, check_seed
from robovision.envs.rendering import SHOWN, Camera, Renderer, View, farthest, find_camera
from robovision.envs.simulation import Simulation
from robovision.envs.stability import Stability
from robovision.envs.tasks import DRAWN
from robovision.errors import UsageError, unknown

Observation = dict[str, NDArray[Any]]
Action = NDArray[np.float32]
SPECTATOR_SIZE = 192
VIEW = ("lookat", "distance", "azimuth", "elevation")
"""The parts of a free view."""


class PixelEnv(gymnasium.Env[Observation, Action]):
    """One task, made by `make`; with `render=False` it knows its spaces but can't be reset.

    `info["success"]` says whether the task counts as solved at this step, `info["score"]` is the share of the
    greatest return so far (DMC); a task without either is judged by its return. The episode goes on to the
    horizon unless the simulator ends it. Every reset draws a fresh start; `reset(seed=...)` repeats one.

    Where MuJoCo's physics blows up the episode is truncated with the reason in `info["physics_error"]`: the observation
    is the one before, the step adds no reward, and the episode is no success.

    Raises:
        UsageError: for an unknown camera or LiDAR, an action of wrong shape or with NaN, a seed that is none, and for
            stepping after the end.
    """

    observation_space: spaces.Dict  # type: ignore[assignment]
    action_space: spaces.Box  # type: ignore[assignment]
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self, task: str, simulation: Simulation, options: EnvOptions, *, render: bool = True) -> None:
        self.task = task
        self.options = options
        self.spec = env_spec(task, options)
        self.metadata = {**self.metadata, "render_fps": 1 / (simulation.control_timestep * options.frame_skip)}
        self._simulation = simulation
        self._steps = 0
        self._over = True
        self._stability = Stability(simulation.data, simulation.unstable)
        self._last: Observation = {}
        self._judged: dict[str, Any] = {}
        self._spectator: Renderer | None = None
        self._cameras = {self._suffix(k, name): self._find(name) for k, name in enumerate(options.cameras)}
        if len(self._cameras) < len(options.cameras):
            raise UsageError(f"two of the cameras would have the same name: {'; '.join(options.cameras)}")
        if not options.show_goal:
            simulation.hide_goal()
        draws = render and any(self._is_drawn(item) for item in options.observe)
        self._renderer = self._make_renderer(options.size) if draws else None
        self._lidar = self._make_lidar()
        self._readers = dict(self._read(item, suffix) for item in options.observe for suffix in self._views(item))
        self._stacks: dict[str, deque[NDArray[Any]]] = {}
        self.boxes = {name: self._space(name) for name in self._readers}
        self.observation_space = spaces.Dict(dict(self.boxes))
        self.action_space = spaces.Box(-1.0, 1.0, (simulation.actions,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=check_seed(seed))
        self._stability.clear()
        self._simulation.reset(self.np_random)
        if self._stability.lost():
            raise UsageError(f"{self.task} can't begin: {self._stability.reason()}")
        self._steps = 0
        self._over = False
        self._stacks.clear()
        for renderer in (self._renderer, self._spectator):
            if renderer is not None and self._simulation.model.nhfield:
                renderer.upload_heights()
        self._last, self._judged = self._observe(), self._simulation.judge()
        return self._last, dict(self._judged)

    def step(self, action: Action) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        if self._over:
            raise UsageError("the episode is over, or has not begun: call reset() before step()")
        action = check_action(action, self._simulation.actions)
        simulation, options = self._simulation, self.options
        total = 0.0
        for _ in range(options.frame_skip):
            reward, terminated = simulation.step(action)
            if self._stability.lost():
                return self._break_off(total)
            total += reward
            if terminated:
                break
        self._steps += 1
        truncated = self._steps >= options.horizon
        self._over = truncated or terminated
        self._last, self._judged = self._observe(), simulation.judge()
        return self._last, total, terminated, truncated, dict(self._judged)

    def _break_off(self, total: float) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        """The end of an episode whose state is lost."""
        self._over = True
        info = {**self._judged, **({"success": False} if "success" in self._judged else {})}
        observation = {name: value.copy() for name, value in self._last.items()}
        return observation, total, False, True, {**info, "physics_error": self._stability.reason()}

    def expert_action(self) -> Action:
        """What the task's expert does in the present state; UsageError for a task without one."""
        return self._simulation.expert_action()

    def state(self) -> NDArray[np.float32]:
        """What the simulator itself gives as observation, float32 [S], whatever `observe` says."""
        return self._simulation.state()

    def render(self) -> NDArray[np.uint8]:
        """The scene as a spectator sees it, uint8 [192, 192, 3], for videos."""
        if self._spectator is None:
            self._spectator = self._make_renderer(SPECTATOR_SIZE)
        camera = self._find(self._simulation.spectator, crop=1.0)
        return self._spectator.pixels(self._simulation.data, camera).transpose(1, 2, 0)

    def close(self) -> None:
        """Frees the OpenGL contexts and the simulator."""
        for renderer in (self._renderer, self._spectator):
            if renderer is not None:
                renderer.close()
        self._simulation.close()

    def _observe(self) -> Observation:
        observation = {}
        for name, read in self._readers.items():  # quicker than a comprehension, which is a call of its own
            observation[name] = read()
        return observation

    def _find(self, name: str, crop: float | None = None) -> Camera:
        simulation, model = self._simulation, self._simulation.model
        crop = simulation.crop if crop is None else crop
        if name in simulation.cameras:
            return find_camera(model, simulation.cameras[name], crop)
        if "=" in name:
            return find_camera(model, parse_view(name), crop)
        names = [model.camera(k).name for k in range(model.ncam)]
        if name.isdigit() and int(name) < len(names):
            return Camera(int(name), crop)
        upright = [f"{inverted}_upright" for inverted in simulation.inverted]
        if name in upright:
            return Camera(names.index(name.removesuffix("_upright")), crop, turned=True)
        if name not in names:
            raise unknown("camera", name, ["default", *simulation.cameras, *names, *upright])
        return find_camera(model, name, crop)

    def _suffix(self, number: int, camera: str) -> str:
        """What the first camera, and any other, adds to the name of what it sees."""
        if number == 0:
            return ""
        return f"_view{number}" if "=" in camera else f"_{camera}"

    def _views(self, item: str) -> tuple[str, ...]:
        return tuple(self._cameras) if self._is_drawn(item) else ("",)

    @staticmethod
    def _is_drawn(item: str) -> bool:
        return item in DRAWN

    def _read(self, item: str, suffix: str) -> tuple[str, Callable[[], NDArray[Any]]]:
        """The name of an entry of the observation, and what reads it."""
        simulation = self._simulation
        if item == "proprioception":
            return item, simulation.proprioception
        if item == "state":
            return item, simulation.state
        if self._lidar is not None and item == "lidar":
            lidar = self._lidar
            return item, lambda: lidar.read(simulation.data, self.np_random)
        render: Callable[..., NDArray[Any]] = getattr(self._renderer, item, _not_drawn)
        camera, name = self._cameras[suffix], item + suffix
        if item == "pixels" and self.options.frame_stack > 1:
            return name, lambda: self._stack(name, render(simulation.data, camera))
        return name, lambda: render(simulation.data, camera)

    def _stack(self, name: str, image: NDArray[Any]) -> NDArray[Any]:
        """The last images one after another along the channels, oldest first."""
        count = self.options.frame_stack
        frames = self._stacks.setdefault(name, deque([image] * count, maxlen=count))
        frames.append(image)
        return np.concatenate(frames)

    def _space(self, name: str) -> spaces.Box:
        size = self.options.size
        if name == "proprioception":
            return self._simulation.proprioception_space
        if name == "state":
            return self._simulation.state_space
        if self._lidar is not None and name == "lidar":
            return self._lidar.space
        if name.startswith("pixels"):
            return spaces.Box(0, 255, (3 * self.options.frame_stack, size, size), np.uint8)
        if name.startswith("depth"):
            return spaces.Box(0, farthest(self._simulation.model), (1, size, size), np.float32)
        return spaces.Box(-1, np.iinfo(np.int32).max, (2, size, size), np.int32)

    def _make_lidar(self) -> MountedLidar | None:
        simulation = self._simulation
        mount = parse_mount(self.options.lidar, simulation.mount)
        if "lidar" not in self.options.observe:
            check_mount(simulation.model, mount)
            return None
        return MountedLidar(simulation.model, mount, simulation.geomgroups or SHOWN)

    def _make_renderer(self, size: int) -> Renderer:
        simulation = self._simulation
        return Renderer(
            simulation.model,
            size,
            self.options.preset,
            geomgroups=simulation.geomgroups,
            rangefinders=simulation.rangefinders,
            mirrors=simulation.mirrors,
        )


def check_action(action: Action, size: int) -> Action:
    """The action as float32 within -1..1, or UsageError if it is not [size] finite numbers, naming the index."""
    try:
        action = np.asarray(action, np.float32)
    except (TypeError, ValueError) as error:
        raise UsageError(f"an action must be {size} numbers, got {action!r}") from error
    if action.shape != (size,):
        raise UsageError(f"an action must have shape ({size},), got {action.shape}")
    for number in action.tolist():  # for so few Python is quicker than NumPy
        if not -1.0 <= number <= 1.0:
            return _clipped(action)
    return action


def _clipped(action: Action) -> Action:
    """The action within -1..1, or UsageError if it is not finite."""
    bad = np.flatnonzero(~np.isfinite(action))
    if len(bad):
        raise UsageError(f"action[{bad[0]}] is {action[bad[0]]}: actions must be finite")
    return action.clip(-1, 1)


def _not_drawn(data: object, camera: Camera) -> NDArray[Any]:
    raise UsageError("this environment was made without rendering")


def parse_view(text: str) -> View:
    """A free view from text.

    >>> parse_view("lookat=0,0.6,0 distance=0.67 azimuth=-90 elevation=-63")
    View(lookat=(0.0, 0.6, 0.0), distance=0.67, azimuth=-90.0, elevation=-63.0)

    Raises:
        UsageError: if it is written otherwise.
    """
    parts = dict(part.partition("=")[::2] for part in text.split())
    missing = [name for name in VIEW if name not in parts]
    wrong = [f"{name!r} is not a part of it" for name in parts if name not in VIEW]
    wrong += [f"{', '.join(missing)} is missing"] if missing else []
    try:
        x, y, z = (float(value) for value in parts.get("lookat", "0,0,0").split(","))
        view = View((x, y, z), *(float(parts.get(name, 1)) for name in VIEW[1:]))
    except ValueError as error:
        wrong.append(str(error))
    if wrong:
        example = "lookat=0,0.6,0 distance=0.67 azimuth=-90 elevation=-63"
        raise UsageError(f"the free view {text!r} is not written like {example!r}: {'; '.join(wrong)}")
    if not (all(map(math.isfinite, (*view.lookat, view.azimuth, view.elevation))) and 0 < view.distance < math.inf):
        raise UsageError(f"the free view {text!r} needs finite numbers and a distance over 0")
    return view
