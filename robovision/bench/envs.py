"""Frames a second of ours, preset by preset, beside the simulator's own way."""

from __future__ import annotations

import functools
import itertools
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from typing import Any

from robovision.envs.rendering import PRESETS  # first: it chooses the backend that mujoco reads

# isort: split
import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv
from numpy.typing import NDArray

from robovision.bench.timing import compare, markdown
from robovision.devices import cpu_count
from robovision.envs import make, make_vec
from robovision.envs.context import BACKEND, Context
from robovision.envs.registry import find_task, make_simulation
from robovision.envs.vector_worker import DRAWING_THREADS
from robovision.errors import UsageError

TASKS = (
    "metaworld/drawer-open",
    "metaworld/assembly",
    "adroit/pen",
    "adroit/relocate",
    "mujoco/half-cheetah",
    "dmc/walker-walk",
    "dmc/finger-spin",
)
FAMILIES = ("metaworld", "adroit", "mujoco", "dmc")
METAWORLDS_OWN = "corner3"
"""The camera for MetaWorld, whose models lack the protocol's."""
LIGHT = ("mujoco/inverted-pendulum", "mujoco/inverted-double-pendulum", "mujoco/reacher", "mujoco/pusher")
"""Tasks whose own step takes little, so that what ours adds shows most; measured without pictures alone."""
TURN = 0.2
"""Seconds of one turn."""
BARE = 200
"""Steps of one turn without pictures."""
MANY = 5
"""So many more rounds without pictures, where a turn takes milliseconds."""

Pixels = NDArray[np.uint8]


class OwnWay(gymnasium.Env[Pixels, NDArray[Any]]):
    """A task as its simulator gives it, seen by its own renderer.

    `gym.make(..., render_mode="rgb_array")` and a call of `render` after each step; dm_control's
    `suite.load` and `physics.render` for its tasks.
    """

    def __init__(self, task: str, size: int) -> None:
        warnings.filterwarnings("ignore")  # about versions that were asked for on purpose
        family, name = task.split("/")
        build = _suite if family == "dmc" else _gymnasium
        self.env, self._step, self._draw, self.action_space = build(family, name, size)
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)

    def reset(self, **kwargs: Any) -> tuple[Pixels, dict[str, Any]]:
        self.env.reset()
        return self._draw(), {}

    def step(self, action: NDArray[Any]) -> tuple[Pixels, float, bool, bool, dict[str, Any]]:
        self._step(action)
        return self._draw(), 0.0, False, False, {}

    def bare(self, action: NDArray[Any]) -> None:
        """A step without a picture."""
        self._step(action)


def table(
    tasks: Sequence[str], light: Sequence[str], sizes: Sequence[int], rounds: int, progress: Callable[[int], None]
) -> Iterator[str]:
    """The tables, each as soon as it is measured; `progress` is told how many of `count` measurements are done.

    The tasks of `light` are measured without pictures alone; workers with the largest pictures alone.
    """
    done = 0

    def step(row: list[str]) -> list[str]:
        nonlocal done
        done += 1
        progress(done)
        return row

    heads = ("task, camera", "pixels", "own way, frames/s", *PRESETS)
    yield f"OpenGL by {BACKEND}: {renderer_name()}; {cpu_count()} cores; medians of {rounds} turns of {TURN} s"
    rows = [step(single(task, size, rounds)) for task in tasks for size in sizes]
    yield "One environment, frames a second, and the ratio to the simulator's own way\n\n" + markdown(heads, rows)
    rows = [step(vectorised(task, size, rounds)) for task in tasks for size in sizes]
    yield (
        f"{cpu_count()} environments side by side; own way: gymnasium.vector.AsyncVectorEnv\n\n" + markdown(heads, rows)
    )
    heads = ("task, preset fast", "pixels", "one worker on one core, frames/s", "one worker", f"{cpu_count()} workers")
    rows = [step(workers(task, max(sizes), rounds)) for task in tasks]
    yield f"{2 * cpu_count()} environments; one worker draws on several cores if OpenGL does\n\n" + markdown(
        heads, rows
    )
    heads = ("task, no pictures", "simulator's own step, steps/s", "ours", "overhead")
    rows = [step(overhead(task, rounds)) for task in (*tasks, *light)]
    yield "A step without pictures, by the time that a core works for it\n\n" + markdown(heads, rows)


def check(tasks: Sequence[str]) -> None:
    """Raise UsageError for a task that is unknown, or has no way of its own to compare with."""
    for task in tasks:
        find_task(task)
        if task.split("/")[0] not in FAMILIES:
            raise UsageError(
                f"{task} has no simulator's own way to compare with; the families are {', '.join(FAMILIES)}"
            )


def count(tasks: Sequence[str], light: Sequence[str], sizes: Sequence[int]) -> int:
    """How many measurements `table` makes."""
    return len(tasks) * (2 * len(sizes) + 2) + len(light)


def single(task: str, size: int, rounds: int) -> list[str]:
    """A row: one environment, the simulator's own way and each preset."""
    with ExitStack() as stack:
        own = stack.enter_context(closing(OwnWay(task, size)))
        ways = {"own": _frames(own)}
        for preset in PRESETS:
            ways[preset] = _frames(stack.enter_context(closing(make(task, **_seen(task, size, preset)))))
        return _row(task, size, ways, rounds, 1)


def vectorised(task: str, size: int, rounds: int) -> list[str]:
    """A row: as many environments as there are cores."""
    envs = cpu_count()
    with ExitStack() as stack:
        ways = {}
        for preset in PRESETS:  # first: their workers begin while the others' constructor waits for its own
            ours = make_vec(task, envs, **_seen(task, size, preset))
            ways[preset] = _frames(stack.enter_context(closing(ours)))
        own = AsyncVectorEnv([functools.partial(OwnWay, task, size)] * envs, context="spawn")
        ways = {"own": _frames(stack.enter_context(closing(own))), **ways}
        return _row(task, size, ways, rounds, envs)


