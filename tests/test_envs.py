from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from robovision.envs import EnvOptions, list_tasks, make
from robovision.envs.metaworld import MetaWorldEnv
from robovision.errors import UsageError
from tests.helpers import TINY_ENV


@pytest.fixture(scope="module")
def env() -> Iterator[MetaWorldEnv]:
    env = make("metaworld/drawer-open", TINY_ENV)
    yield env
    env.close()


def trajectory(env: MetaWorldEnv, seed: int) -> list[tuple[object, ...]]:
    observation, _ = env.reset(seed=seed)
    rows: list[tuple[object, ...]] = [(observation["pixels"].tobytes(), observation["proprioception"].tobytes())]
    random = np.random.default_rng(seed)
    for _ in range(TINY_ENV.horizon):
        observation, reward, *_ = env.step(random.uniform(-1, 1, 4).astype(np.float32))
        rows.append((observation["pixels"].tobytes(), observation["proprioception"].tobytes(), reward))
    return rows


def test_the_listed_tasks_are_those_of_the_installed_simulator() -> None:
    from metaworld.policies import ENV_POLICY_MAP

    assert set(list_tasks()) == {f"metaworld/{name.removesuffix('-v3')}" for name in ENV_POLICY_MAP}


@pytest.mark.parametrize("task", list_tasks())
def test_every_task_steps_and_its_expert_moves(task: str) -> None:
    env = make(task, EnvOptions(size=16, preset="fastest", horizon=3))
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    before = observation["proprioception"]
    steps = [env.step(env.expert_action()) for _ in range(3)]
    assert all(env.observation_space.contains(observation) for observation, *_ in steps)
    assert [truncated for _, _, _, truncated, _ in steps] == [False, False, True]
    assert not any(terminated or info["success"] for _, _, terminated, _, info in steps)
    assert not np.array_equal(before, steps[-1][0]["proprioception"])
    env.close()


@pytest.mark.filterwarnings("ignore:.*render_modes.*", "ignore:.*different render modes.*", "ignore:.*unwrapped.*")
def test_gymnasium_finds_nothing_wrong(env: MetaWorldEnv) -> None:
    check_env(env, skip_render_check=True)
    assert env.render().shape == (192, 192, 3)


def test_same_seed_same_trajectory_whatever_came_before(env: MetaWorldEnv) -> None:
    first = trajectory(env, 1)
    other = trajectory(env, 2)
    assert trajectory(env, 1) == first
    assert other != first
    fresh = make("metaworld/drawer-open", TINY_ENV)
    assert trajectory(fresh, 1) == first
    fresh.close()


def test_observations_share_no_memory_and_goals_vary(env: MetaWorldEnv) -> None:
    first, _ = env.reset(seed=0)
    kept = first["pixels"].copy()
    second, _ = env.reset()
    assert not np.shares_memory(first["pixels"], second["pixels"])
    assert np.array_equal(first["pixels"], kept)
    assert not np.array_equal(first["pixels"], second["pixels"])


def test_the_expert_opens_the_drawer() -> None:
    env = make("metaworld/drawer-open", EnvOptions(size=16, preset="fastest", horizon=150))
    env.reset(seed=0)
    success = [env.step(env.expert_action())[4]["success"] for _ in range(150)]
    env.close()
    assert not success[0]
    assert success[-1]


def test_presets_differ_only_in_light() -> None:
    images = {}
    for preset in ("exact", "fast", "fastest"):
        env = make("metaworld/drawer-open", EnvOptions(size=96, preset=preset))
        images[preset] = env.reset(seed=0)[0]["pixels"].astype(float)
        env.close()
    for preset, low, high in (("fast", 0.01, 3.0), ("fastest", 0.5, 25.0)):
        assert low < np.abs(images[preset] - images["exact"]).mean() < high


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros(3), r"must have shape \(4,\), got \(3,\)"),
        (np.array([0, 0, np.nan, 0]), r"action\[2\] is nan"),
    ],
)
def test_wrong_actions_are_refused(env: MetaWorldEnv, action: np.ndarray, message: str) -> None:
    env.reset(seed=0)
    with pytest.raises(UsageError, match=message):
        env.step(action)


def test_stepping_after_the_end_is_refused(env: MetaWorldEnv) -> None:
    trajectory(env, 0)
    with pytest.raises(UsageError, match="the episode is over"):
        env.step(np.zeros(4, np.float32))


def test_unknown_names_and_wrong_options_are_said() -> None:
    with pytest.raises(UsageError, match="unknown task 'metaworld/draw-open'; nearest: metaworld/drawer-open"):
        make("metaworld/draw-open")
    with pytest.raises(UsageError, match="unknown camera 'corner9'; nearest: corner"):
        make("metaworld/drawer-open", EnvOptions(camera="corner9"))
    with pytest.raises(UsageError, match=r"16\.\.4096 pixels, got 8"):
        EnvOptions(size=8)
    with pytest.raises(UsageError, match="at least 1 step, got 0"):
        EnvOptions(horizon=0)
    with pytest.raises(UsageError, match="end after 500 steps, got horizon 501"):
        make("metaworld/drawer-open", EnvOptions(horizon=501))
