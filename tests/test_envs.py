"""Every task of the registry is held to the same contract; what families have of their own is tested beside."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import robovision.envs
from robovision.envs import EnvOptions, list_tasks, make, mjcf
from robovision.envs.env import PixelEnv
from robovision.envs.gymnasium_ids import gymnasium_id
from robovision.envs.registry import resolve
from robovision.envs.vector_worker import Layout, Plan, Players
from robovision.errors import UsageError
from tests.helpers import TINY_ENV

ALL = EnvOptions(size=24, preset="fastest", horizon=12, observe=("pixels", "proprioception", "state"))
ONE_EACH = ("metaworld/drawer-open", "dmc/reacher-easy", "adroit/pen", "mujoco/half-cheetah", "lidar/navigate")

CONSTANT = {
    "metaworld/": (range(4, 39), "objects that lie still or are absent, and goals at a fixed place"),
    "dmc/finger": (range(6, 9), "sensors that nothing touches, and a target of fixed size"),
    "dmc/manipulator": (range(24, 29), "sensors that nothing touches"),
    "dmc/stacker": (range(24, 29), "sensors that nothing touches"),
    "adroit/door": (range(38, 39), "whether the door is open"),
    "adroit/hammer": (range(26, 46), "the nail, which nothing has hit"),
    "mujoco/ant": (range(27, 105), "forces on bodies that touch nothing"),
    "mujoco/humanoid": (range(45, 348), "inertias and forces of what does not move"),
    "mujoco/inverted-double-pendulum": (range(8, 9), "the force at a slider's end that is not reached"),
    "mujoco/pusher": (range(17, 23), "the object, which nothing has hit, and its goal"),
}
"""Elements of the simulator's own `state` that random play leaves constant, and why. Nothing else may be."""


@pytest.fixture(scope="module")
def env() -> Iterator[PixelEnv]:
    env = make("metaworld/drawer-open", TINY_ENV)
    yield env
    env.close()


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


def test_the_listed_tasks_are_those_of_the_installed_simulators() -> None:
    from dm_control import suite
    from metaworld.policies import ENV_POLICY_MAP

    listed = {
        family: {t.split("/")[1] for t in list_tasks() if t.startswith(family)} for family in ("metaworld", "dmc")
    }
    assert listed["metaworld"] == {name.removesuffix("-v3") for name in ENV_POLICY_MAP}
    assert listed["dmc"] == {f"{domain}-{task}" for domain, task in suite.ALL_TASKS}
    version = [
        name
        for name in gymnasium.registry
        if name.endswith("-v5") and "mujoco" in str(gymnasium.spec(name).entry_point)
    ]
    assert len(version) == sum(task.startswith("mujoco/") for task in list_tasks())


def test_the_table_shows_every_task(capsys: pytest.CaptureFixture[str]) -> None:
    robovision.envs.list()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["task", *list_tasks(), "mjcf/PATH"]
    expected = ["dmc/walker-walk", "500", "2", "pixels", "0", "score", "trained"]
    assert expected in [line.split() for line in lines]


