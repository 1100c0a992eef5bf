"""What several tests need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from robovision.agents.config import EncoderOptions, Evaluation, Optimisation, TrainConfig
from robovision.envs.registry import EnvOptions

TINY_ENV = EnvOptions(size=32, preset="fastest", horizon=12)
TINY = TrainConfig(
    demos=2,
    seed=3,
    keep_failures=True,
    env=TINY_ENV,
    encoder=EncoderOptions(),
    optimisation=Optimisation(epochs=6, batch=8, checkpoint_every=4, precision="float32"),
    evaluation=Evaluation(episodes=2, times=2, video=True),
    device="cpu",
    threads=1,
    workers=2,
)
"""A complete run that takes seconds and learns nothing."""

TINY_ARGUMENTS = [
    *(
        "--demos",
        "2",
        "--seed",
        "3",
        "--keep-failures",
        "--env.size",
        "32",
        "--env.preset",
        "fastest",
        "--env.horizon",
        "12",
    ),
    *("--optimisation.epochs", "6", "--optimisation.batch", "8", "--optimisation.checkpoint-every", "4"),
    *("--optimisation.precision", "float32", "--evaluation.episodes", "2", "--evaluation.times", "2"),
    *("--device", "cpu", "--threads", "1", "--workers", "2"),
]


def python(code: str, folder: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter from a folder, with `path` as the only extra place of modules."""
    environment = {**os.environ, **({"PYTHONPATH": str(path)} if path else {})}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
