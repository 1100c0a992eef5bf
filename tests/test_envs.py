"""Every task of the registry is held to the same contract; what families have of their own is tested beside."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import robovision.envs
from robovision.envs import EnvOptions, list_tasks, make
from robovision.envs.env import PixelEnv
from robovision.envs.gymnasium_ids import gymnasium_id
from robovision.envs.tasks import MUJOCO
from robovision.envs.vector_worker import Layout, Plan, Players
from robovision.errors import UsageError
from tests.episodes import play, same

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


@pytest.mark.parametrize("name", MUJOCO)
def test_gymnasium_starts_and_goes_on_as_it_does_itself(name: str) -> None:
    words = "".join(word.capitalize() for word in name.split("-"))
    own: gymnasium.Env[Any, Any] = gymnasium.make(f"{words}-v5")
    ours = make(f"mujoco/{name}", observe=("state",))
    assert isinstance(own.action_space, gymnasium.spaces.Box)
    low, high = own.action_space.low.astype(np.float64), own.action_space.high.astype(np.float64)
    for seed in (3, None):
        np.testing.assert_array_equal(own.reset(seed=seed)[0].astype(np.float32), ours.reset(seed=seed)[0]["state"])
    terminated, steps = False, 0
    while not terminated and steps < 30:
        action = np.asarray(ours.action_space.sample(), np.float32)
        expected, reward, terminated, _, _ = own.step((low + high) / 2 + (high - low) / 2 * action)
        got = ours.step(action)
        np.testing.assert_array_equal(got[0]["state"], expected.astype(np.float32))
        assert got[1:3] == (reward, terminated)
        steps += 1
    own.close()


def test_a_seed_may_be_given_once_for_all() -> None:
    options: dict[str, Any] = {"observe": ("state",), "horizon": 2}
    plain, seeded = make("dmc/reacher-easy", **options), make("dmc/reacher-easy", seed=4, **options)
    made = gymnasium.make(gymnasium_id("dmc/reacher-easy"), seed=4, **options)
    starts = [plain.reset(seed=4)[0]["state"], plain.reset()[0]["state"]]
    for env in (seeded, made):
        assert [env.reset()[0]["state"].tolist() for _ in range(2)] == [start.tolist() for start in starts]
    assert not np.array_equal(starts[0], starts[1])


def test_the_expert_opens_the_drawer() -> None:
    env = make("metaworld/drawer-open", observe=("proprioception",), horizon=150)
    env.reset(seed=0)
    success = [env.step(env.expert_action())[4]["success"] for _ in range(150)]
    assert not success[0]
    assert success[-1]
