"""The episodes that a policy is judged by."""

from __future__ import annotations

from dataclasses import dataclass

from robovision.envs.registry import EnvOptions


@dataclass(frozen=True)
class Trial:
    """Which episodes a policy is judged by: episode k of seed s has its own goal, whatever plays it."""

    task: str
    env: EnvOptions
    seed: int
    episodes: int