def workers(task: str, size: int, rounds: int) -> list[str]:
    """A row: the same environments in one process that draws on one core, in one as it comes, in one for each core."""
    envs = 2 * cpu_count()
    with ExitStack() as stack:
        ways = {}
        for name, processes, drawing in (
            ("core", 1, _one_core()),
            ("one", 1, nullcontext()),
            ("all", cpu_count(), nullcontext()),
        ):
            with drawing:
                ours = make_vec(task, envs, workers=processes, **_seen(task, size, "fast"))
            ways[name] = _frames(stack.enter_context(closing(ours)))
        return _row(task, size, ways, rounds, envs)


@contextmanager
def _one_core() -> Iterator[None]:
    """Processes that begin meanwhile draw in their own thread if Mesa draws for them: it uses every core otherwise."""
    before = os.environ.get(DRAWING_THREADS)
    os.environ[DRAWING_THREADS] = "0"
    try:
        yield
    finally:
        del os.environ[DRAWING_THREADS]
        if before is not None:
            os.environ[DRAWING_THREADS] = before


def overhead(task: str, rounds: int) -> list[str]:
    """A row: what our environment adds to a step of the simulator's own."""
    with ExitStack() as stack:
        own = stack.enter_context(closing(OwnWay(task, 64)))
        ours = stack.enter_context(closing(make(task, observe=("proprioception",), frame_skip=1)))
        own.reset()
        ours.reset(seed=0)
        theirs, mine = (itertools.cycle([space.sample() for _ in range(BARE)]) for space in _spaces(own, ours))

        def step() -> None:
            *_, terminated, truncated, _ = ours.step(next(mine))
            if terminated or truncated:
                ours.reset()

        speeds = compare({"own": lambda: own.bare(next(theirs)), "ours": step}, MANY * rounds, BARE, time.process_time)
    bare, wrapped = speeds["own"], speeds["ours"]
    return [task, f"{1 / bare.seconds:,.0f}", wrapped.rate(), f"{100 * (1 / wrapped.ratio - 1):.0f} %"]


def renderer_name() -> str:
    """What OpenGL says that it draws with."""
    from OpenGL import GL

    context = Context(make_simulation("dmc/pendulum-swingup").model)
    with context.current():
        name = GL.glGetString(GL.GL_RENDERER)
    context.close()
    return name.decode() if name else "unknown"


def _seen(task: str, size: int, preset: str) -> dict[str, Any]:
    return {
        "size": size,
        "preset": preset,
        "observe": ("pixels",),
        "cameras": (_camera(task),),
        "frame_skip": 1,
    }


def _spaces(*envs: gymnasium.Env[Any, Any]) -> Iterator[spaces.Space[Any]]:
    for env in envs:
        env.action_space.seed(0)
        yield env.action_space


def _camera(task: str) -> str:
    return METAWORLDS_OWN if task.startswith("metaworld/") else find_task(task).camera


def _frames(env: Any) -> Callable[[], object]:
    """A step with its picture, by one environment or several side by side; the first call begins an episode."""
    env.action_space.seed(0)
    seed: int | None = 0
    over = True

    def frame() -> None:
        nonlocal over, seed
        if over:
            env.reset(seed=seed)
            seed = None
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        over = isinstance(terminated, bool) and (terminated or truncated)  # several begin anew by themselves

    return frame


def _row(task: str, size: int, ways: dict[str, Callable[[], object]], rounds: int, envs: int) -> list[str]:
    speeds = list(compare(ways, rounds, least=TURN).values())
    first, *others = (speed.rate(envs) for speed in speeds)
    return [f"{task}, {_camera(task)}", str(size), first.split(" ")[0], *others]


def _gymnasium(family: str, name: str, size: int) -> tuple[Any, Callable[[Any], Any], Callable[[], Pixels], Any]:
    if family == "metaworld":
        import metaworld  # noqa: F401  registers its environments

        place: dict[str, Any] = {"id": "Meta-World/MT1", "env_name": f"{name}-v3"}
    else:
        if family == "adroit":
            import gymnasium_robotics

            gymnasium.register_envs(gymnasium_robotics)
        prefix = "AdroitHand" if family == "adroit" else ""
        words = prefix + "".join(word.capitalize() for word in name.split("-"))
        place = {"id": f"{words}-v{gymnasium.envs.registration.find_highest_version(None, words)}"}
    place |= {"render_mode": "rgb_array", "width": size, "height": size, "camera_name": _camera(f"{family}/{name}")}
    env = gymnasium.make(**place)
    return env, functools.partial(_step_again, env), env.render, env.action_space  # type: ignore[return-value]


def _step_again(env: Any, action: NDArray[Any]) -> None:
    *_, terminated, truncated, _ = env.step(action)
    if terminated or truncated:
        env.reset()


def _suite(family: str, name: str, size: int) -> tuple[Any, Callable[[Any], Any], Callable[[], Pixels], Any]:
    from dm_control import suite

    env = suite.load(*name.split("-", 1), task_kwargs={"random": 0})
    spec = env.action_spec()
    low, high = (np.broadcast_to(bound, spec.shape).astype(np.float32) for bound in (spec.minimum, spec.maximum))
    camera = int(_camera(f"{family}/{name}"))
    draw = functools.partial(env.physics.render, size, size, camera_id=camera)
    return env, env.step, draw, spaces.Box(low, high)
