"""Experts: small policies that see a task's state, not its image, and show how the task is done.

Each is one safetensors file in `expert_weights/`; `robovision.envs.expert_training` makes them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import dacite
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialise

from robovision.errors import UsageError
from robovision.files import write_atomically

CLIP = 10.0
"""The normalised state is clipped to this many standard deviations."""

Array = NDArray[np.float32]
Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class ExpertInfo:
    """Where an expert comes from, and how good it is."""

    task: str
    """Family and name, such as `dmc/walker-walk`."""
    algorithm: str
    """The Stable-Baselines3 algorithm that trained it: SAC or PPO."""
    steps: int
    """Actions it had been trained on."""
    seed: int
    """The training's seed."""
    frame_skip: int
    """Control steps for which each action is held."""
    state: dict[str, int]
    """The state's parts in their order, and how many numbers each has."""
    episodes: int
    """Fresh episodes, of the task's full length, behind the two returns."""
    return_mean: float
    """Mean return."""
    return_std: float
    """Standard deviation of the return over the episodes."""
    versions: dict[str, str]
    """The libraries it was trained with."""
    solved: float | None = None
    """Share of the episodes that ended in success; None where the task does not say."""
    note: str = ""
    """What differs from what the training command does."""


class Expert:
    """A policy in plain numpy: the state normalised, then a network as Stable-Baselines3 builds it.

    SAC's has ReLUs and ends in tanh; PPO's has tanh inside and its output is clipped.

    Convention:
        state: float32 [S] or [N, S], the parts that `info.state` names, ravelled and concatenated in that order.
        action: float32 [A] or [N, A] in -1..1, the task's own bounds.

    Args:
        info: where it comes from.
        tensors: `mean` and `std` of shape [S]; `layers.0.weight` [out, in], `layers.0.bias` [out] and so on.

    Raises:
        UsageError: if the tensors don't fit together, or are not finite, naming each fault.
    """

    def __init__(self, info: ExpertInfo, tensors: Tensors) -> None:
        faults = _faults(info, tensors)
        if faults:
            raise UsageError(f"these are no weights of an expert for {info.task}: {'; '.join(faults)}")
        single = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
        self.info = info
        self._clipped = info.algorithm == "PPO"
        self._mean, self._std = single["mean"], single["std"]
        self._layers = [
            (np.ascontiguousarray(single[f"layers.{i}.weight"].T), single[f"layers.{i}.bias"])
            for i in range(_depth(tensors))
        ]

    def __call__(self, state: Array) -> Array:
        """The mean action in a state, or in each of several.

        Raises:
            UsageError: if the state has another size.
        """
        state = np.asarray(state, np.float32)
        if state.shape[-1:] != self._mean.shape:
            raise UsageError(f"the expert for {self.info.task} needs {len(self._mean)} numbers, got {state.shape}")
        x = ((state - self._mean) / self._std).clip(-CLIP, CLIP)
        *hidden, (weight, bias) = self._layers
        for inner, offset in hidden:
            x = x @ inner + offset
            x = np.tanh(x) if self._clipped else np.maximum(x, 0.0)
        x = x @ weight + bias
        action: Array = x.clip(-1, 1) if self._clipped else np.tanh(x)
        return action


def flatten(observation: Mapping[str, Any]) -> Array:
    """The state that an expert sees: float32 [S], the observation's parts ravelled and concatenated in their order.

    >>> flatten({"position": np.array([[1.0, 2.0]]), "height": 3.0})
    array([1., 2., 3.], dtype=float32)
    """
    return np.concatenate([np.ravel(part) for part in observation.values()]).astype(np.float32)


def available() -> tuple[str, ...]:
    """The tasks that have an expert.

    >>> "dmc/walker-walk" in available()
    True
    """
    return tuple(sorted(path.stem.replace("-", "/", 1) for path in _folder().glob("*.safetensors")))


@functools.cache
def find(task: str) -> Expert | None:
    """The expert for a task such as `dmc/walker-walk`, or None if it has none.

    Raises:
        UsageError: if its file is damaged.
    """
    return load(_folder() / file_name(task)) if task in available() else None


def file_name(task: str) -> str:
    """The name of the file with a task's expert.

    >>> file_name("dmc/walker-walk")
    'dmc-walker-walk.safetensors'
    """
    return f"{task.replace('/', '-', 1)}.safetensors"


def load(path: Path) -> Expert:
    """The expert in a file. Nothing in the file is executed.

    Raises:
        UsageError: if the file is missing, truncated or another format, or holds something other than an expert.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except FileNotFoundError:
        raise UsageError(f"there is no expert {path}") from None
    except (SafetensorError, OSError, TypeError) as error:
        raise UsageError(f"{path} is no readable safetensors file: {error}") from error
    try:
        info = dacite.from_dict(ExpertInfo, json.loads(metadata["expert"]), dacite.Config(strict=True))
    except (KeyError, ValueError, TypeError, AttributeError, dacite.DaciteError) as error:
        raise UsageError(f"{path} does not say which expert it is: {type(error).__name__}: {error}") from error
    try:
        return Expert(info, tensors)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def save(path: Path, info: ExpertInfo, tensors: Tensors) -> None:
    """Write an expert's file: the state's statistics in float32, the network in float16.

    Raises:
        UsageError: if it can't be written.
    """
    kinds = {name: np.float32 if name in ("mean", "std") else np.float16 for name in tensors}
    content = serialise(
        {name: np.ascontiguousarray(tensor, kinds[name]) for name, tensor in tensors.items()},
        {"expert": json.dumps(dataclasses.asdict(info))},
    )
    with write_atomically(path) as file:
        file.write(content)


def _faults(info: ExpertInfo, tensors: Tensors) -> list[str]:
    """What keeps tensors from being an expert's, in words."""
    size = sum(info.state.values())
    wanted: dict[str, tuple[int, ...]] = {"mean": (size,), "std": (size,)}
    for i in range(max(1, _depth(tensors))):
        bias = tensors.get(f"layers.{i}.bias", np.zeros(0))
        wanted |= {f"layers.{i}.weight": (bias.size, size), f"layers.{i}.bias": (bias.size,)}
        size = bias.size
    faults = [] if info.algorithm in ("SAC", "PPO") else [f"algorithm is {info.algorithm!r}, neither SAC nor PPO"]
    faults += [f"{name} is missing" for name in wanted if name not in tensors]
    faults += [f"{name} is unexpected" for name in tensors if name not in wanted]
    shared = {name: tensor for name, tensor in tensors.items() if name in wanted}
    faults += [f"{n} has shape {t.shape}, not {wanted[n]}" for n, t in shared.items() if t.shape != wanted[n]]
    faults += [f"{n} is {t.dtype}, not a float" for n, t in shared.items() if t.dtype.kind != "f"]
    faults += [f"{n} is not finite" for n, t in shared.items() if t.dtype.kind == "f" and not np.isfinite(t).all()]
    if "std" in tensors and not (tensors["std"] > 0).all():
        faults.append("std is not positive")
    return faults


def _depth(tensors: Tensors) -> int:
    return sum(name.endswith(".weight") for name in tensors)


def _folder() -> Path:
    return Path(str(resources.files("robovision.envs"))) / "expert_weights"
