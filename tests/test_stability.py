"""Physics that blows up ends the episode, says so and leaves no file behind."""

from __future__ import annotations

import logging
from pathlib import Path

import mujoco
import numpy as np
import pytest

from robovision.envs import make, make_vec
from robovision.envs.stability import keep_no_file
from robovision.errors import UsageError
from tests.test_mjcf import ARM

ONE_EACH = ("metaworld/reach", "dmc/reacher-easy", "adroit/relocate", "mujoco/hopper", "lidar/navigate")
WILD = ARM.replace("<motor ", '<motor gear="1e13" ')
JUDGED = """
from robovision.envs.mjcf import MjcfTask

class Task(MjcfTask):
    def reward(self, model, data):
        assert abs(data.qvel[0]) < 1e6
        return 2.0

    def success(self, model, data):
        return True

    def failure(self, model, data):
        return True
"""


@pytest.fixture
def wild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A task whose physics blows up at any action but 0; the working directory is empty."""
    path = tmp_path / "wild.xml"
    path.write_text(WILD)
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    return f"mjcf/{path}"


@pytest.mark.parametrize("task", ONE_EACH)
def test_an_episode_whose_physics_blows_up_is_truncated(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    env = make(task, observe=("state", "proprioception"), frame_skip=2)
    env.reset(seed=0)
    action = np.zeros(env.action_space.shape, np.float32)
    before, *_ = env.step(action)
    env._simulation.data.qvel[0] = np.nan
    after, reward, terminated, truncated, info = env.step(action)
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert "the physics became unstable: a " in info["physics_error"]
    assert "number 0 (mjWARN_BADQ" in info["physics_error"]
    assert info.get("success", False) is False
    assert all(np.array_equal(after[name], before[name]) for name in before)
    assert not any(np.shares_memory(after[name], before[name]) for name in before)
    with pytest.raises(UsageError, match="the episode is over"):
        env.step(action)
    env.reset()
    *_, truncated, info = env.step(action)
    assert not truncated
    assert "physics_error" not in info
    assert not list(tmp_path.iterdir())
    env.close()


def test_a_model_of_your_own_may_blow_up_alone_and_in_workers(wild: str, caplog: pytest.LogCaptureFixture) -> None:
    file = Path(wild.removeprefix("mjcf/")).with_suffix(".py")
    file.write_text(JUDGED)
    env = make(wild, observe=("state",))
    assert env.reset(seed=0)[1] == {"success": True}
    with caplog.at_level(logging.WARNING, "robovision.mujoco"):
        _, reward, terminated, truncated, info = env.step(np.ones(1, np.float32))
    assert (reward, terminated, truncated, info["success"]) == (0.0, False, True, False)
    assert "mjWARN_BADQACC" in info["physics_error"]
    assert "The simulation is unstable" in caplog.text
    env.close()
    file.unlink()
    several = make_vec(wild, 2, observe=("state",), workers=1, seed=0)
    several.reset()
    _, rewards, _, truncations, infos = several.step(np.array([[1.0], [0.0]], np.float32))
    assert truncations.tolist() == [True, False]
    assert rewards.tolist() == [0.0, 0.0]
    assert "mjWARN_BADQACC" in infos["physics_error"][0]
    assert infos["_physics_error"].tolist() == [True, False]
    several.close()
    assert not list(Path.cwd().iterdir())


def test_a_start_that_is_none_is_refused(wild: str) -> None:
    env = make(wild, observe=("state",))
    env._simulation.reset = lambda random: mujoco.mj_step(env._simulation.model, _broken(env._simulation.data))  # type: ignore[method-assign]
    with pytest.raises(UsageError, match=r"wild.xml can't begin: the physics became unstable: a velocity"):
        env.reset(seed=0)


def test_somebody_elses_listener_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(mujoco, "set_mju_user_warning", calls.append)
    monkeypatch.setattr(mujoco, "get_mju_user_warning", lambda: print)
    keep_no_file()
    assert not calls
    monkeypatch.setattr(mujoco, "get_mju_user_warning", lambda: None)
    keep_no_file()
    assert len(calls) == 1


def _broken(data: mujoco.MjData) -> mujoco.MjData:
    data.qvel[0] = np.nan
    return data
