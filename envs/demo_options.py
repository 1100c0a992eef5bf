"""Which demonstrations to collect, and what must agree for them to lie in one dataset."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from robovision.envs.registry import EnvOptions, find_task, resolve
from robovision.errors import UsageError

RECORD = "robovision"
"""The key of the dataset's metadata under which lies what was asked for."""


@dataclass(frozen=True)
class DemoOptions:
    """Which demonstrations to collect."""

    task: str = "metaworld/drawer-open"
    """Family and name of the task."""
    episodes: int = 25
    """How many."""
    seed: int = 0
    """Chooses the goals; episode k of seed s has its own goal, whatever the number of workers."""
    noise: float = 0.0
    """Standard deviation of the noise that disturbs the expert's hand; what it meant to do is recorded. The
    expert then shows how to recover (DART, Laskey et al., CoRL 2017)."""
    env: EnvOptions = EnvOptions()
    """How the task is seen."""
    keep_failures: bool = False
    """Record the episodes too in which the expert fails: those without success at any step, and on DMC those whose
    return is under half of the expert's mean. Otherwise another start is tried, up to ten for a demonstration."""

    def __post_init__(self) -> None:
        find_task(self.task)
        if not 0 <= self.noise <= 1:
            raise UsageError(f"noise must lie in 0..1 (actions lie in -1..1), got {self.noise}")
        if self.episodes < 1:
            raise UsageError(f"there must be at least 1 episode, got {self.episodes}")


def identity(options: DemoOptions) -> dict[str, Any]:
    """What must agree for demonstrations to lie in one dataset, as JSON gives it back."""
    asked = dataclasses.asdict(dataclasses.replace(options, env=resolve(options.task, options.env)))
    del asked["episodes"]
    if "lidar" not in asked["env"]["observe"]:
        del asked["env"]["lidar"]  # it makes no difference, and older datasets do not say
    content: dict[str, Any] = json.loads(json.dumps(asked, default=str))
    return content


def differences(present: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> list[str]:
    """In words, where what is there differs from what is wanted, option by option.

    >>> differences({"task": "a", "env": {"size": 64}}, {"task": "a", "env": {"size": 96}})
    ['env.size: 64 there, 96 wanted']
    """
    found = []
    for key in sorted({*present, *wanted}):
        one, other = present.get(key), wanted.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            found += differences(one, other, f"{prefix}{key}.")
        elif one != other:
            found.append(f"{prefix}{key}: {one!r} there, {other!r} wanted")
    return found
