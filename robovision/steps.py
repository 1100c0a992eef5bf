"""The loop that trainings share: step after step in a run folder, with a curve, checkpoints and time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from robovision.files import write_csv
from robovision.optimisers import restore, save
from robovision.processes import ALONE, Processes
from robovision.run import Run
from robovision.types import Metric

CURVE_EVERY = 10
"""One of so many steps is a row of the curve."""

Losses = Mapping[str, Tensor | float]
"""Numbers of a step, by name."""


class Steps:
    """The steps of a training, from wherever its run folder stands to the end.

    Args:
        run: the folder; only the first process writes there.
        model: what is trained, with its first weights; gets those of the newest checkpoint.
        optimizer: of the model; gets its state.
        total: how many steps there are.
        checkpoint_every: steps between two checkpoints.
        processes: those that train together.

    Raises:
        UsageError: if the newest checkpoint is damaged or of another model.
    """

    def __init__(
        self,
        run: Run,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total: int,
        checkpoint_every: int,
        processes: Processes = ALONE,
    ) -> None:
        self._run, self._model, self._optimizer = run, model, optimizer
        self._total, self._every, self._processes = total, checkpoint_every, processes
        self.step, self.curve, self._seconds = restore(run, model, optimizer)

    def finish(
        self, title: str, train_step: Callable[[], Losses], saved: Callable[[], object] = lambda: None
    ) -> list[Metric]:
        """Make the steps that are missing; returns the last numbers of the curve and the seconds that it took.

        Args:
            title: of the progress bar.
            train_step: makes step `self.step` and gives its numbers.
            saved: called after each checkpoint, in the first process.

        Raises:
            UsageError: if a checkpoint can't be written; those before it stay intact.
        """
        leads = self._processes.leads
        with tqdm(total=self._total, initial=self.step, desc=title, unit="step", disable=not leads) as bar:
            while self.step < self._total:
                began = time.monotonic()
                losses = train_step()
                self.step += 1
                self._seconds += time.monotonic() - began
                if self.step % CURVE_EVERY == 0 or self.step == self._total:
                    means = {name: self._processes.mean(value) for name, value in losses.items()}
                    self.curve.append({"step": self.step, **means})
                    bar.set_postfix({name: f"{value:.3g}" for name, value in means.items()}, refresh=False)
                bar.update()
                if leads and (self.step % self._every == 0 or self.step == self._total):
                    self._save()
                    saved()
        return self._metrics()

    def _save(self) -> None:
        save(self._run, self.step, self.curve, self._seconds, self._model, self._optimizer)
        if self.curve:
            write_csv(self._run.path / "curve.csv", list(self.curve[-1]), self.curve)

    def _metrics(self) -> list[Metric]:
        """The means over the last twentieth of the curve, and the time."""
        last = self.curve[-max(1, len(self.curve) // 20) :]
        names = [name for name in last[0] if name != "step"]
        means = [Metric(name, float(np.mean([row[name] for row in last])), "1", count=len(last)) for name in names]
        return [*means, Metric("training_time", round(self._seconds, 1), "s")]
