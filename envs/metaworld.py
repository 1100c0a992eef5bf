"""MetaWorld's tasks (Yu et al., CoRL 2019) from pixels, with fresh goals from any seed."""

from __future__ import annotations

from typing import Any, SupportsFloat

from robovision.envs.rendering import (
    CROP,
    Renderer,
    View,
    find_camera,
)  # first: it chooses the backend that mujoco reads

# isort: split
import gymnasium
import numpy as np
from gymnasium import spaces
from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE
from metaworld.policies import ENV_POLICY_MAP
from numpy.typing import NDArray

from robovision.envs.registry import EnvOptions
from robovision.envs.tasks import MAX_HORIZON
from robovision.errors import UsageError

Observation = dict[str, NDArray[Any]]
Action = NDArray[np.float32]

TOP_CAP2 = View(lookat=(0.0, 0.6, 0.0), distance=0.6708, azimuth=-90.0, elevation=-63.435)
"""CortexBench's camera `top_cap2`, which MetaWorld itself does not have."""
SPECTATOR = View(lookat=(0.0, 0.68, 0.1), distance=1.25, azimuth=130.0, elevation=-28.0)
"""A view of the whole arm, for videos."""
SPECTATOR_SIZE = 192


class MetaWorldEnv(gymnasium.Env[Observation, Action]):
    """A MetaWorld task that is seen through a camera.

    Observation: `pixels`, uint8 [3, size, size], RGB, and `proprioception`, float32 [4]: the hand's x, y, z
    in metres and the gripper's opening in 0..1. Action: float32 [4] in -1..1, the hand's displacement and the
    gripper's effort. `info["success"]` says whether the task is solved at this step; the episode goes on to
    the horizon. Every reset draws a fresh goal; `reset(seed=...)` repeats one.

    Raises:
        UsageError: for an unknown camera, a horizon over 500 steps, an action of wrong shape or with NaN, and
            for stepping after the end.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self, name: str, options: EnvOptions) -> None:
        if options.horizon > MAX_HORIZON:
            raise UsageError(f"MetaWorld's episodes end after {MAX_HORIZON} steps, got horizon {options.horizon}")
        self.options = options
        self._env = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{name}-v3-goal-observable"]()
        self._env._freeze_rand_vec = False
        self._env.seeded_rand_vec = True
        self._expert = ENV_POLICY_MAP[f"{name}-v3"]()
        self._state = np.zeros(39)
        self._steps = 0
        self._over = True
        view = TOP_CAP2 if options.camera == "default" else options.camera
        self._camera = find_camera(self._env.model, view, CROP)
        self._renderer = Renderer(self._env.model, options.size, options.preset)
        self._spectator: Renderer | None = None
        bounds = self._env.sawyer_observation_space
        self.observation_space = spaces.Dict(  # type: ignore[assignment]
            pixels=spaces.Box(0, 255, (3, options.size, options.size), np.uint8),
            proprioception=spaces.Box(bounds.low[:4].astype(np.float32), bounds.high[:4].astype(np.float32)),
        )
        self.action_space = spaces.Box(-1.0, 1.0, (4,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self._env.seed(int(self.np_random.integers(2**31)))
        self._state, _ = self._env.reset()
        self._steps = 0
        self._over = False
        return self._observe(), {"success": False}

    def step(self, action: Action) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        if self._over:
            raise UsageError("the episode is over, or has not begun: call reset() before step()")
        self._state, reward, terminated, _, info = self._env.step(check_action(action, 4))
        self._steps += 1
        truncated = self._steps >= self.options.horizon
        self._over = truncated or terminated
        return self._observe(), float(reward), terminated, truncated, {"success": bool(info["success"])}

    def expert_action(self) -> Action:
        """What MetaWorld's scripted policy does in the present state, within the bounds of an action."""
        action: Action = np.clip(self._expert.get_action(self._state), -1.0, 1.0).astype(np.float32)
        return action

    def render(self) -> NDArray[np.uint8]:
        """The whole arm from a spectator's place, uint8 [192, 192, 3], for videos."""
        if self._spectator is None:
            self._spectator = Renderer(self._env.model, SPECTATOR_SIZE, self.options.preset)
        view = find_camera(self._env.model, SPECTATOR)
        return self._spectator.pixels(self._env.data, view).transpose(1, 2, 0)

    def close(self) -> None:
        """Frees the OpenGL contexts."""
        self._renderer.close()
        if self._spectator is not None:
            self._spectator.close()
        self._env.close()

    def _observe(self) -> Observation:
        return {
            "pixels": self._renderer.pixels(self._env.data, self._camera),
            "proprioception": self._state[:4].astype(np.float32),
        }


def check_action(action: Action, size: int) -> Action:
    """The action as float32, or UsageError if it is not [size] finite numbers, naming the index."""
    action = np.asarray(action, np.float32)
    if action.shape != (size,):
        raise UsageError(f"an action must have shape ({size},), got {action.shape}")
    bad = np.flatnonzero(~np.isfinite(action))
    if len(bad):
        raise UsageError(f"action[{bad[0]}] is {action[bad[0]]}: actions must be finite")
    return action
