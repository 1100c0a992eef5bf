"""Names to environments: `make("family/task")`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from robovision.envs.tasks import METAWORLD
from robovision.errors import UsageError, unknown

if TYPE_CHECKING:
    from robovision.envs.metaworld import MetaWorldEnv

Preset = Literal["exact", "fast", "fastest"]


@dataclass(frozen=True)
class EnvOptions:
    """How a task is seen and how long it lasts."""

    size: int = 224
    """Side of the square image in pixels."""
    camera: str = "default"
    """A camera of the simulator's model, or the task's own default."""
    preset: Preset = "fast"
    """Rendering: `exact` as the simulator draws it, `fast` with coarser shadows and without reflections and
    multisampling, `fastest` without shadows too."""
    horizon: int = 500
    """Steps an episode."""

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 4096:
            raise UsageError(f"image size must lie in 16..4096 pixels, got {self.size}")
        if self.horizon < 1:
            raise UsageError(f"horizon must be at least 1 step, got {self.horizon}")


def list_tasks() -> tuple[str, ...]:
    """Every task that `make` knows.

    >>> "metaworld/drawer-open" in list_tasks()
    True
    """
    return METAWORLD


def check_task(task: str) -> None:
    """Raise UsageError, with the nearest names, unless `make` knows this task."""
    if task not in list_tasks():
        raise unknown("task", task, list_tasks())


def make(task: str, options: EnvOptions | None = None) -> MetaWorldEnv:
    """The environment of a task such as `metaworld/drawer-open`.

    Its observations are a dictionary of `pixels`, uint8 [3, size, size], RGB, and `proprioception`, float32.

    Raises:
        UsageError: for an unknown task or camera, naming the nearest ones; without OpenGL, naming the
            packages to install.
    """
    check_task(task)
    from robovision.envs.metaworld import MetaWorldEnv

    return MetaWorldEnv(task.removeprefix("metaworld/"), options or EnvOptions())
