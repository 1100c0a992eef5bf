"""What looks at a training of Stable-Baselines3 while it goes on: progress, returns, losses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from robovision.agents.reinforcement.models import Model
from robovision.errors import UsageError
from robovision.progress import move
from robovision.run import Run

REMEDY = "a lower --learning.lr or a smaller --learning.gamma"


class Watch(BaseCallback):
    """Moves the progress bar, gathers returns and losses, and stops a training whose loss is not finite.

    Raises:
        UsageError: for such a loss, naming it, the step and the checkpoint that is intact.
    """

    def __init__(self, bar: tqdm[Any], run: Run, steps: int) -> None:
        super().__init__()
        self._bar = bar
        self._steps = steps
        self._run = run
        self._returns: list[float] = []
        self._losses: dict[str, list[float]] = {}

    def take(self) -> dict[str, float]:
        """Means over what was gathered since the last time: return of the episodes, and each loss."""
        means = {"episode_return": float(np.mean(self._returns))} if self._returns else {}
        means |= {name: float(np.mean(values)) for name, values in self._losses.items()}
        self._returns, self._losses = [], {}
        return means

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Tell an error that numbers which are not finite brought about from any other."""
        try:
            yield
        except ValueError as error:
            assert isinstance(self.model, Model)
            check_weights(self.model, self._run)
            if "invalid values" in str(error):  # so PyTorch says that a distribution's parameters are not finite
                raise _exploded("the policy's output is not finite", self.num_timesteps, self._run) from error
            raise

    def _on_rollout_start(self) -> None:
        for name, value in self.logger.name_to_value.items():
            part, _, short = name.partition("/")
            if part == "train" and short.endswith("loss"):
                if not np.isfinite(value):
                    raise _exploded(f"{short} is {value}", self.num_timesteps, self._run)
                self._losses.setdefault(short, []).append(float(value))

    def _on_step(self) -> bool:
        move(self._bar, min(self.num_timesteps, self._steps))
        for info in self.locals["infos"]:
            if "episode" in info:
                self._returns.append(float(info["episode"]["r"]))
                self._bar.set_postfix(episode_return=f"{self._returns[-1]:.1f}", refresh=False)
        return True


def check_weights(model: Model, run: Run) -> None:
    """Raise UsageError if a weight of the policy is not finite, naming it."""
    for name, value in model.policy.named_parameters():
        if not value.isfinite().all():
            raise _exploded(f"the weight {name} is not finite", model.num_timesteps, run)


def _exploded(what: str, step: int, run: Run) -> UsageError:
    checkpoints = run.checkpoints()
    kept = f"the last checkpoint, {checkpoints[-1].name}, is intact" if checkpoints else "there is no checkpoint yet"
    return UsageError(f"{what} after {step} actions; {kept}. Try {REMEDY}")
