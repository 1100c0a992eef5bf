"""A LiDAR on any model, and `lidar/navigate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robovision.envs import make, make_vec
from robovision.envs.demo_arrays import summarise
from robovision.envs.demo_options import DemoOptions, identity
from robovision.envs.demos import collect
from robovision.envs.lidar import Mount, MountedLidar, parse_mount
from robovision.envs.minari_dataset import main_path
from robovision.envs.navigate import Navigate
from robovision.envs.navigate_scene import FARTHEST, GOAL, MOVER, ROBOT, make_layout
from robovision.envs.registry import EnvOptions, find_task
from robovision.errors import UsageError
from robovision.lidar.mujoco_rays import mujoco_cast
from robovision.lidar.sensors import make_sensor

ROOM = """
<mujoco>
  <worldbody>
    <geom name="ahead" type="box" pos="4 0 0" size="1 6 2"/>
    <geom name="left" type="box" pos="0 6 0" size="6 1 2"/>
    <geom type="box" pos="-2 0 0" size=".5 6 2" rgba="1 1 1 0"/>
    <geom type="box" pos="-3 0 0" size=".5 6 2" group="4"/>
    <body name="base" pos="0 0 0">
      <joint type="slide" axis="0 1 0" range="-1 1" limited="true"/>
      <geom type="sphere" size=".1"/>
      <site name="eye" pos="0 0 .5"/>
      <body name="arm" pos="1 0 0"><joint name="turn" axis="0 0 1"/><geom type="box" size=".1 .5 .5"/></body>
    </body>
  </worldbody>
  <actuator><motor joint="turn"/></actuator>
