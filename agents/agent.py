"""A trained policy in use: `robovision.agents.load(RUN)` gives one, whatever trained it."""

from __future__ import annotations

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robovision.devices import Device, Precision, resolve_device, resolve_precision
from robovision.errors import UsageError
from robovision.run import Run

SCHEME = "hf://"
"""How a repository on the Hugging Face Hub is named where a run folder is expected: hf://owner/name."""
Observation = Mapping[str, NDArray[Any]]
Actions = NDArray[np.float32]

LOADERS = {"train": "robovision.agents.cloned:load", "rl": "robovision.agents.reinforcement.agent:load"}
"""By the kind of run (`job` in run.json), what loads its policy: called with run, checkpoint, device and whether in
half precision."""


class Agent(ABC):
    """Actions from observations; it may remember the episode, so say `reset()` when another one begins.

    Convention:
        An observation is what `robovision.envs.make` gives for the task: a dictionary of arrays, of which those that
        the policy was not trained on are ignored. An action is float32 [A] in -1..1.
    """

    def __call__(self, observation: Observation) -> Actions:
        """The action [A] for the observation of one environment."""
        actions: Actions = self.act({name: np.asarray(value)[None] for name, value in observation.items()})[0]
        return actions

    @abstractmethod
    def act(self, observations: Observation) -> Actions:
        """Actions [B, A] for B environments that are played side by side, each entry of the observations [B, ...].

        Raises:
            UsageError: if an observation does not fit the policy, naming what was expected and what came.
        """

    @abstractmethod
    def reset(self) -> None:
        """Forget the episodes so far."""


def load(
    run: Path | str, checkpoint: str | int = "final", device: Device = "cpu", precision: Precision = "float32"
) -> Agent:
    """The policy of a run folder, ready to act.

    Args:
        run: the folder, or hf://owner/name for a policy on the Hugging Face Hub.
        checkpoint: `final`, `best` (of the evaluated ones) or the number of a step.
        device: where it computes.
        precision: in which its encoder sees; in bfloat16 a step takes about a third less time on a processor that
            multiplies it natively, and actions differ in the second digit. auto: bfloat16 on such a device.

    Raises:
        UsageError: if the folder is no run, or of a kind that has no policy; if it has no such checkpoint, or a
            damaged one.
    """
    opened = Run.open(_folder(run))
    require_policy(opened)
    module, name = LOADERS[opened.job].split(":")
    loader: Callable[[Run, str, Device, bool], Agent] = getattr(importlib.import_module(module), name)
    where = resolve_device(device)
    return loader(opened, str(checkpoint), where, resolve_precision(precision, where) == "bfloat16")


def require_policy(run: Run) -> None:
    """Raise UsageError unless the run is of a kind that trains a policy."""
    if run.job not in LOADERS:
        raise UsageError(f"{run.path} is a run of `robovision {run.job}`, which trains no policy")


def _folder(run: Path | str) -> Path:
    """A run folder as it is, one on the Hub after downloading it."""
    if not str(run).startswith(SCHEME):
        return Path(run)
    from robovision.agents.hub import pull

    return pull(str(run).removeprefix(SCHEME))


def find_step(run: Run, checkpoint: str) -> int:
    """The step of a checkpoint called `final`, `best` or by its number.

    Raises:
        UsageError: if there is none, naming those that there are.
    """
    steps = run.steps()
    if not steps:
        raise UsageError(f"{run.path} has no checkpoint yet: continue it with robovision {run.job} --resume {run.path}")
    if checkpoint == "final":
        return steps[-1]
    if checkpoint == "best":
        return _best(run, steps)
    if not checkpoint.isdecimal() or int(checkpoint) not in steps:
        raise UsageError(f"no checkpoint {checkpoint!r} in {run.path}; there are final, best and steps {steps}")
    return int(checkpoint)


def _best(run: Run, steps: list[int]) -> int:
    results = run.path / "results.json"
    if not results.is_file():
        raise UsageError(f"{run.path} is not finished, so there is no best checkpoint; there are steps {steps}")
    try:
        return int(json.loads(results.read_text())["best_step"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{results} is damaged ({error!r}); choose one of the steps {steps}") from error
