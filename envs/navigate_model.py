"""The MuJoCo model of `lidar/navigate`: a floor, a robot on two wheels, and all that a layout moves."""

from __future__ import annotations

from robovision.envs.navigate_scene import FARTHEST, GOAL, MOVER, MOVING, ROBOT, STATIC

MODEL = """<mujoco model="navigate">
  <option timestep="0.01" integrator="implicitfast"><flag midphase="disable"/></option>
  <visual><headlight ambient="0.3 0.3 0.3" diffuse="0.15 0.15 0.15"/><map znear="0.01" zfar="40"/></visual>
  <statistic center="0 0 0.5" extent="8"/>
  <asset>
    <texture name="sky" type="skybox" builtin="gradient" rgb1="0.75 0.82 0.9" rgb2="0.95 0.96 0.98"
      width="64" height="384"/>
    <texture name="floor" type="2d" builtin="checker" rgb1="0.90 0.90 0.88" rgb2="0.82 0.82 0.80"
      width="64" height="64"/>
    <material name="floor" texture="floor" texrepeat="12 12"/>
  </asset>
  <worldbody>
    <light pos="3 -4 9" dir="-0.3 0.4 -0.9" directional="true" diffuse="0.4 0.4 0.4"/>
    <camera name="top" pos="0 0 14" fovy="46"/>
    <camera name="corner" pos="-7.5 -7.5 7.5" xyaxes="0.7071 -0.7071 0 0.42 0.42 0.8" fovy="48"/>
    <geom name="floor" type="plane" size="{farthest} {farthest} 0.1" material="floor"/>
    {walls}
    <body name="goal" mocap="true"><site name="goal" type="cylinder" size="{goal} 0.01" rgba="0.15 0.75 0.3 0.8"/>
      <site name="goal_beam" type="cylinder" size="0.03 0.6" pos="0 0 0.6" rgba="0.15 0.75 0.3 0.8"/></body>
    {obstacles}{movers}
    <body name="robot">
      <freejoint name="robot"/>
      <geom name="chassis" type="cylinder" size="{chassis} 0.07" pos="0 0 0.14" mass="6" rgba="0.2 0.4 0.85 1"/>
      <geom type="box" size="0.05 0.06 0.02" pos="0.17 0 0.22" mass="0.1" rgba="0.95 0.8 0.2 1"/>
      <geom type="cylinder" size="0.05 0.05" pos="0 0 0.26" mass="0.3" rgba="0.1 0.1 0.1 1"/>
      <site name="lidar" pos="0 0 0.28" size="0.01" rgba="0 0 0 0"/>
      <camera name="robot" pos="0.2 0 0.3" xyaxes="0 -1 0 0.1 0 1" fovy="80"/>
      {casters}{wheels}
    </body>
  </worldbody>
  <actuator>
    <velocity joint="left" kv="5" ctrlrange="-15 15" forcerange="-2 2"/>
    <velocity joint="right" kv="5" ctrlrange="-15 15" forcerange="-2 2"/>
  </actuator>
</mujoco>"""


def mjcf() -> str:
    """The model as MJCF: what a layout moves are bodies without dynamics (mocap)."""
    return MODEL.format(
        farthest=FARTHEST,
        goal=GOAL,
        chassis=ROBOT - 0.01,
        walls="".join(_wall(k) for k in range(4)),
        obstacles="".join(_obstacle(k) for k in range(STATIC)),
        movers="".join(_mover(k) for k in range(MOVING)),
        casters=_caster(-0.18) + _caster(0.18),
        wheels=_wheel("left", 0.2) + _wheel("right", -0.2),
    )


def _wall(number: int) -> str:
    size = f"0.1 {FARTHEST} 0.4" if number < 2 else f"{FARTHEST} 0.1 0.4"
    return (
        f'<body name="wall{number}" mocap="true"><geom name="wall{number}" type="box" size="{size}" '
        'rgba="0.35 0.4 0.48 1"/></body>'
    )


def _obstacle(number: int) -> str:
    shape, color = (("cylinder", "0.55 0.60 0.68 1"), ("box", "0.62 0.55 0.45 1"))[number % 2]
    return (
        f'<body name="obstacle{number}" mocap="true"><geom name="obstacle{number}" type="{shape}" '
        f'size="0.3 0.3 0.5" rgba="{color}"/></body>'
    )


def _mover(number: int) -> str:
    return (
        f'<body name="mover{number}" mocap="true" pos="0 {number} 0.7"><geom name="mover{number}" type="capsule" '
        f'size="{MOVER} {0.7 - MOVER}" rgba="0.85 0.35 0.25 1"/></body>'
    )


def _wheel(name: str, y: float) -> str:
    return (
        f'<body name="{name}" pos="0 {y} 0.1"><joint name="{name}" axis="0 1 0" damping="0.02"/>'
        '<geom type="cylinder" size="0.1 0.025" euler="90 0 0" friction="1.2 0.005 0.0001" mass="0.4" '
        'rgba="0.1 0.1 0.1 1"/></body>'
    )


def _caster(x: float) -> str:
    return (
        f'<geom type="sphere" size="0.048" pos="{x} 0 0.048" condim="1" priority="1" mass="0.1" rgba="0.1 0.1 0.1 1"/>'
    )
