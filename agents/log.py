"""The numbers of a training as it goes: for TensorBoard if that is installed, for Weights & Biases if that is set up.

They lie in curve.csv in any case.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from robovision.run import Run, to_dict

Write = Callable[[int, Mapping[str, float]], None]


class Log:
    """Where the numbers of one run go.

    Args:
        run: its folder gets a folder `tensorboard`; a resumed run adds to it.
        config: of the run, as Weights & Biases shows it.
        step: from which the run goes on.
    """

    def __init__(self, run: Run, config: object, step: int = 0) -> None:
        self._closers: list[Callable[[], object]] = []
        opened = (self._tensorboard(run, step), self._wandb(run, config))
        self._writers = [write for write in opened if write is not None]

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers by name, at a step."""
        for write in self._writers:
            write(step, values)

    def close(self) -> None:
        """Write what is still held back."""
        for closer in self._closers:
            closer()

    def _tensorboard(self, run: Run, step: int) -> Write | None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError:
            return None
        writer = SummaryWriter(run.path / "tensorboard", purge_step=step)
        self._closers.append(writer.close)

        def write(at: int, values: Mapping[str, float]) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, at)

        return write

    def _wandb(self, run: Run, config: object) -> Write | None:
        """Only where a person has said so: with a key, or a mode such as `offline`."""
        if not {"WANDB_API_KEY", "WANDB_MODE"} & os.environ.keys():
            return None
        try:
            import wandb
        except ModuleNotFoundError:
            return None
        project = os.environ.get("WANDB_PROJECT", "robovision")
        session: Any = wandb.init(
            project=project,
            name=run.path.name,
            id=_name(run.path),
            dir=str(run.path),
            config=to_dict(config),
            resume="allow",
        )
        self._closers.append(session.finish)
        return lambda at, values: session.log(dict(values), step=at)


def _name(path: Path) -> str:
    """By what Weights & Biases knows a run folder again when it is resumed."""
    return hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