def in_a_worker(env: PixelEnv, seed: int, steps: int, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The same as `play`, the way a worker of `make_vec` plays and shares it."""
    monkeypatch.setattr("robovision.envs.vector_worker.make", lambda task, options: env)
    layout = Layout.of(env, 2)
    memory = bytearray(layout.size())
    views = layout.views(memory)
    players = Players(Plan(env.task, env.options, (1,), layout, True), memory)
    random = np.random.default_rng(0)
    (info,) = players.reset([None, seed])
    rows = [shared(views, env, info)]
    for _ in range(steps):
        views["action"][1] = random.uniform(-1, 1, env.action_space.shape)
        (info,) = players.step(None)
        rows.append(shared(views, env, info))
    return rows


def shared(views: dict[str, Any], env: PixelEnv, info: dict[str, Any]) -> tuple[Any, ...]:
    observation = {name: views[name][1].copy() for name in env.boxes}
    return observation, *(views[name][1] for name in ("reward", "terminated", "truncated")), info


@pytest.mark.parametrize("task", list_tasks())
def test_the_contract(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make(task, ALL)
    episode = play(env, 0)
    assert all(env.observation_space.contains(row[0]) for row in episode)
    assert same(play(env, 0), episode)
    assert same(in_a_worker(env, 0, len(episode) - 1, monkeypatch), episode)
    other, another = play(env, None), play(env, None)
    assert not same(other, another)
    assert not np.array_equal(other[0][0]["state"], another[0][0]["state"])
    for name in ("pixels", "proprioception", "state"):
        seen = np.stack([row[0][name] for run in (episode, other, another) for row in run])
        constant = np.all(seen == seen[0], axis=0)
        if name == "pixels":
            assert not constant.all()
        else:
            assert set(np.flatnonzero(constant)) <= (excepted(task) if name == "state" else set())
    with pytest.raises(UsageError, match="the episode is over"):
        env.step(np.zeros(env.action_space.shape, np.float32))
    first, second = env.reset()[0], env.reset()[0]
    assert not any(np.shares_memory(first[name], second[name]) for name in first)
    env.close()


def excepted(task: str) -> set[int]:
    """Elements of the task's state that may be constant."""
    return {element for start, (elements, _) in CONSTANT.items() if task.startswith(start) for element in elements}


@pytest.mark.parametrize("task", ONE_EACH)
def test_a_fresh_environment_repeats_the_trajectory(task: str) -> None:
    episodes = []
    for _ in range(2):
        env = make(task, ALL)
        episodes.append(play(env, 7))
        env.close()
    assert same(*episodes)


@pytest.mark.parametrize("task", ONE_EACH)
def test_gymnasium_makes_it_and_finds_nothing_wrong(task: str) -> None:
    env = gymnasium.make(gymnasium_id(task), size=32, preset="fastest", horizon=6)
    check_env(env.unwrapped)
    env.reset(seed=0)
    picture = env.render()
    assert isinstance(picture, np.ndarray)
    assert picture.shape == (192, 192, 3)
    env.close()
    everything = ("pixels", "depth", "segmentation", "proprioception", "state")
    made = make(task, size=32, preset="fastest", horizon=6, observe=everything, frame_stack=2)
    check_env(made)
    made.close()


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


def test_gymnasium_starts_as_it_does_itself() -> None:
    own, ours = gymnasium.make("Hopper-v5"), make("mujoco/hopper", observe=("state",))
    for seed in (3, None):
        np.testing.assert_array_equal(own.reset(seed=seed)[0].astype(np.float32), ours.reset(seed=seed)[0]["state"])
    own.close()


def test_frame_skip_repeats_the_action_and_adds_the_rewards() -> None:
    once, twice = (make("dmc/cheetah-run", size=16, frame_skip=skip, observe=("state",)) for skip in (1, 2))
    once.reset(seed=0)
    twice.reset(seed=0)
    action = np.full(6, 0.7, np.float32)
    rewards = [float(once.step(action)[1]) for _ in range(2)]
    observation, reward, *_ = twice.step(action)
    assert np.array_equal(once.state(), observation["state"])
    assert reward == pytest.approx(sum(rewards))
    assert once.options.horizon == twice.options.horizon == 500


def test_a_seed_may_be_given_once_for_all() -> None:
    options: dict[str, Any] = {"observe": ("state",), "horizon": 2}
    plain, seeded = make("dmc/reacher-easy", **options), make("dmc/reacher-easy", seed=4, **options)
    made = gymnasium.make(gymnasium_id("dmc/reacher-easy"), seed=4, **options)
    starts = [plain.reset(seed=4)[0]["state"], plain.reset()[0]["state"]]
    for env in (seeded, made):
        assert [env.reset()[0]["state"].tolist() for _ in range(2)] == [start.tolist() for start in starts]
    assert not np.array_equal(starts[0], starts[1])


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


def test_the_expert_opens_the_drawer() -> None:
    env = make("metaworld/drawer-open", observe=("proprioception",), horizon=150)
    env.reset(seed=0)
    success = [env.step(env.expert_action())[4]["success"] for _ in range(150)]
    assert not success[0]
    assert success[-1]


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
    ("action", "message"),
    [
        (np.zeros(3), r"must have shape \(4,\), got \(3,\)"),
        (np.array([0, 0, np.nan, 0]), r"action\[2\] is nan"),
        (np.array([0, np.inf, 0, 0]), r"action\[1\] is inf"),
        ("left", r"must be 4 numbers, got 'left'"),
    ],
)
def test_wrong_actions_are_refused(env: PixelEnv, action: Any, message: str) -> None:
    env.reset(seed=0)
    with pytest.raises(UsageError, match=message):
        env.step(action)
    env.step(np.full(4, 3e38, np.float32))  # large, but finite: cut off


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("metaworld/draw-open", {}, "unknown task 'metaworld/draw-open'; nearest: metaworld/drawer-open"),
        ("dmc/walker-wlak", {}, "nearest: dmc/walker-walk"),
        ("metaworld/drawer-open", {"cameras": ("corner9",)}, "unknown camera 'corner9'; nearest: corner"),
        ("metaworld/drawer-open", {"cameras": "corner"}, r"cameras takes a tuple of names, got the string 'corner'"),
        ("metaworld/drawer-open", {"cameras": ()}, "at least one camera"),
        ("metaworld/drawer-open", {"camera": "corner"}, "unknown option 'camera'; nearest: cameras"),
        ("metaworld/drawer-open", {"cameras": ("lookat=1,2 distance=3",)}, "is not written like 'lookat=0,0.6,0"),
        ("dmc/walker-walk", {"cameras": (0,)}, "cameras takes names as text, got 0: write '0'"),
        ("dmc/walker-walk", {"cameras": ("lookat=0,0,nan distance=1 azimuth=0 elevation=0",)}, "needs finite numbers"),
        ("dmc/walker-walk", {"cameras": ("lookat=0,0,1 distance=0 azimuth=0 elevation=0",)}, "a distance over 0"),
        ("dmc/walker-walk", {"size": "84"}, "size must be a whole number, got '84'"),
        ("dmc/walker-walk", {"horizon": 2.5}, r"horizon must be a whole number, got 2\.5"),
        ("metaworld/drawer-open", {"size": 8}, r"16\.\.4096 pixels, got 8"),
        ("metaworld/drawer-open", {"preset": "fastes"}, "unknown preset 'fastes'; nearest: fastest"),
        ("metaworld/drawer-open", {"observe": ("pixel",)}, "unknown observation 'pixel'; nearest: pixels"),
        ("metaworld/drawer-open", {"observe": ("pixels", "pixels")}, "observe names something twice"),
        ("metaworld/drawer-open", {"horizon": -1}, "horizon must be at least 0, got -1"),
        ("metaworld/drawer-open", {"horizon": 501}, "ends after 500 steps: horizon 501"),
        ("metaworld/drawer-open", {"horizon": 251, "frame_skip": 2}, "with frame_skip 2 is too long"),
        ("metaworld/drawer-open", {"frame_skip": 600}, "ends after 500 steps: frame_skip 600 is too large"),
        ("mjcf/nowhere.xml", {}, "there is no MJCF file nowhere.xml"),
    ],
)
def test_unknown_names_and_wrong_options_are_said(task: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(task, **options)


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


ARM = """
<mujoco>
  <worldbody>
    <light pos="0 0 3"/>
    <body pos="0 0 1">
      <joint name="shoulder" type="hinge" axis="0 1 0" range="-90 90" limited="true"/>
      <geom type="capsule" fromto="0 0 0 0 0 .5" size=".05"/>
      <site name="tip" pos="0 0 .5"/>
    </body>
  </worldbody>
  <actuator><motor joint="shoulder" ctrlrange="-20 20" ctrllimited="true"/></actuator>
</mujoco>
"""
TASK = """
from robovision.envs.mjcf import MjcfTask

class Task(MjcfTask):
    def reset(self, model, data, random):
        data.qpos[0] = random.uniform(0.5, 1.0)

    def reward(self, model, data):
        return float(data.site("tip").xpos[2])

    def success(self, model, data):
        return bool(data.site("tip").xpos[2] > 1.45)

    def failure(self, model, data):
        return bool(data.site("tip").xpos[2] < 1.1)
"""


def test_a_model_of_your_own_is_a_task(tmp_path: Path) -> None:
    path = tmp_path / "arm.xml"
    path.write_text(ARM)
    plain = make(f"mjcf/{path}", size=48, preset="fastest", horizon=3)
    observation, info = plain.reset(seed=0)
    assert info == {}
    assert observation["pixels"].std() > 5
    assert observation["proprioception"].shape == (2,)
    assert same(play(plain, 0), play(plain, 0))
    plain.close()

    path.with_suffix(".py").write_text(TASK)
    env = make(f"mjcf/{path}", size=48, preset="fastest")
    env.reset(seed=0)
    steps = [env.step(np.array([-1.0], np.float32)) for _ in range(9)]
    assert [bool(info["success"]) for *_, info in (steps[0], steps[-1])] == [False, True]
    env.reset(seed=0)
    ends: list[bool] = []
    while not any(ends):
        _, _, terminated, truncated, _ = env.step(np.array([1.0], np.float32))
        ends = [terminated, truncated]
    assert ends == [True, False]
    env.close()
    made = gymnasium.make("robovision/mjcf", path=str(path), observe=("state",))
    assert set(made.reset(seed=0)[0]) == {"state"}


def test_the_manuals_example_of_a_task_works(tmp_path: Path) -> None:
    assert mjcf.__doc__ is not None
    example = textwrap.dedent(mjcf.__doc__.split("\n\n", 1)[1].partition("\n\nWithout")[0])
    path = tmp_path / "arm.xml"
    path.write_text(ARM.replace('name="tip"', 'name="hand"'))
    path.with_suffix(".py").write_text(example)
    env = make(f"mjcf/{path}", size=24, preset="fastest", horizon=2)
    env.reset(seed=0)
    assert env.metadata["render_fps"] == pytest.approx(20)
    assert abs(env._simulation.data.joint("shoulder").qpos[0]) < 0.2
    _, reward, _, _, info = env.step(np.zeros(1, np.float32))
    assert float(reward) == pytest.approx(env._simulation.data.site("hand").xpos[2])
    assert info["success"] == (float(reward) > 1.4)
    env.close()


def test_a_broken_model_is_said_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.xml"
    path.write_text(ARM.replace('size=".05"', 'sise=".05"'))
    with pytest.raises(UsageError, match=r"broken.xml: .*unrecognized attribute: 'sise'.*line 7"):
        make(f"mjcf/{path}")
    path.write_text(ARM[:200])
    with pytest.raises(UsageError, match=r"broken.xml: XML parse error.* Line number=7"):
        make(f"mjcf/{path}")
    path.write_text(ARM)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("Task = 3", "must define `class Task"),
        ("import nothere", "arm.py can't be run: ModuleNotFoundError: No module named 'nothere'"),
        ("class Task(:", "arm.py can't be run: SyntaxError"),
        ("class Task(MjcfTask): control_timestep = 0", "must be over 0 seconds, got 0"),
        (
            "class Task(MjcfTask):\n def observation(self, m, d): return int(d.time > 0) * [0]",
            "0 numbers at first, now 1",
        ),
    ],
)
def test_what_is_wrong_with_a_task_of_your_own_is_said(tmp_path: Path, code: str, message: str) -> None:
    path = tmp_path / "arm.xml"
    path.write_text(ARM)
    path.with_suffix(".py").write_text(f"from robovision.envs.mjcf import MjcfTask\n{code}\n")
    with pytest.raises(UsageError, match=message):
        env = make(f"mjcf/{path}", observe=("proprioception",))
        env.reset(seed=0)
        env.step(np.zeros(1, np.float32))