</mujoco>
"""
AHEAD, LEFT, BACK = 90, 45, 0
"""Columns of the planar sensor, which begins behind and turns clockwise over the left."""


@pytest.fixture
def room(tmp_path: Path) -> str:
    (tmp_path / "room.xml").write_text(ROOM)
    return f"mjcf/{tmp_path / 'room.xml'}"


def ranges(task: str, lidar: str = "default") -> np.ndarray[Any, Any]:
    env = make(task, observe=("lidar",), lidar=lidar)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    measured: np.ndarray[Any, Any] = observation["lidar"]
    return measured


def test_the_room_is_measured_through_the_robot_itself(room: str) -> None:
    measured = ranges(room)[0]
    assert len(measured) == 180
    assert measured[AHEAD] == pytest.approx(3, abs=0.02)
    assert measured[135] == 10.0  # on the right there is nothing
    assert measured[BACK] == 10.0  # what is transparent or not drawn is not hit
    assert measured[100] == pytest.approx(3 / np.cos(np.radians(20)), abs=0.03)


def test_a_sensor_stands_where_it_is_mounted(room: str) -> None:
    site = make(room, observe=("lidar",), lidar="on=eye pos=1,0,0 euler=0,0,90")
    measured = site.reset(seed=0)[0]["lidar"][0]
    y = site._simulation.data.site("eye").xpos[1]
    assert measured[AHEAD] == pytest.approx(5 - y, abs=1e-3)
    assert measured[135] == pytest.approx(2, abs=1e-3)  # the right of what looks to the left is ahead
    tilted = ranges(room, "on=base pos=0,0,1 euler=0,30,0")  # it looks down
    assert tilted[0, AHEAD] == pytest.approx(3 / np.cos(np.radians(30)), abs=1e-3)


def test_rings_and_columns_are_those_of_the_sensor(room: str) -> None:
    env = make(room, observe=("lidar",), lidar="sensor=mini-16 on=world pos=0,0,0.4")
    measured = env.reset(seed=0)[0]["lidar"]
    assert measured.shape == (16, 180)
    data, sensor = env._simulation.data, make_sensor("mini-16")
    found, _ = mujoco_cast(env._simulation.model, data, np.array([0, 0, 0.4]), sensor.directions()[90 * 16 : 91 * 16])
    visible = np.where(found <= 30, found, 30)
    np.testing.assert_allclose(measured[:, 90], visible, rtol=1e-5)
    assert len(np.unique(measured[:, 90])) > 3


def test_a_noisy_sensor_errs_as_it_says_and_repeats_by_seed(room: str) -> None:
    exact, noisy = (
        make(room, observe=("lidar",), lidar=f"sensor=mini-16 on=world pos=0,0,0.4 noise={noise}")
        for noise in ("off", "on")
    )
    truth, first, again = (env.reset(seed=1)[0]["lidar"] for env in (exact, noisy, noisy))
    assert np.array_equal(first, again)
    later = noisy.step(np.zeros(1, np.float32))[0]["lidar"]
    assert not np.array_equal(first, later)
    hit = truth < 30
    lost = first[hit] == 30
    assert 0.005 < lost.mean() < 0.05  # 2 %
    assert np.std(first[hit][~lost] - truth[hit][~lost]) == pytest.approx(0.02, rel=0.2)
    assert (first[~hit] == 30).all()


@pytest.mark.parametrize("task", ["metaworld/drawer-open", "dmc/walker-walk", "adroit/pen", "mujoco/ant"])
def test_every_robot_can_carry_one(task: str) -> None:
    options = EnvOptions(preset="fastest", size=16, observe=("lidar", "proprioception"))
    first, second = make(task, options), make(task, options)
    seen = [env.reset(seed=3)[0] for env in (first, second)]
    assert first.observation_space.contains(seen[0])
    assert np.array_equal(seen[0]["lidar"], seen[1]["lidar"])
    assert seen[0]["lidar"].dtype == np.float32
    assert not np.shares_memory(first._observe()["lidar"], first._observe()["lidar"])


def test_a_mount_is_written_as_text() -> None:
    assert parse_mount("default", Mount("mini-16", "head")) == Mount("mini-16", "head")
    assert parse_mount("pos=1,2,3", Mount("mini-16", "head")) == Mount("mini-16", "head", (1, 2, 3))
    for text in ("on=torso pos=1,2", "euler=a,0,0", "torso", "pos=nan,0,0", "at=torso", "noise=1"):
        with pytest.raises(UsageError, match="is not written like 'sensor=planar on=torso"):
            parse_mount(text)


@pytest.mark.parametrize(
    ("lidar", "message"),
    [
        ("sensor=vlp16", "nearest: vlp-16"),
        ("on=bse", "unknown body or site 'bse'; nearest: base"),
        ("on=eyes", "eye"),
        ("on=xyz", "there are: arm, base, eye, world"),
    ],
)
def test_unknown_sensors_and_mounts_are_said(room: str, lidar: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(room, observe=("lidar",), lidar=lidar)


def test_layouts_leave_room_and_differ() -> None:
    layouts = [make_layout(np.random.default_rng(seed)) for seed in range(30)]
    assert len({tuple(layout.goal) for layout in layouts}) == 30
    for layout in layouts:
        assert layout.half.max() < FARTHEST
        assert layout.clearance(layout.start[:2], 0.0) > ROBOT + 0.3
        assert layout.clearance(layout.goal, 0.0) > -0.2  # a mover may stand there for a moment
        assert np.linalg.norm(layout.goal - layout.start[:2]) > 4
        paths = layout.movers(np.linspace(0, 60, 200))
        assert layout.standing(paths).min() > MOVER
        speed = np.linalg.norm(np.diff(paths, axis=0), axis=-1) / (60 / 199)
        assert 0.1 < speed.max() < 0.41


@pytest.fixture(scope="module")
def simulation() -> Navigate:
    return Navigate("navigate")


def test_what_is_drawn_and_hit_is_the_layout(simulation: Navigate) -> None:
    """Rays on the model from the robot agree with the layout's own distances."""
    for seed in range(3):
        simulation.reset(np.random.default_rng(seed))
        layout, pose = simulation._layout, simulation.pose()
        lidar = MountedLidar(simulation.model, simulation.mount, (0, 1, 2))
        measured = lidar.read(simulation.data, np.random.default_rng(0))[0].astype(np.float64)
        angles = np.pi - 2 * np.pi * np.arange(180) / 180 + pose[2]
        ends = np.array(pose[:2]) + measured[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        hit = measured < 10
        np.testing.assert_allclose(layout.clearance(ends, np.zeros(180))[hit], 0, atol=0.01)
        assert hit.mean() > 0.9


def drive_to(simulation: Navigate, place: Any, yaw: float = 0.0) -> None:
    simulation.data.qpos[:2] = place
    simulation.data.qpos[3:7] = np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)
    simulation.data.qvel[:] = 0
    simulation._distance = simulation._to_goal()


def test_reaching_the_goal_is_success_and_ends(simulation: Navigate) -> None:
    simulation.reset(np.random.default_rng(1))
    goal = simulation._layout.goal
    assert not simulation.judge()["success"]
    drive_to(simulation, goal - [GOAL + 0.05, 0])
    rewards = []
    over = False
    while not over:
        reward, over = simulation.step(np.array([1.0, 0.0], np.float32))
        rewards.append(reward)
    assert simulation.judge() == {"success": True, "collision": False}
    assert len(rewards) < 6
    assert rewards[-1] > 9.9
    assert -0.03 < min(rewards) < 0.2


