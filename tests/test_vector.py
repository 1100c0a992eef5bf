from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robovision.envs import make, make_vec, vector
from robovision.envs.vector import PixelVecEnv
from robovision.errors import UsageError
from tests.test_mjcf import ARM

TINY: dict[str, Any] = {
    "size": 24,
    "preset": "fastest",
    "horizon": 4,
    "observe": ("pixels", "depth", "proprioception", "state"),
}


def actions(envs: PixelVecEnv, seed: int) -> np.ndarray:
    shape = (envs.num_envs, *envs.single_action_space.low.shape)  # type: ignore[attr-defined]
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize("task", ["metaworld/reach", "dmc/ball_in_cup-catch", "adroit/pen", "mujoco/reacher"])
def test_each_plays_what_it_would_play_alone(task: str) -> None:
    envs = make_vec(task, 3, workers=2, seed=10, **TINY)
    alone = make(task, **TINY)
    for member in range(3):
        together, infos = envs.reset(seed=10 if member else None)
        single, info = alone.reset(seed=10 + member)
        over = False
        for step in range(10):
            assert envs.observation_space.contains(together)
            assert all(np.array_equal(together[name][member], single[name]) for name in single)
            assert {name: infos[name][member] for name in info} == info
            chosen = actions(envs, step)
            together, rewards, terminated, truncated, infos = envs.step(chosen)
            if over:  # this step begins the next episode
                single, info = alone.reset()
                reward, ends = 0.0, (False, False)
            else:
                single, gained, terminal, cut, info = alone.step(chosen[member])
                reward, ends = float(gained), (terminal, cut)
            assert (rewards[member], terminated[member], truncated[member]) == (reward, *ends)
            over = any(ends)
    assert envs.workers_lost == 0
    last, *_ = envs.step(actions(envs, 0))
    kept = last["pixels"].copy()
    envs.step(actions(envs, 1))
    assert np.array_equal(last["pixels"], kept)
    envs.close()
    alone.close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_dies_or_hangs_is_replaced_and_its_episodes_cut(how: signal.Signals) -> None:
    timeout = 60 if how == signal.SIGKILL else 8
    envs = make_vec("mujoco/hopper", 3, workers=2, timeout=timeout, **{**TINY, "horizon": 50})
    calm = make_vec("mujoco/hopper", 3, workers=2, **{**TINY, "horizon": 50})
    envs.reset(seed=0)
    calm.reset(seed=0)
    envs.step(actions(envs, 0))
    calm.step(actions(envs, 0))
    process = envs._workers[0].process
    assert process.pid is not None
    os.kill(process.pid, how)
    observation, _, terminated, truncated, infos = envs.step(actions(envs, 1))
    other, *_ = calm.step(actions(envs, 1))
    assert not terminated.any()
    assert truncated.tolist() == [True, False, True]
    reason = "died with exit code -9" if how == signal.SIGKILL else "gave no answer within 8 s and was killed"
    assert infos["worker_lost"].tolist() == [f"the simulator's worker {reason}", None, infos["worker_lost"][0]]
    assert envs.workers_lost == 1
    assert np.array_equal(observation["pixels"][1], other["pixels"][1])
    *_, truncated, infos = envs.step(actions(envs, 2))
    assert not truncated.any()
    assert "worker_lost" not in infos
    observation, *_ = envs.step(actions(envs, 3))
    assert envs.observation_space.contains(observation)
    assert not process.is_alive()
    envs.close()
    calm.close()


def test_workers_that_always_die_are_an_error_not_a_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "arm.xml"
    path.write_text(ARM)
    path.with_suffix(".py").write_text(
        "import os\nfrom robovision.envs.mjcf import MjcfTask\n"
        "class Task(MjcfTask):\n    def reset(self, model, data, random):\n        os._exit(3)\n"
    )
    envs = make_vec(f"mjcf/{path}", 2, workers=1, observe=("state",))
    monkeypatch.setattr(vector, "ATTEMPTS", 1)
    for _ in range(2):  # the error leaves it as it was
        with pytest.raises(UsageError, match="2 simulator workers in a row were lost; the last died with exit code 3"):
            envs.reset()
    assert envs.workers_lost == 4
    envs.close()


