"""A worker of `vector`: plays some of the environments and writes what they see into memory shared with the parent."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robovision.envs.env import Observation, PixelEnv
from robovision.envs.registry import EnvOptions, make
from robovision.envs.workers import raised

DRAWING_THREADS = "LP_NUM_THREADS"
"""The variable that tells Mesa how many threads draw beside the caller's own; as many as there are cores without it."""
BUILDING = -1
"""The number of the answer that a worker gives unasked if it can't build its environments."""
Infos = dict[str, Any]
Memory = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Layout:
    """Names, shapes and types of the arrays in the shared memory, each [count, ...]."""

    arrays: tuple[tuple[str, tuple[int, ...], str], ...]

    @classmethod
    def of(cls, env: PixelEnv, count: int) -> Layout:
        """What `count` environments like this one take and give."""
        observed = tuple((name, (count, *np.shape(box.low)), box.low.dtype.str) for name, box in env.boxes.items())
        action = ("action", (count, *env.action_space.shape), "<f4")
        ends = (("terminated", (count,), "|b1"), ("truncated", (count,), "|b1"))
        return cls((*observed, action, ("reward", (count,), "<f8"), *ends))

    def size(self) -> int:
        return sum(_padded(shape, kind) for _, shape, kind in self.arrays)

    def views(self, memory: Any) -> Memory:
        views, offset = {}, 0
        for name, shape, kind in self.arrays:
            count = int(np.prod(shape))
            views[name] = np.frombuffer(memory, kind, count, offset).reshape(shape)
            offset += _padded(shape, kind)
        return views


@dataclass(frozen=True)
class Plan:
    """What a worker needs to know: which environments of which task it plays."""

    task: str
    options: EnvOptions
    members: tuple[int, ...]
    layout: Layout
    alone: bool


class Players:
    """A worker's environments, which write what they see into the shared memory."""

    def __init__(self, plan: Plan, memory: Any) -> None:
        if not plan.alone:
            os.environ.setdefault(DRAWING_THREADS, "0")  # Mesa's own threads would fight over the cores
        self._members = plan.members
        self._views = plan.layout.views(memory)
        self._envs = [make(plan.task, plan.options) for _ in plan.members]
        self._fresh: list[int | None] = [None] * len(self._envs)
        self._over = [True] * len(self._envs)

    def seed(self, seeds: Sequence[int | None]) -> None:
        """The seeds of the episodes that begin next."""
        self._fresh = [seeds[member] for member in self._members]

    def reset(self, seeds: Sequence[int | None]) -> list[Infos]:
        fresh, self._fresh = self._fresh, [None] * len(self._envs)
        given = [seeds[member] for member in self._members]
        chosen = [own if seed is None else seed for seed, own in zip(given, fresh, strict=True)]
        return [self._begin(k, seed) for k, seed in enumerate(chosen)]

    def begin(self, chosen: Sequence[bool]) -> list[Infos]:
        """Begin the next episode in the chosen ones of all environments."""
        mine = [chosen[member] for member in self._members]
        return [self._begin(k, self._take(k)) if begins else {} for k, begins in enumerate(mine)]

    def step(self, _: None) -> list[Infos]:
        return [self._begin(k, self._take(k)) if over else self._move(k) for k, over in enumerate(self._over)]

    def close(self) -> None:
        for env in self._envs:
            env.close()

    def _take(self, number: int) -> int | None:
        seed, self._fresh[number] = self._fresh[number], None
        return seed

    def _begin(self, number: int, seed: int | None) -> Infos:
        observation, info = self._envs[number].reset(seed=seed)
        self._write(number, observation, 0.0, False, False)
        return info

    def _move(self, number: int) -> Infos:
        action = self._views["action"][self._members[number]].copy()
        observation, reward, terminated, truncated, info = self._envs[number].step(action)
        self._write(number, observation, float(reward), terminated, truncated)
        return info

    def _write(self, number: int, observation: Observation, reward: float, terminated: bool, truncated: bool) -> None:
        member, views = self._members[number], self._views
        for name, value in observation.items():
            views[name][member] = value
        views["reward"][member] = reward
        views["terminated"][member], views["truncated"][member] = terminated, truncated
        self._over[number] = terminated or truncated


def serve(pipe: Connection, plan: Plan, memory: Any) -> None:
    """The worker's life: build the environments, answer until the parent closes the pipe or is gone.

    A message is (number, kind, content), its answer (number, what there is to say).
    """
    try:
        players = Players(plan, memory)
    except Exception as error:
        pipe.send((BUILDING, raised(error)))
        return
    try:
        while True:
            number, kind, content = pipe.recv()
            if kind == "seed":
                players.seed(content)
                continue
            try:
                answer: Any = getattr(players, kind)(content)
            except Exception as error:
                answer = raised(error)
            pipe.send((number, answer))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    finally:
        players.close()


def _padded(shape: tuple[int, ...], kind: str) -> int:
    """Bytes of an array, up to the next multiple of 64."""
    return -(-int(np.prod(shape)) * np.dtype(kind).itemsize // 64) * 64
