"""A tiny environment that only eyes can solve, drawn by NumPy in microseconds."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

SIDE, SQUARE = 32, 10
Observation = dict[str, NDArray[Any]]


class FindTheSquare(gymnasium.Env[Observation, NDArray[np.float32]]):
    """A bright square on a dark ground; the action says how far to the right it is, in -1..1.

    The reward is 1 for the right answer and falls by the distance. Each step shows another square; an episode lasts
    eight steps and is then truncated. `stack` images are stacked, oldest first; a vector of noise is felt beside.
    """

    render_mode = None

    def __init__(self, stack: int = 1) -> None:
        self.stack = stack
        self.observation_space: spaces.Dict = spaces.Dict(  # type: ignore[assignment]
            {
                "pixels": spaces.Box(0, 255, (3 * stack, SIDE, SIDE), np.uint8),
                "noise": spaces.Box(-np.inf, np.inf, (2,), np.float32),
            }
        )
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        self._images = [self._draw()] * self.stack
        return self._observe(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        reward = 1 - abs(float(action[0]) - self._place)
        self._steps += 1
        self._images = [*self._images[1:], self._draw()]
        return self._observe(), reward, False, self._steps == 8, {}

    def _draw(self) -> NDArray[np.uint8]:
        image = np.full((3, SIDE, SIDE), 40, np.uint8)
        y, x = self.np_random.integers(0, SIDE - SQUARE + 1, 2)
        image[:, y : y + SQUARE, x : x + SQUARE] = 230
        self._place = 2 * x / (SIDE - SQUARE) - 1
        return image

    def _observe(self) -> Observation:
        noise = self.np_random.normal(size=2).astype(np.float32)
        return {"pixels": np.concatenate(self._images[-self.stack :]), "noise": noise}