def test_all_workers_may_be_lost_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector, "ATTEMPTS", 1)
    envs = make_vec("mujoco/hopper", 2, workers=2, observe=("state",))
    envs.reset(seed=0)
    for worker in envs._workers:
        worker.process.kill()
    *_, truncated, infos = envs.step(actions(envs, 0))
    assert truncated.all()
    assert infos["worker_lost"].tolist() == ["the simulator's worker died with exit code -9"] * 2
    *_, truncated, infos = envs.step(actions(envs, 1))
    assert not truncated.any()
    assert "worker_lost" not in infos
    assert envs.workers_lost == 2
    envs.close()


def test_after_an_interrupted_call_nothing_is_taken_for_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    envs = make_vec("mujoco/hopper", 2, workers=2, seed=0, **TINY)
    envs.reset()
    for worker in envs._workers:
        assert worker.process.pid is not None
        os.kill(worker.process.pid, signal.SIGINT)  # as Ctrl-C in a terminal does

    def interrupt(waiting: set[int]) -> list[int]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(envs, "_ready", interrupt)
        with pytest.raises(KeyboardInterrupt):
            envs.step(actions(envs, 0))
    with pytest.raises(UsageError, match=r"the last call was interrupted.*: call reset\(\)"):
        envs.step(actions(envs, 1))
    alone = make("mujoco/hopper", **TINY)
    for seen in (envs.reset(seed=5)[0], envs.step(actions(envs, 2))[0]):
        mine = alone.reset(seed=5)[0] if alone._over else alone.step(actions(envs, 2)[0])[0]
        assert all(np.array_equal(seen[name][0], mine[name]) for name in mine)
    assert envs.workers_lost == 0
    envs.close()
    alone.close()


def test_an_exception_inside_a_worker_is_raised_here_and_the_others_stay_in_step(tmp_path: Path) -> None:
    path = tmp_path / "arm.xml"
    path.write_text(ARM)
    path.with_suffix(".py").write_text(
        "from robovision.envs.mjcf import MjcfTask\n"
        "class Task(MjcfTask):\n    def reward(self, model, data):\n        return 1 / int(data.ctrl[0] < 19)\n"
    )
    envs = make_vec(f"mjcf/{path}", 2, workers=2, observe=("state",))
    envs.reset(seed=0)
    with pytest.raises(UsageError, match=r"arm.py: reward\(\) failed in line 4: ZeroDivisionError"):
        envs.step(np.array([[1.0], [0.0]], np.float32))
    _, rewards, *_ = envs.step(np.zeros((2, 1), np.float32))
    assert rewards.tolist() == [1.0, 1.0]
    envs.close()


def test_wrong_use_is_said() -> None:
    with pytest.raises(UsageError, match="at least 1 environment, got 0"):
        make_vec("dmc/walker-walk", 0)
    with pytest.raises(UsageError, match="at least 1 worker process, got 0"):
        make_vec("dmc/walker-walk", 2, workers=0)
    with pytest.raises(UsageError, match="timeout must be over 0 seconds, got 0"):
        make_vec("dmc/walker-walk", 2, timeout=0)
    with pytest.raises(UsageError, match="unknown camera 'corner'"):
        make_vec("dmc/walker-walk", 2, cameras=("corner",))
    envs = make_vec("dmc/walker-walk", 2, workers=1, observe=("state",))
    with pytest.raises(UsageError, match="a seed for each of 2 environments, got 1"):
        envs.reset(seed=[1])
    envs.reset(seed=0)
    with pytest.raises(UsageError, match=r"shape \(2, 6\), got \(6,\)"):
        envs.step(np.zeros(6))
    with pytest.raises(UsageError, match=r"action\[1, 3\] is nan"):
        envs.step(np.where(np.arange(12).reshape(2, 6) == 9, np.nan, 0.0))
    envs.close()
