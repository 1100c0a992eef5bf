"""A user's own model as a task."""

from __future__ import annotations

import textwrap
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from robovision.envs import make, mjcf
from robovision.errors import UsageError
from tests.episodes import play, same

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


def test_views_do_not_hide_each_other(tmp_path: Path) -> None:
    path = tmp_path / "arm.xml"
    path.write_text(ARM.replace("<light", '<camera name="view1" pos="0 0 3"/><light'))
    view = "lookat=0,0,1 distance=2 azimuth=0 elevation=0"
    with pytest.raises(UsageError, match="two of the cameras would have the same name: 0; lookat=0,0,1 "):
        make(f"mjcf/{path}", cameras=("default", view, "view1"))


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


def method(name: str, body: str, *more: str) -> str:
    """A task with one method, whose body is in line 3 of the file."""
    return f"class Task(MjcfTask):\n def {name}({', '.join(('self', 'm', 'd', *more))}): {body}"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("Task = 3", "must define `class Task"),
        ("import nothere", "arm.py can't be run: ModuleNotFoundError: No module named 'nothere'"),
        ("class Task(:", "arm.py can't be run: SyntaxError"),
        ("class Task(MjcfTask): control_timestep = 0", r"arm.py: control_timestep must be over 0 seconds, got 0"),
        ("class Task(MjcfTask): control_timestep = 'a'", r"arm.py: control_timestep must be over 0 seconds, got 'a'"),
        ("class Task(MjcfTask): control_timestep = float('inf')", "must be over 0 seconds, got inf"),
        (
            "class Task(MjcfTask):\n def __init__(self): raise OSError('gone')",
            r"arm.py: Task\(\) failed in line 3: OSError: gone",
        ),
        (
            "class Task(MjcfTask):\n def __init__(self, size): pass",
            r"arm.py: Task\(\) failed: TypeError: .*missing 1 required",
        ),
        (method("reset", "d.qpos[7] = 1", "r"), r"arm.py: reset\(\) failed in line 3: IndexError"),
        (method("reset", "d.qvel[:] = float('nan')", "r"), r"arm.py: reset\(\) made data.qvel\[0\] nan"),
        (method("reward", "return 1 / 0"), r"arm.py: reward\(\) failed in line 3: ZeroDivisionError: division by zero"),
        (method("reward", "return float('nan')"), r"arm.py: reward\(\) must give a finite number, got nan"),
        (method("reward", "return d.qpos * float('inf')"), r"reward\(\) must give a finite number, got (nan|-?inf)"),
        (method("reward", "pass"), r"arm.py: reward\(\) must give a number, got None"),
        (method("reward", "return 'much'"), r"arm.py: reward\(\) must give a number, got 'much'"),
        (method("success", "return 'yes'"), r"arm.py: success\(\) must give True, False or None, got 'yes'"),
        (method("success", "return d.nothing"), r"arm.py: success\(\) failed in line 3: AttributeError"),
        (method("failure", "pass"), r"arm.py: failure\(\) must give True or False, got None"),
        (method("failure", "return m.opt.gravity > 1"), r"failure\(\) must give True or False, got array\(\[F"),
        (method("observation", "return [1, float('nan')]"), r"finite numbers; number 1 is nan, got \[1, nan\]"),
        (method("observation", "return 'near'"), r"observation\(\) must give an array of numbers or None, got 'near'"),
        (method("observation", "raise ValueError"), r"observation\(\) failed in line 3: ValueError: ValueError"),
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
