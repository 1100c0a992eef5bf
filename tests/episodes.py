"""Random episodes of an environment, and whether two are the same."""

from __future__ import annotations

from typing import Any

import numpy as np

from robovision.envs.env import PixelEnv


def play(env: PixelEnv, seed: int | None) -> list[tuple[Any, ...]]:
    """A random episode: observations, reward, ends and infos, copied when they came."""
    observation, info = env.reset(seed=seed)
    rows: list[tuple[Any, ...]] = [(copied(observation), 0.0, False, False, info)]
    random = np.random.default_rng(0)
    while not (rows[-1][2] or rows[-1][3]):
        observation, *rest = env.step(random.uniform(-1, 1, env.action_space.shape).astype(np.float32))
        rows.append((copied(observation), *rest))
    return rows


def copied(observation: dict[str, Any]) -> dict[str, Any]:
    return {name: value.copy() for name, value in observation.items()}


def same(first: list[tuple[Any, ...]], second: list[tuple[Any, ...]]) -> bool:
    return len(first) == len(second) and all(
        a[1:] == b[1:] and all(np.array_equal(a[0][name], b[0][name]) for name in a[0])
        for a, b in zip(first, second, strict=True)
    )
