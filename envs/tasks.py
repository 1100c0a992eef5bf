"""What tasks there are and how each is seen unless you say otherwise, without importing a simulator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Observable = Literal["pixels", "depth", "segmentation", "proprioception", "state", "lidar"]
DRAWN: tuple[Observable, ...] = ("pixels", "depth", "segmentation")
"""What is drawn, once for each camera."""
Measure = Literal["success", "score", "return"]


@dataclass(frozen=True)
class Task:
    """What a task is like when no option says otherwise; for the CortexBench tasks, that protocol."""

    name: str
    """Family and name."""
    frame_skip: int
    """The simulator's control steps for which one action is repeated."""
    horizon: int
    """Steps, that is actions, of an episode."""
    observe: tuple[Observable, ...]
    """What an observation holds."""
    camera: str
    """The camera that `default` stands for."""
    measure: Measure
    """How an episode is judged: by `info["success"]`, by `info["score"]`, or by the sum of its rewards."""
    limit: int | None = None
    """The simulator's own end, in its control steps."""


_METAWORLD = """
    assembly basketball bin-picking box-close button-press button-press-topdown button-press-topdown-wall
    button-press-wall coffee-button coffee-pull coffee-push dial-turn disassemble door-close door-lock door-open
    door-unlock drawer-close drawer-open faucet-close faucet-open hammer hand-insert handle-press handle-press-side
    handle-pull handle-pull-side lever-pull peg-insert-side peg-unplug-side pick-out-of-hole pick-place
    pick-place-wall plate-slide plate-slide-back plate-slide-back-side plate-slide-side push push-back push-wall
    reach reach-wall shelf-place soccer stick-pull stick-push sweep sweep-into window-close window-open
"""
_DMC = """
    acrobot-swingup acrobot-swingup_sparse ball_in_cup-catch cartpole-balance cartpole-balance_sparse
    cartpole-swingup cartpole-swingup_sparse cartpole-two_poles cartpole-three_poles cheetah-run dog-stand dog-walk
    dog-trot dog-run dog-fetch finger-spin finger-turn_easy finger-turn_hard fish-upright fish-swim hopper-stand
    hopper-hop humanoid-stand humanoid-walk humanoid-run humanoid-run_pure_state humanoid_CMU-stand
    humanoid_CMU-walk humanoid_CMU-run lqr-lqr_2_1 lqr-lqr_6_2 manipulator-bring_ball manipulator-bring_peg
    manipulator-insert_ball manipulator-insert_peg pendulum-swingup point_mass-easy point_mass-hard quadruped-walk
    quadruped-run quadruped-escape quadruped-fetch reacher-easy reacher-hard stacker-stack_2 stacker-stack_4
    swimmer-swimmer6 swimmer-swimmer15 walker-stand walker-walk walker-run
"""
METAWORLD, DMC = tuple(_METAWORLD.split()), tuple(_DMC.split())
ADROIT = {"pen": 100, "door": 200, "hammer": 200, "relocate": 200}
"""With their horizons; the protocol's for pen and relocate, Gymnasium-Robotics' for the others."""
MUJOCO = {
    "ant": 1000,
    "half-cheetah": 1000,
    "hopper": 1000,
    "humanoid": 1000,
    "humanoid-standup": 1000,
    "inverted-double-pendulum": 1000,
    "inverted-pendulum": 1000,
    "pusher": 100,
    "reacher": 50,
    "swimmer": 1000,
    "walker2d": 1000,
}
"""With Gymnasium's horizons."""
FELT: tuple[Observable, ...] = ("lidar", "proprioception")

BOTH: tuple[Observable, ...] = ("pixels", "proprioception")
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        *(Task(f"metaworld/{name}", 1, 500, BOTH, "top_cap2", "success", limit=500) for name in METAWORLD),
        *(Task(f"dmc/{name}", 2, 500, ("pixels",), "0", "score") for name in DMC),
        *(Task(f"adroit/{name}", 1, steps, BOTH, "vil_camera", "success") for name, steps in ADROIT.items()),
        *(Task(f"mujoco/{name}", 1, steps, BOTH, "track", "return") for name, steps in MUJOCO.items()),
        Task("lidar/navigate", 1, 300, FELT, "top", "success"),
    )
}
"""Every named task; `mjcf/PATH` comes on top."""
