"""How often MetaWorld's scripted experts solve their tasks, on goals drawn anew for each episode.

    python benchmarks/metaworld_experts.py [--episodes 10] [--workers 2]

Prints the table of benchmarks/README.md, section "Experts: MetaWorld". Nothing is rendered.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from robovision.devices import cpu_count
from robovision.envs.demo_recording import hold_steps
from robovision.envs.gl import choose_backend
from robovision.envs.registry import list_tasks
from robovision.envs.workers import WorkerPool
from robovision.seeding import derive

HORIZON = 500
"""Steps after which MetaWorld ends an episode."""


@dataclass(frozen=True)
class Outcome:
    """How one expert's episodes went: how many were solved when, and the first step that solved each."""

    task: str
    any_step: int
    held: int
    last_step: int
    first: list[int]


class Player:
    """A worker's job: plays a task's expert for the full 500 steps, episode after episode."""

    def __init__(self) -> None:
        choose_backend()
        warnings.filterwarnings("ignore", message="Constant.s. may be too high")

    def __call__(self, job: tuple[str, int]) -> Outcome:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE
        from metaworld.policies import ENV_POLICY_MAP

        task, episodes = job
        name = task.removeprefix("metaworld/")
        env = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{name}-v3-goal-observable"]()
        env._freeze_rand_vec = False
        env.seeded_rand_vec = True
        expert = ENV_POLICY_MAP[f"{name}-v3"]()
        solved = np.array([play(env, expert, derive(0, "expert", task, k) % 2**31) for k in range(episodes)])
        env.close()
        first = solved.argmax(1)
        held = solved[np.arange(episodes), np.minimum(first + hold_steps(HORIZON), HORIZON - 1)]
        any_step = solved.any(1)
        counts = (int(kind.sum()) for kind in (any_step, any_step & held, solved[:, -1]))
        return Outcome(task, *counts, (first[any_step] + 1).tolist())

    def close(self) -> None:
        """Nothing stays open."""


def play(env, expert, seed):  # type: ignore[no-untyped-def]
    """Success after each of 500 steps."""
    env.seed(seed)
    state, _ = env.reset()
    success = []
    for _ in range(HORIZON):
        state, _, _, _, info = env.step(np.clip(expert.get_action(state), -1, 1).astype(np.float32))
        success.append(bool(info["success"]))
    return success


def main() -> None:
    """Play all tasks and print the table, the worst first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--workers", type=int, default=cpu_count())
    options = parser.parse_args()
    with WorkerPool[tuple[str, int], Outcome](Player, options.workers) as pool:
        jobs = [(task, options.episodes) for task in list_tasks() if task.startswith("metaworld/")]
        outcomes = [done.result for done in tqdm(pool.map(jobs), total=len(jobs), unit="task")]
    outcomes.sort(key=lambda o: (o.any_step, o.held, o.last_step, o.task))
    held = f"{hold_steps(HORIZON)} steps later"
    print(f"| task | solved at any step | {held} | at step {HORIZON} | first solved at step, median |")
    print("|---|---|---|---|---|")
    for o in outcomes:
        first = f"{statistics.median(o.first):.0f}" if o.first else "-"
        print(f"| {o.task} | {o.any_step} | {o.held} | {o.last_step} | {first} |")
    sums = [sum(getattr(o, name) for o in outcomes) for name in ("any_step", "held", "last_step")]
    print(f"| of {options.episodes * len(outcomes)} | {' | '.join(map(str, sums))} | |")


if __name__ == "__main__":
    main()
