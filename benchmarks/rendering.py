"""Frames a second of each rendering preset beside the simulator's own way, interleaved in one process.

    python benchmarks/rendering.py

Prints the table of benchmarks/README.md. A frame is one step of the simulator with random actions and one image; a
ratio is the median over rounds of the simulator's own time by ours, so other work on the machine touches both alike.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from robovision.envs.rendering import PRESETS, Renderer, find_camera  # first: it chooses the backend

# isort: split
import gymnasium
import numpy as np

FRAMES = 5
Frame = Callable[[], object]
Close = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A task, the camera it is seen through, and how its simulator draws it."""

    name: str
    camera: str
    own_way: str


CASES = (
    Case("Meta-World/MT1 drawer-open-v3", "corner3", "gym.make"),
    Case("Meta-World/MT1 assembly-v3", "corner3", "gym.make"),
    Case("AdroitHandPen-v1", "vil_camera", "gym.make"),
    Case("AdroitHandRelocate-v1", "vil_camera", "gym.make"),
    Case("HalfCheetah-v5", "track", "gym.make"),
    Case("walker walk", "side", "physics.render"),
    Case("finger spin", "cam0", "physics.render"),
)


def own_way(case: Case, size: int) -> Frame:
    """A step and an image as the simulator gives them."""
    if case.own_way == "physics.render":
        env = _suite(case)
        draw = lambda: env.physics.render(size, size, camera_id=case.camera)  # noqa: E731
        return _frame(_suite_step(env), draw)
    env = _gymnasium(case, render_mode="rgb_array", width=size, height=size, camera_name=case.camera)
    return _frame(_gymnasium_step(env), env.render)


def our_way(case: Case, size: int, preset: str) -> Frame:
    """The same step, and an image of ours."""
    if case.own_way == "physics.render":
        env = _suite(case)
        model, data, step = env.physics.model.ptr, env.physics.data.ptr, _suite_step(env)
    else:
        env = _gymnasium(case)
        model, data, step = env.unwrapped.model, env.unwrapped.data, _gymnasium_step(env)
    renderer, camera = Renderer(model, size, preset), find_camera(model, case.camera)
    return _frame(step, lambda: renderer.pixels(data, camera))


def _frame(step: Frame, draw: Frame) -> Frame:
    def frame() -> None:
        step()
        draw()

    return frame


def _gymnasium(case: Case, **options: object) -> gymnasium.Env:  # type: ignore[type-arg]
    name, _, task = case.name.partition(" ")
    env = gymnasium.make(name, **({"env_name": task} if task else {}), **options)  # type: ignore[arg-type]
    env.reset(seed=0)
    return env


def _gymnasium_step(env: gymnasium.Env) -> Frame:  # type: ignore[type-arg]
    def step() -> None:
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()

    return step


def _suite(case: Case):  # type: ignore[no-untyped-def]
    from dm_control import suite

    env = suite.load(*case.name.split(), task_kwargs={"random": 0})
    env.reset()
    return env


def _suite_step(env) -> Frame:  # type: ignore[no-untyped-def]
    spec, random = env.action_spec(), np.random.default_rng(0)
    return lambda: env.step(random.uniform(spec.minimum, spec.maximum))


def compare(ways: dict[str, Frame], rounds: int) -> dict[str, tuple[float, float]]:
    """For each way its median frames a second and its median ratio to the first."""
    times = np.empty((rounds, len(ways)))
    for frame in ways.values():
        frame()
    for row in times:
        for i, frame in enumerate(ways.values()):
            began = time.perf_counter()
            for _ in range(FRAMES):
                frame()
            row[i] = time.perf_counter() - began
    ratios = np.median(times[:, :1] / times, axis=0)
    return dict(zip(ways, zip(FRAMES / np.median(times, axis=0), ratios, strict=True), strict=True))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--size", type=int, nargs="+", default=[84, 224])
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    import gymnasium_robotics
    import metaworld  # noqa: F401  (registers its environments)

    gymnasium.register_envs(gymnasium_robotics)
    print("| task, camera | pixels | own way, frames/s | exact | fast | fastest |\n|---|---|---|---|---|---|")
    for case in CASES:
        for size in arguments.size:
            if arguments.only not in case.name:
                continue
            ways = {"own": own_way(case, size)} | {preset: our_way(case, size, preset) for preset in PRESETS}
            rows = compare(ways, arguments.rounds)
            cells = [f"{rows[preset][0]:.0f} ({rows[preset][1]:.1f}x)" for preset in PRESETS]
            print(f"| {case.name}, {case.camera} | {size} | {rows['own'][0]:.0f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