@pytest.mark.parametrize("what", ["wall", "obstacle0", "obstacle1", "mover0"])
def test_touching_anything_is_a_collision_and_ends(simulation: Navigate, what: str) -> None:
    simulation.reset(np.random.default_rng(2))
    layout = simulation._layout
    at = {
        "wall": np.array([layout.half[0] - ROBOT + 0.02, layout.goal[1]]),
        "obstacle0": layout.place[0] + [layout.size[0, 0] + ROBOT - 0.03, 0],
        "obstacle1": layout.place[1] + (layout.size[1].min() + ROBOT - 0.03) * np.array([1.0, 0]),
        "mover0": layout.movers(0.0)[0] + [MOVER + ROBOT - 0.05, 0],
    }[what]
    drive_to(simulation, at)
    reward, over = simulation.step(np.zeros(2, np.float32))
    assert over
    assert simulation.judge() == {"success": False, "collision": True}
    assert -5.5 < reward < -4.5


def test_the_wheels_drive_as_asked(simulation: Navigate, monkeypatch: pytest.MonkeyPatch) -> None:
    for action in ([0.8, 0.0], [0.0, 0.5], [0.5, -0.4], [-0.5, 0.0]):
        simulation.reset(np.random.default_rng(3))
        for name in simulation._mocap:
            simulation._put(name, (0, 0, -50))  # nothing in the way
        monkeypatch.setattr(simulation, "_move", lambda: None)
        for _ in range(15):
            simulation.step(np.array(action, np.float32))
        monkeypatch.undo()
        speed, turn = simulation.proprioception()[2:]
        assert (speed, turn) == pytest.approx((action[0], 2 * action[1]), abs=0.08)


def test_the_goal_is_given_in_the_robots_frame(simulation: Navigate) -> None:
    simulation.reset(np.random.default_rng(4))
    drive_to(simulation, simulation._layout.goal - [0, 2.0], yaw=np.pi / 2)
    ahead, left = simulation._layout.goal - simulation.data.qpos[:2]
    simulation.data.xmat[simulation.model.body("robot").id] = [0, -1, 0, 1, 0, 0, 0, 0, 1]
    assert (ahead, left) == pytest.approx((0, 2))
    assert simulation.proprioception()[:2] == pytest.approx([2, 0], abs=1e-5)


def test_the_expert_reaches_goals() -> None:
    env = make("lidar/navigate", observe=("proprioception",))
    for seed in range(6):
        _, info = env.reset(seed=seed)
        over = False
        while not over:
            *_, terminated, truncated, info = env.step(env.expert_action())
            over = terminated or truncated
        assert info == {"success": True, "collision": False}, seed


def test_demonstrations_hold_the_ranges(tmp_path: Path) -> None:
    import h5py

    collect(DemoOptions("lidar/navigate", episodes=1, env=EnvOptions(horizon=300)), tmp_path / "demos", 1)
    assert summarise(tmp_path / "demos", 1).startswith("1 demonstrations, 1 successful")
    with h5py.File(main_path(tmp_path / "demos")) as file:
        assert file["episode_0/observations/lidar"].shape[1:] == (1, 180)


def test_the_lidar_tells_demonstrations_apart_only_where_it_is_observed() -> None:
    for observe, same in ((("state",), True), (("state", "lidar"), False)):
        one, other = (
            identity(DemoOptions(env=EnvOptions(observe=observe, lidar=lidar)))  # type: ignore[arg-type]
            for lidar in ("default", "sensor=mini-16")
        )
        assert (one == other) == same


def test_vectorised_it_is_the_same() -> None:
    env, many = make("lidar/navigate"), make_vec("lidar/navigate", 2, workers=1)
    one, _ = env.reset(seed=5)
    both, _ = many.reset(seed=4)
    for _ in range(3):
        assert all(np.array_equal(one[name], both[name][1]) for name in one)
        action = np.array([0.5, 0.5], np.float32)
        one, *_ = env.step(action)
        both, *_ = many.step(np.stack([action, action]))
    many.close()


def test_the_goal_mark_can_be_hidden() -> None:
    shown, hidden = (make("lidar/navigate", observe=("pixels",), size=64, show_goal=s) for s in (True, False))
    one, other = (env.reset(seed=0)[0]["pixels"] for env in (shown, hidden))
    assert not np.array_equal(one, other)
    shown.close()
    hidden.close()
    assert find_task("lidar/navigate").observe == ("lidar", "proprioception")
