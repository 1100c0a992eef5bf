"""What the options of an environment change."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from robovision.envs import EnvOptions, make
from robovision.envs.registry import resolve
from robovision.envs.simulation import Scale
from robovision.errors import UsageError


def test_cameras_depth_segmentation_and_stacks_come_as_named() -> None:
    options = EnvOptions(
        size=32,
        preset="fastest",
        cameras=("default", "corner4", "lookat=0,0.6,0.1 distance=1 azimuth=-90 elevation=-30"),
        observe=("pixels", "depth", "segmentation", "state"),
        frame_stack=3,
    )
    env = make("metaworld/drawer-open", options)
    first, _ = env.reset(seed=0)
    assert env.observation_space.contains(first)
    views = ("", "_corner4", "_view2")
    assert set(first) == {"state", *(f"{kind}{view}" for kind in ("pixels", "depth", "segmentation") for view in views)}
    pixels = first["pixels"].reshape(3, 3, 32, 32)
    assert np.array_equal(pixels[0], pixels[2])
    second, *_ = env.step(np.ones(4, np.float32))
    third, *_ = env.step(-np.ones(4, np.float32))
    stacked = third["pixels"].reshape(3, 3, 32, 32)
    assert np.array_equal(stacked[0], pixels[0])
    assert np.array_equal(stacked[1], second["pixels"].reshape(3, 3, 32, 32)[2])
    assert not np.array_equal(stacked[1], stacked[2])
    assert not np.array_equal(first["pixels"][-3:], first["pixels_corner4"][-3:])
    assert 0.1 < np.median(first["depth"]) < 2
    assert len(np.unique(first["segmentation"][0])) > 3
    env.close()


def test_metaworlds_inverted_cameras_also_give_upright_pictures() -> None:
    observe: Any = ("pixels", "depth", "segmentation")
    names = [f"corner{number}" for number in ("", "2", "3", "4")]
    cameras = tuple(name + ending for name in names for ending in ("", "_upright"))
    env = make("metaworld/drawer-open", size=32, preset="fastest", cameras=("default", *cameras), observe=observe)
    seen, _ = env.reset(seed=0)
    data, model = env._simulation.data, env._simulation.model
    for name in names:
        assert data.cam_xmat[model.camera(name).id].reshape(3, 3)[2, 1] < -0.5  # its upward axis points down
        for kind in observe:
            assert np.array_equal(seen[f"{kind}_{name}_upright"], seen[f"{kind}_{name}"][:, ::-1, ::-1])
    others = {model.camera(k).name for k in range(model.ncam)} - set(names)
    assert others == {"topview", "behindGripper", "gripperPOV"}
    assert all(data.cam_xmat[model.camera(name).id].reshape(3, 3)[2, 1] > -1e-6 for name in others)
    env.close()


def test_frame_skip_repeats_the_action_and_adds_the_rewards() -> None:
    once, twice = (make("dmc/cheetah-run", size=16, frame_skip=skip, observe=("state",)) for skip in (1, 2))
    once.reset(seed=0)
    twice.reset(seed=0)
    action = np.full(6, 0.7, np.float32)
    rewards = [float(once.step(action)[1]) for _ in range(2)]
    observation, reward, *_ = twice.step(action)
    assert np.array_equal(once.state(), observation["state"])
    assert reward == pytest.approx(sum(rewards))
    assert (once.options.horizon, twice.options.horizon) == (1000, 500)  # the same time


def test_actions_span_the_ranges_of_the_controls() -> None:
    low, high = np.array([-1.0, -2.0, -np.inf]), np.array([3.0, 2.0, np.inf])
    for action, control in (([-1, -1, -1], [-1, -2, -1]), ([0, 0.5, 0.25], [1, 1, 0.25]), ([1, 1, 1], [3, 2, 1])):
        assert Scale(low, high)(np.array(action, np.float32)).tolist() == control
    assert Scale(low[1:2], high[1:2])(np.array([0.25], np.float32)).tolist() == [0.5]  # the middle is 0


def test_without_pixels_nothing_is_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robovision.envs.env.Renderer", None)
    env = make("mujoco/ant", observe=("proprioception",))
    assert set(env.reset(seed=0)[0]) == {"proprioception"}


def test_the_goal_mark_can_be_hidden() -> None:
    shown, hidden = (make("metaworld/reach", size=96, preset="fastest", show_goal=show) for show in (True, False))
    images = [env.reset(seed=0)[0]["pixels"].astype(int) for env in (shown, hidden)]
    changed = (images[0] != images[1]).any(axis=0)
    assert 0 < changed.sum() < changed.size / 4
    with pytest.raises(UsageError, match="show_goal=False is for MetaWorld"):
        make("dmc/walker-walk", show_goal=False)
    shown.close()
    hidden.close()


def test_the_quadruped_that_escapes_sees_its_new_terrain() -> None:
    env = make("dmc/quadruped-escape", size=48, preset="fastest")
    first = env.reset(seed=1)[0]["pixels"]
    env.reset(seed=2)
    again = make("dmc/quadruped-escape", size=48, preset="fastest")
    assert np.array_equal(again.reset(seed=1)[0]["pixels"], first)
    assert np.array_equal(env.reset(seed=1)[0]["pixels"], first)
    env.close()
    again.close()


@pytest.mark.parametrize(
    ("task", "skip", "rate"),
    [("metaworld/reach", 1, 80), ("dmc/walker-walk", 2, 20), ("dmc/cheetah-run", 1, 100), ("mujoco/hopper", 1, 125)],
)
def test_the_rate_of_the_steps_is_the_simulators(task: str, skip: int, rate: float) -> None:
    env = make(task, observe=("state",), frame_skip=skip)
    assert env.metadata["render_fps"] == pytest.approx(rate)
    env.reset(seed=0)
    began = env._simulation.data.time
    for _ in range(5):
        env.step(np.zeros(env.action_space.shape, np.float32))
    assert 5 / (env._simulation.data.time - began) == pytest.approx(rate)


def test_defaults_are_the_tasks_own() -> None:
    options = {task: resolve(task, EnvOptions()) for task in ("metaworld/reach", "dmc/hopper-hop", "mujoco/reacher")}
    assert [(o.horizon, o.frame_skip, o.cameras[0]) for o in options.values()] == [
        (500, 1, "top_cap2"),
        (500, 2, "0"),
        (50, 1, "track"),
    ]
    assert all(resolve(task, option) == option for task, option in options.items())
    loose: Any = {"size": np.int64(64), "cameras": ["corner"]}
    assert EnvOptions(**loose) == EnvOptions(size=64, cameras=("corner",))
    half = resolve("metaworld/reach", EnvOptions(frame_skip=4))
    assert half == dataclasses.replace(options["metaworld/reach"], frame_skip=4, horizon=125)
