"""What a user's own task says, checked: every fault names its file, its function and what came."""

from __future__ import annotations

import contextlib
import math
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robovision.errors import UsageError, first_line

if TYPE_CHECKING:
    import mujoco

    from robovision.envs.mjcf import MjcfTask
    from robovision.envs.simulation import Vector


class CheckedTask:
    """A task whose answers are what they should be.

    Args:
        build: makes the task.
        file: where it is defined, for the errors.
        model, data: MuJoCo's, which the task sees.

    Raises:
        UsageError: if the task can't be made or its `control_timestep` is no time; later, from every method, if the
            task's own raises or gives something else than it should.
    """

    def __init__(self, build: type[MjcfTask], file: Path, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        self._file, self._model, self._data = file, model, data
        with self._running("Task"):
            self._task = build()
        seconds = self._task.control_timestep
        if not (_is_number(seconds) and 0 < seconds < math.inf):
            raise UsageError(f"{file}: control_timestep must be over 0 seconds, got {seconds!r}")
        self.control_timestep = float(seconds)

    def reset(self, random: np.random.Generator) -> None:
        """Set the start."""
        with self._running("reset"):
            self._task.reset(self._model, self._data, random)
        for name in ("qpos", "qvel", "ctrl"):
            numbers = getattr(self._data, name)
            bad = np.flatnonzero(~np.isfinite(numbers))
            if len(bad):
                raise UsageError(f"{self._file}: reset() made data.{name}[{bad[0]}] {numbers[bad[0]]}")

    def observation(self) -> Vector | None:
        """The proprioception, float32 [P], or None."""
        with self._running("observation"):
            own = self._task.observation(self._model, self._data)
        if own is None:
            return None
        try:
            numbers: Vector = np.ravel(np.asarray(own, np.float32))
        except (TypeError, ValueError):
            raise self._wrong("observation", "an array of numbers or None", own) from None
        bad = np.flatnonzero(~np.isfinite(numbers))
        if len(bad):
            raise self._wrong("observation", f"finite numbers; number {bad[0]} is {numbers[bad[0]]}", own)
        return numbers

    def reward(self) -> float:
        """The reward, finite."""
        with self._running("reward"):
            value: Any = self._task.reward(self._model, self._data)
        if type(value) is not float:
            if not (np.size(value) == 1 and _is_number(value := np.asarray(value).item())):
                raise self._wrong("reward", "a number", value)
            value = float(value)
        if not math.isfinite(value):
            raise self._wrong("reward", "a finite number", value)
        return float(value)

    def success(self) -> bool | None:
        """Whether the task is solved, or None if it doesn't say."""
        with self._running("success"):
            value = self._task.success(self._model, self._data)
        return None if value is None else self._truth("success", "True, False or None", value)

    def failure(self) -> bool:
        """Whether the episode ends."""
        with self._running("failure"):
            value = self._task.failure(self._model, self._data)
        return self._truth("failure", "True or False", value)

    def _truth(self, function: str, wanted: str, value: Any) -> bool:
        if isinstance(value, bool):
            return value
        array = np.asarray(value)
        if array.size != 1 or array.dtype.kind not in "biu":
            raise self._wrong(function, wanted, value)
        return bool(array.item())

    @contextlib.contextmanager
    def _running(self, function: str) -> Iterator[None]:
        """While the user's own code runs: what it raises, as an error that says where."""
        try:
            yield
        except UsageError:
            raise
        except Exception as error:  # whatever a user's file may raise
            lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(self._file)]
            line = f" in line {lines[-1]}" if lines else ""
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise UsageError(f"{self._file}: {function}() failed{line}: {reason}") from error

    def _wrong(self, function: str, wanted: str, value: Any) -> UsageError:
        text = repr(value)
        shown = text if len(text) <= 80 else f"{text[:77]}..."
        return UsageError(f"{self._file}: {function}() must give {wanted}, got {shown}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, (bool, complex))
