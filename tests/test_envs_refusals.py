"""What environments refuse, and what they say then."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from robovision.envs import make, make_vec
from robovision.envs.env import PixelEnv
from robovision.errors import UsageError
from tests.helpers import TINY_ENV


@pytest.fixture(scope="module")
def env() -> Iterator[PixelEnv]:
    env = make("metaworld/drawer-open", TINY_ENV)
    yield env


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
        ("walker-wlak", {}, "unknown task 'walker-wlak'; nearest: dmc/walker-walk"),
        ("dmc", {}, "unknown task 'dmc'; dmc has 51 tasks, such as dmc/acrobot-swingup; `robovision demos --list`"),
        ("gym/cart", {}, r"the families are metaworld \(50\), dmc \(51\), .* and mjcf/PATH"),
        (3, {}, "a task must be text, got 3"),
        ("metaworld/drawer-open", {"cameras": ("corner9",)}, "unknown camera 'corner9'; nearest: corner"),
        ("metaworld/drawer-open", {"cameras": "corner"}, r"cameras takes a tuple of names, got the string 'corner'"),
        ("metaworld/drawer-open", {"cameras": ()}, "at least one camera"),
        ("metaworld/drawer-open", {"camera": "corner"}, "unknown option 'camera'; nearest: cameras"),
        ("metaworld/drawer-open", {"cameras": ("lookat=1,2 distance=3",)}, "is not written like 'lookat=0,0.6,0"),
        ("dmc/walker-walk", {"cameras": (0,)}, "cameras takes names as text, got 0: write '0'"),
        ("dmc/walker-walk", {"cameras": ("lookat=0,0,nan distance=1 azimuth=0 elevation=0",)}, "needs finite numbers"),
        ("dmc/walker-walk", {"cameras": ("lookat=0,0,1 distance=0 azimuth=0 elevation=0",)}, "a distance over 0"),
        (
            "dmc/walker-walk",
            {"cameras": ("lookat=0,0,1 distance=1 azimuth=0 elevation=0 fovy=45",)},
            "is not written like 'lookat=[^']*': 'fovy' is not a part of it$",
        ),
        ("dmc/walker-walk", {"cameras": ("lookat=0,0,1 distance=1",)}, "': azimuth, elevation is missing$"),
        ("dmc/walker-walk", {"cameras": None}, "cameras takes a tuple of names, got None"),
        ("dmc/walker-walk", {"observe": 5}, "observe takes a tuple of names, got 5"),
        ("dmc/walker-walk", {"preset": None}, "preset must be text, got None"),
        ("dmc/walker-walk", {"show_goal": "no"}, "show_goal must be True or False, got 'no'"),
        ("dmc/walker-walk", {"options": {"size": 84}}, r"options must be EnvOptions, got {'size': 84}"),
        ("dmc/walker-walk", {"seed": -1}, "a seed must be at least 0, got -1"),
        ("dmc/walker-walk", {"seed": "a"}, "a seed must be a whole number, got 'a'"),
        ("dmc/walker-walk", {"lidar": 3}, "lidar must be text, got 3"),
        ("dmc/walker-walk", {"lidar": "sensr=planar"}, "sensr is unknown"),
        ("dmc/walker-walk", {"lidar": "sensor=plnar"}, "unknown sensor 'plnar'; nearest: planar"),
        ("dmc/walker-walk", {"lidar": "on=torsoo"}, "unknown body or site 'torsoo'; nearest: torso"),
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
def test_unknown_names_and_wrong_options_are_said(task: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(task, **options)


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        ("2", {}, "the number of environments must be a whole number, got '2'"),
        (2.5, {}, r"the number of environments must be a whole number, got 2\.5"),
        (0, {}, "at least 1 environment, got 0"),
        (2, {"workers": "2"}, "the number of workers must be a whole number, got '2'"),
        (2, {"workers": 0}, "at least 1 worker process, got 0"),
        (2, {"timeout": "long"}, "timeout must be over 0 seconds, got 'long'"),
        (2, {"seed": -1}, "a seed must be at least 0, got -1"),
        (2, {"seed": "a"}, "a seed must be a whole number, got 'a'"),
        (2, {"options": {"size": 84}}, "options must be EnvOptions"),
        (2, {"lidar": "on=torsoo"}, "unknown body or site 'torsoo'"),
    ],
)
def test_several_refuse_it_before_a_worker_starts(
    count: Any, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robovision.envs.vector.spawn", None)
    with pytest.raises(UsageError, match=message):
        make_vec("dmc/walker-walk", count, **options)


def test_seeds_are_checked_at_every_reset_and_a_closed_one_says_so() -> None:
    single, several = (
        make("dmc/pendulum-swingup", observe=("state",)),
        make_vec("dmc/pendulum-swingup", 2, observe=("state",), workers=1),
    )
    for env in (single, several):
        with pytest.raises(UsageError, match="a seed must be at least 0, got -1"):
            env.reset(seed=-1)
    with pytest.raises(UsageError, match="a seed must be a whole number, got 'ab'"):
        several.reset(seed="ab")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"a seed for each of 2 environments, got 1"):
        several.reset(seed=[1])
    with pytest.raises(UsageError, match=r"actions must be numbers of shape \(2, 1\), got 'left'"):
        several.step("left")  # type: ignore[arg-type]
    several.close()
    several.close()
    for act in (several.reset, lambda: several.step(np.zeros((2, 1), np.float32))):
        with pytest.raises(UsageError, match="this environment is closed: make a new one"):
            act()
