"""Gymnasium's names for our tasks: `gymnasium.make("robovision/dmc-walker-walk", size=84)`.

Importing `robovision.envs` registers them; `gymnasium.make("robovision.envs:robovision/dmc-walker-walk")` does both.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from robovision.envs.registry import MJCF, EnvOptions, list_tasks, make, resolve
from robovision.errors import unknown

if TYPE_CHECKING:
    from robovision.envs.env import PixelEnv

NAMESPACE = "robovision"


def gymnasium_id(task: str) -> str:
    """The id of a task.

    >>> gymnasium_id("dmc/walker-walk")
    'robovision/dmc-walker-walk'
    """
    return f"{NAMESPACE}/{task.replace('/', '-')}"


def env_spec(task: str, options: EnvOptions | None = None) -> EnvSpec:
    """What `gymnasium.make` takes to make a task as the options say, whether or not robovision is imported.

    >>> spec = env_spec("dmc/walker-walk", EnvOptions(size=84))
    >>> spec.id, spec.kwargs["size"], spec.kwargs["horizon"]
    ('robovision/dmc-walker-walk', 84, 500)
    """
    seen = {} if options is None else dataclasses.asdict(resolve(task, options))
    if task.startswith(MJCF):
        return EnvSpec(f"{NAMESPACE}/mjcf", f"{__name__}:make_mjcf", kwargs={"path": task.removeprefix(MJCF), **seen})
    return EnvSpec(gymnasium_id(task), f"{__name__}:make_task", kwargs={"task": task, **seen})


def register() -> None:
    """Register every task, and `robovision/mjcf` which takes the `path` of a model."""
    for task in list_tasks():
        spec = env_spec(task)
        gymnasium.register(spec.id, spec.entry_point, kwargs=spec.kwargs)
    gymnasium.register(f"{NAMESPACE}/mjcf", f"{__name__}:make_mjcf")


def make_task(task: str, render_mode: str | None = "rgb_array", **options: Any) -> PixelEnv:
    """`make` as Gymnasium calls it.

    Raises:
        UsageError: as `make` does, and for a render mode other than `rgb_array`.
    """
    if render_mode not in (None, "rgb_array"):
        raise unknown("render_mode", render_mode, ("rgb_array",))
    return make(task, **options)


def make_mjcf(path: str, render_mode: str | None = "rgb_array", **options: Any) -> PixelEnv:
    """The task of a user's own model; see `robovision.envs.mjcf`."""
    return make_task(f"mjcf/{path}", render_mode, **options)
