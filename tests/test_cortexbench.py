"""The protocol's rules, each on states that are set by hand."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import pytest

from robovision.agents.evaluate import _outcome
from robovision.envs import EnvOptions, make
from robovision.envs.cortexbench import CORTEXBENCH
from robovision.envs.env import PixelEnv
from robovision.envs.registry import resolve

FELT = EnvOptions(observe=("proprioception",))


def still(env: PixelEnv) -> np.ndarray:
    return np.zeros(env.action_space.shape, np.float32)


def test_the_twelve_tasks_are_seen_as_the_protocol_says() -> None:
    table = {
        protocol.task: (protocol.demonstrations, options.horizon, options.frame_skip, options.cameras, options.observe)
        for protocol in CORTEXBENCH
        for options in [resolve(protocol.task, EnvOptions())]
    }
    both = ("pixels", "proprioception")
    metaworld = (25, 500, 1, ("top_cap2",), both)
    dmc = (100, 500, 2, ("0",), ("pixels",))
    assert table == {
        "adroit/pen": (100, 100, 1, ("vil_camera",), both),
        "adroit/relocate": (100, 200, 1, ("vil_camera",), both),
        **dict.fromkeys(
            [f"metaworld/{t}" for t in ("assembly", "bin-picking", "button-press-topdown", "drawer-open", "hammer")],
            metaworld,
        ),
        **dict.fromkeys(
            [f"dmc/{t}" for t in ("walker-stand", "walker-walk", "reacher-easy", "cheetah-run", "finger-spin")], dmc
        ),
    }
    assert EnvOptions().size == 224
    assert {protocol.history for protocol in CORTEXBENCH} == {3}


@pytest.mark.parametrize(("task", "joints"), [("pen", 24), ("relocate", 30)])
def test_adroit_feels_its_own_joints(task: str, joints: int) -> None:
    env = make(f"adroit/{task}", FELT)
    env.reset(seed=0)
    observation, *_ = env.step(np.full(env.action_space.shape, 0.5, np.float32))
    inside = env._simulation.data.qpos[:joints].astype(np.float32)
    assert np.array_equal(observation["proprioception"], inside)


def test_metaworld_feels_hand_and_gripper() -> None:
    env = make("metaworld/hammer", FELT)
    observation, _ = env.reset(seed=0)
    assert np.array_equal(observation["proprioception"], env.state()[:4])
    hand = env._simulation.data.body("hand").xpos
    assert np.allclose(observation["proprioception"][:3], hand, atol=0.06)


@pytest.mark.parametrize("task", [p.task for p in CORTEXBENCH])
def test_every_start_is_fresh(task: str) -> None:
    env = make(task, FELT)
    starts = [env.reset(seed=0 if k == 0 else None) and env.state() for k in range(6)]
    assert len(np.unique(np.stack(starts), axis=0)) == 6


def test_the_pen_must_be_held_right_on_more_than_20_steps() -> None:
    env = make("adroit/pen", FELT)
    env.reset(seed=0)
    hand = env._simulation._env  # type: ignore[attr-defined]
    judged = []
    for _ in range(25):
        hand.model.body_quat[hand.target_obj_body_id] = pen_orientation(hand)
        mujoco.mj_forward(hand.model, hand.data)
        judged.append(env.step(still(env))[4]["success"])
    assert judged == [False] * 20 + [True] * 5


def pen_orientation(hand: Any) -> np.ndarray:
    """The quaternion that the target must have to point where the pen points."""
    return np.array(hand.data.xquat[hand.obj_body_id])


def test_a_pen_held_wrong_does_not_count() -> None:
    env = make("adroit/pen", FELT)
    env.reset(seed=0)
    hand = env._simulation._env  # type: ignore[attr-defined]
    turned = np.zeros(4)
    mujoco.mju_mulQuat(turned, pen_orientation(hand), np.array([np.cos(0.4), np.sin(0.4), 0, 0]))  # 46 degrees
    hand.model.body_quat[hand.target_obj_body_id] = turned
    assert not any(env.step(still(env))[4]["success"] for _ in range(25))


def test_a_dropped_pen_ends_the_episode() -> None:
    env = make("adroit/pen", FELT)
    env.reset(seed=0)
    assert env.step(still(env))[2] is False
    env._simulation.data.joint("OBJTx").qpos[:] = 0.2  # its x axis points down: 5 cm above the table
    assert env.step(still(env))[2] is True


def test_the_ball_must_be_at_its_goal_on_more_than_25_steps() -> None:
    env = make("adroit/relocate", FELT)
    env.reset(seed=0)
    hand = env._simulation._env  # type: ignore[attr-defined]
    judged = []
    for step in range(40):
        away = np.array([0, 0, 0.5 if step in (3, 4, 5) else 0.0])
        hand.model.site_pos[hand.target_obj_site_id] = hand.data.xpos[hand.obj_body_id] + away
        judged.append(env.step(still(env))[4]["success"])
    assert judged == [False] * 28 + [True] * 12


def test_metaworld_counts_the_last_step() -> None:
    env = make("metaworld/drawer-open", FELT)
    env.reset(seed=0)
    infos = []
    for opened in (0.0, -0.16, 0.0):
        env._simulation.data.joint("goal_slidey").qpos[:] = opened
        infos.append(env.step(still(env))[4])
    assert [info["success"] for info in infos] == [False, True, False]
    outcome = _outcome(0, 0, infos, [0.0] * 3)
    assert (outcome.success, outcome.success_any, outcome.first_success) == (False, True, 2)


def test_dmc_counts_the_return_over_1000() -> None:
    env = make("dmc/reacher-easy", FELT)
    env.reset(seed=0)
    data, model = env._simulation.data, env._simulation.model
    rewards, infos = [], []
    for step in range(5):
        if step != 2:
            model.geom("target").pos[:2] = data.geom("finger").xpos[:2]
        else:
            model.geom("target").pos[:2] = data.geom("finger").xpos[:2] + 1.0
        _, reward, *_, info = env.step(still(env))
        rewards.append(float(reward))
        infos.append(info)
    assert rewards == [2.0, 2.0, 0.0, 2.0, 2.0]  # each action is repeated twice
    assert [info["score"] for info in infos] == pytest.approx([0.002, 0.004, 0.004, 0.006, 0.008])
    assert _outcome(0, 0, infos, rewards).score == pytest.approx(0.008)
