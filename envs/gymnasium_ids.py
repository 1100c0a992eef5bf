"""Gymnasium's names for our tasks: `gymnasium.make("robovision/dmc-walker-walk", size=84)`.

Importing `robovision.envs` registers them; `gymnasium.make("robovision.envs:robovision/dmc-walker-walk")` does both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium

from robovision.envs.registry import list_tasks, make
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


def register() -> None:
    """Register every task, and `robovision/mjcf` which takes the `path` of a model."""
    for task in list_tasks():
        gymnasium.register(gymnasium_id(task), "robovision.envs.gymnasium_ids:make_task", kwargs={"task": task})
    gymnasium.register(f"{NAMESPACE}/mjcf", "robovision.envs.gymnasium_ids:make_mjcf")


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
