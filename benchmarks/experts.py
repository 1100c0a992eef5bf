"""Prints the returns of the shipped experts over 20 fresh episodes, and what an action costs.

python benchmarks/experts.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from robovision.envs import experts
from robovision.envs.expert_envs import play, report_seeds
from robovision.envs.expert_models import build
from robovision.envs.expert_recipes import RECIPES

SEED = 2026
EPISODES = 20
TIMED = "dmc/walker-walk"


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    print("| task | return | lowest | highest | solved | trained on actions | kB |")
    print("|---|---|---|---|---|---|---|")
    rows = [row(task) for task in tqdm(experts.available(), unit="task")]
    print("\n".join(rows))
    print()
    print(f"one action of {TIMED}, median of five: {cost()}")


def row(task: str) -> str:
    """A line of the table, from fresh episodes."""
    expert = experts.find(task)
    assert expert is not None
    played = play(expert, report_seeds(SEED, EPISODES))
    returns, solved = played.returns, "" if played.solved is None else f"{played.solved.mean():.0%}"
    size = (Path(experts.__file__).parent / "expert_weights" / experts.file_name(task)).stat().st_size / 1000
    spread = f"{returns.mean():.0f} ± {returns.std(ddof=1):.0f} | {returns.min():.0f} | {returns.max():.0f} | {solved}"
    return f"| {task} | {spread} | {expert.info.steps:,} | {size:.0f} |"


def cost() -> str:
    """Microseconds of an action of ours and of Stable-Baselines3's `predict`, in one process."""
    expert = experts.find(TIMED)
    assert expert is not None
    state = np.random.default_rng(0).normal(size=sum(expert.info.state.values())).astype(np.float32)
    model = build(TIMED, RECIPES[TIMED], 0)
    ours, theirs = clock(lambda: expert(state)), clock(lambda: model.predict(state, deterministic=True))
    return f"{ours:.0f} µs, Stable-Baselines3's predict {theirs:.0f} µs, ratio {theirs / ours:.1f}"


def clock(function: Callable[[], object]) -> float:
    """Microseconds a call: the median of five rounds of 1000 calls, after one to warm up."""
    rounds = []
    for _ in range(6):
        start = time.perf_counter()
        for _ in range(1000):
            function()
        rounds.append((time.perf_counter() - start) * 1000)
    return float(np.median(rounds[1:]))


if __name__ == "__main__":
    main()
