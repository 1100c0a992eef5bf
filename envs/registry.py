"""Names to environments: `make("family/task")`."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import operator
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from robovision.envs.tasks import TASKS, Observable, Task
from robovision.errors import UsageError, unknown

if TYPE_CHECKING:
    from robovision.envs.env import PixelEnv
    from robovision.envs.simulation import Simulation
    from robovision.envs.vector import PixelVecEnv

Preset = Literal["exact", "fast", "fastest"]
MJCF = "mjcf/"
SIMULATIONS = {
    "metaworld": "robovision.envs.metaworld:MetaWorld",
    "dmc": "robovision.envs.dmc:ControlSuite",
    "adroit": "robovision.envs.adroit:Adroit",
    "mujoco": "robovision.envs.gymnasium_mujoco:GymnasiumMujoco",
    "lidar": "robovision.envs.navigate:Navigate",
    "mjcf": "robovision.envs.mjcf:Mjcf",
}
"""The class of each family; its module is imported when the first of its tasks is made."""


@dataclass(frozen=True)
class EnvOptions:
    """How a task is seen and how long it lasts."""

    size: int = 224
    """Side of the square images in pixels."""
    cameras: tuple[str, ...] = ("default",)
    """Names of cameras in the simulator's model, `default` for the task's own, or free views written as
    `lookat=0,0.6,0 distance=0.67 azimuth=-90 elevation=-63`. The first gives `pixels`, any other `pixels_NAME`.
    MetaWorld's corner, corner2, corner3 and corner4 hang upside down; corner_upright and so on are turned."""
    preset: Preset = "fast"
    """Rendering: `exact` as the simulator draws it, `fast` looks the same to a person, `fastest` draws no
    shadows, nothing that floors mirror, and floors under strong light darker."""
    horizon: int = 0
    """Steps an episode; 0: as many as take the task's own time."""
    frame_skip: int = 0
    """The simulator's control steps for which one action is repeated; 0: the task's own."""
    frame_stack: int = 1
    """How many images, oldest first, are stacked along the channels; at the start the first one repeats."""
    observe: tuple[Observable, ...] = ()
    """What an observation holds: pixels, depth, segmentation, proprioception, state, lidar; empty: the task's own."""
    lidar: str = "default"
    """The LiDAR and where it is, written as `sensor=planar on=torso pos=0,0,0.3 euler=0,0,90`: on a body or site,
    metres, degrees; what is left out is the task's own. Sensors: planar, mini-16, vlp-16, hdl-64e and others;
    `noise=on`: with their noise and losses."""
    show_goal: bool = True
    """Draw MetaWorld's mark at the goal, as the field's protocol does."""

    def __post_init__(self) -> None:
        for name in ("size", "horizon", "frame_skip", "frame_stack"):
            object.__setattr__(self, name, whole(name, getattr(self, name)))
        for name in ("preset", "lidar"):
            _check_text(name, getattr(self, name))
        if not isinstance(self.show_goal, bool):
            raise UsageError(f"show_goal must be True or False, got {self.show_goal!r}")
        for name in ("cameras", "observe"):
            object.__setattr__(self, name, _names(name, getattr(self, name)))
        if not 16 <= self.size <= 4096:
            raise UsageError(f"image size must lie in 16..4096 pixels, got {self.size}")
        if self.preset not in get_args(Preset):
            raise unknown("preset", self.preset, get_args(Preset))
        for name, least in (("horizon", 0), ("frame_skip", 0), ("frame_stack", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not self.cameras:
            raise UsageError("cameras must name at least one camera")
        for item in self.observe:
            if item not in get_args(Observable):
                raise unknown("observation", item, get_args(Observable))


def whole(name: str, value: Any) -> int:
    """The value as int; UsageError for anything but a whole number."""
    try:
        return operator.index(value)
    except TypeError as error:
        raise UsageError(f"{name} must be a whole number, got {value!r}") from error


def check_seed(seed: Any) -> int | None:
    """The seed, or None for none; UsageError for anything but a whole number from 0 on."""
    if seed is None:
        return None
    if (number := whole("a seed", seed)) < 0:
        raise UsageError(f"a seed must be at least 0, got {number}")
    return number


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise UsageError(f"{name} must be text, got {value!r}")


def _names(name: str, items: Any) -> tuple[str, ...]:
    if isinstance(items, str):
        raise UsageError(f"{name} takes a tuple of names, got the string {items!r}: write ({items!r},)")
    if not isinstance(items, Iterable):
        raise UsageError(f"{name} takes a tuple of names, got {items!r}")
    names: tuple[Any, ...] = tuple(items)
    for item in names:
        if not isinstance(item, str):
            raise UsageError(f"{name} takes names as text, got {item!r}: write {str(item)!r}")
    if len(set(names)) < len(names):
        raise UsageError(f"{name} names something twice: {', '.join(names)}")
    return names


def list_tasks() -> tuple[str, ...]:
    """Every task that `make` knows by name.

    >>> "metaworld/drawer-open" in list_tasks() and "dmc/walker-walk" in list_tasks()
    True
    """
    return tuple(TASKS)


def find_task(name: str) -> Task:
    """What a task is like when no option says otherwise.

    Raises:
        UsageError: for a name that `make` does not know, with the nearest ones.
    """
    _check_text("a task", name)
    if name.startswith(MJCF):
        return Task(name, 1, 1000, ("pixels", "proprioception"), "0", "return")
    if name not in TASKS:
        raise UsageError(f"unknown task {name!r}; {_advice(name)}")
    return TASKS[name]


def _advice(name: str) -> str:
    """What to do about a task that there is not: the nearest ones, or else how many there are of which family.

    >>> _advice("dmc/walker-wlak")
    'nearest: dmc/walker-walk, dmc/walker-stand, dmc/walker-run'
    >>> _advice("drawer-opn")
    'nearest: metaworld/drawer-open, metaworld/drawer-close, metaworld/door-open'
    >>> _advice("adroit")
    'adroit has 4 tasks, such as adroit/pen; `robovision demos --list` shows all'
    """
    names = (*TASKS, "mjcf/PATH")
    families = Counter(task.split("/")[0] for task in TASKS)
    family, _, rest = name.partition("/")
    known = {task if rest else task.split("/")[1]: task for task in names}
    near = [known[word] for word in difflib.get_close_matches(name, known, n=3, cutoff=0.6)]
    if near:
        return f"nearest: {', '.join(near)}"
    if family in families:
        first = next(task for task in TASKS if task.startswith(f"{family}/"))
        return f"{family} has {families[family]} tasks, such as {first}; `robovision demos --list` shows all"
    if family == MJCF.strip("/"):
        return "name your model's file, as in mjcf/arm.xml"
    numbers = ", ".join(f"{family} ({number})" for family, number in families.items())
    return f"the families are {numbers} and mjcf/PATH; `robovision demos --list` shows all"


def resolve(name: str, options: EnvOptions) -> EnvOptions:
    """The options with every 0, `default` and empty tuple replaced by what it means for this task.

    >>> options = resolve("dmc/walker-walk", EnvOptions())
    >>> options.horizon, options.frame_skip, options.observe, options.cameras
    (500, 2, ('pixels',), ('0',))
    >>> resolve("dmc/walker-walk", EnvOptions(frame_skip=8)).horizon
    125

    Raises:
        UsageError: for an unknown task, and for a horizon beyond the simulator's own end.
    """
    task = find_task(name)
    options = dataclasses.replace(
        options,
        frame_skip=options.frame_skip or task.frame_skip,
        observe=options.observe or task.observe,
        cameras=tuple(task.camera if camera == "default" else camera for camera in options.cameras),
    )
    if task.limit and options.frame_skip > task.limit:
        raise UsageError(f"{name} ends after {task.limit} steps: frame_skip {options.frame_skip} is too large")
    horizon = options.horizon or max(1, (task.limit or task.horizon * task.frame_skip) // options.frame_skip)
    if task.limit and horizon * options.frame_skip > task.limit:
        raise UsageError(
            f"{name} ends after {task.limit} steps: horizon {horizon} with frame_skip {options.frame_skip} is too long"
        )
    return dataclasses.replace(options, horizon=horizon)


def make(task: str, options: EnvOptions | None = None, *, seed: int | None = None, **changes: Any) -> PixelEnv:
    """The environment of a task such as `metaworld/drawer-open`, `dmc/walker-walk` or `mjcf/arm.xml`.

    Its observations are a dictionary of what `observe` names: `pixels`, uint8 [3, size, size], RGB;
    `depth`, float32 [1, size, size], metres; `segmentation`, int32 [2, size, size], object number and type;
    `proprioception` and `state`, float32 vectors; `lidar`, float32 [rings, columns], metres. Actions are
    float32 in -1..1, scaled to the actuators.

    Args:
        task: family and name.
        options: how it is seen; each may also be given by name, as in `make("dmc/walker-walk", size=84)`.
        seed: of the first episode, unless `reset` is given another.
        changes: options by name, on top of `options`.

    Raises:
        UsageError: for an unknown task, camera or option, naming the nearest ones; without OpenGL, naming the
            packages to install; for a broken MJCF file, with MuJoCo's message.
    """
    from gymnasium.utils.seeding import np_random

    from robovision.envs.env import PixelEnv

    seed = check_seed(seed)
    resolved = resolve(task, with_changes(options, changes))
    env = PixelEnv(task, make_simulation(task), resolved)
    if seed is not None:
        env.np_random, _ = np_random(seed)
    return env


def try_out(task: str, options: EnvOptions) -> None:
    """Raise UsageError, as `make` does, for a task and options that can't be made; nothing is drawn."""
    from robovision.envs.env import PixelEnv

    PixelEnv(task, make_simulation(task), resolve(task, options), render=False).close()


def make_vec(
    task: str,
    count: int,
    options: EnvOptions | None = None,
    *,
    seed: int | None = None,
    workers: int | None = None,
    timeout: float = 60.0,
    **changes: Any,
) -> PixelVecEnv:
    """The same task `count` times, in processes of their own, as a `gymnasium.vector.VectorEnv`.

    Args:
        task: family and name.
        count: how many environments.
        options: how they are seen; each may also be given by name.
        seed: environment i begins with `seed` + i, unless `reset` is given other seeds.
        workers: processes that share the environments; as many as there are cores without it.
        timeout: seconds that a worker may take over one step before it is replaced.
        changes: options by name, on top of `options`.

    Raises:
        UsageError: as `make` does, for a count or a number of workers that is no whole number from 1 on, and for a
            timeout that is no number over 0.
    """
    from robovision.envs.vector import PixelVecEnv

    return PixelVecEnv(task, count, with_changes(options, changes), seed=seed, workers=workers, timeout=timeout)


def with_changes(options: EnvOptions | None, changes: dict[str, Any]) -> EnvOptions:
    """The options with some replaced by name; UsageError for an unknown name, with the nearest ones."""
    names = [field.name for field in dataclasses.fields(EnvOptions)]
    for name in changes:
        if name not in names:
            raise unknown("option", name, names)
    if options is None:
        return EnvOptions(**changes)
    if not isinstance(options, EnvOptions):
        raise UsageError(f"options must be EnvOptions, got {options!r}: write make(task, size=84), say")
    return dataclasses.replace(options, **changes)


def make_simulation(task: str) -> Simulation:
    """The simulator of a task by itself, without cameras."""
    find_task(task)
    family, name = task.split("/", 1)
    module, attribute = SIMULATIONS[family].split(":")
    try:
        simulation: Simulation = getattr(importlib.import_module(module), attribute)(name)
    except ModuleNotFoundError as error:
        raise UsageError(f"{task} needs {error.name}: pip install 'robovision[sim]'") from error
    return simulation
