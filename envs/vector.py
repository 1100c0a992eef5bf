"""One task many times, stepped side by side in processes of their own that share memory.

OpenGL contexts can be neither pickled nor forked: workers are spawned and build their environments themselves.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from robovision.devices import cpu_count
from robovision.envs.env import Observation, PixelEnv
from robovision.envs.registry import EnvOptions, check_seed, make_simulation, resolve, whole
from robovision.envs.vector_worker import BUILDING, Infos, Layout, Plan, serve
from robovision.envs.workers import Raised, spawn
from robovision.errors import UsageError
from robovision.seeding import derive

ATTEMPTS = 3
"""Workers that may be lost one after another in one place, without an answer between them, before that is an error."""
START = 120.0
"""Seconds that a worker may take to build its environments, on top of the timeout of a step."""
END = 10.0
"""Seconds that all workers together may take to end by themselves."""

Arrays = NDArray[Any]


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    deadline: float
    losses: int
    """Workers that were lost in its place since the last answer from there."""


@dataclass(frozen=True)
class _Lost:
    reason: str


class PixelVecEnv(VectorEnv[Observation, Arrays, Arrays]):
    """`count` copies of one task, made by `make_vec`.

    Observations, rewards and ends come as arrays [count, ...] in memory of their own. An environment whose
    episode is over begins the next one at the following step, whose action it ignores (Gymnasium's
    `AutoresetMode.NEXT_STEP`). `reset(seed=s)` seeds environment i with s + i: it then plays what `make` plays
    with that seed.

    A worker that dies or takes longer than `timeout` seconds is replaced: its episodes end truncated with the
    reason in `info["worker_lost"]`, and begin anew at the next step. `workers_lost` counts them. A call that is
    interrupted (Ctrl-C) leaves the workers alive; what it would have given is lost, so the next call must be `reset`.

    Raises:
        UsageError: as `make` does; for actions of wrong shape or with NaN, naming the index; when four workers in a
            row are lost in one place without an answer; for a step after an interrupted call; after close.
    """

    metadata = {"render_modes": ["rgb_array"], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        task: str,
        count: int,
        options: EnvOptions,
        *,
        seed: int | None = None,
        workers: int | None = None,
        timeout: float = 60.0,
    ) -> None:
        count = whole("the number of environments", count)
        if count < 1:
            raise UsageError(f"there must be at least 1 environment, got {count}")
        if workers is not None and whole("the number of workers", workers) < 1:
            raise UsageError(f"there must be at least 1 worker process, got {workers}")
        if not (isinstance(timeout, (int, float)) and timeout > 0):
            raise UsageError(f"a worker's timeout must be over 0 seconds, got {timeout!r}")
        seed = check_seed(seed)
        options = resolve(task, options)
        example = PixelEnv(task, make_simulation(task), options, render=False)
        self.num_envs = count
        self.workers_lost = 0
        self.single_observation_space = example.observation_space
        self.single_action_space = example.action_space
        self.observation_space = batch_space(example.observation_space, count)
        self.action_space = batch_space(example.action_space, count)
        example.close()
        self._names = tuple(example.boxes)
        layout = Layout.of(example, count)
        self._memory = multiprocessing.get_context("spawn").RawArray(ctypes.c_byte, layout.size())
        self._views = layout.views(self._memory)
        self._timeout = timeout
        self._seed = 0
        self._first_seed = seed
        self._asked = 0
        self._unfinished = False
        processes = min(workers or cpu_count(), count)
        groups = [tuple(range(count))[k::processes] for k in range(processes)]
        self._plans = [Plan(task, options, group, layout, processes == 1) for group in groups]
        self._workers = [self._spawn(plan, losses=0) for plan in self._plans]

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, Infos]:
        first, self._first_seed = self._first_seed, None
        seeds = self._seeds(first if seed is None else seed)
        lost = True
        while lost:  # _ask raises when it goes on like this
            infos, lost = self._ask("reset", seeds)
        return self._observations(), infos

    def begin(self, chosen: NDArray[np.bool_]) -> tuple[Observation, Infos]:
        """Begin the next episode now in the environments where `chosen`, bool [count], is true; the others wait.

        A worker that is lost meanwhile is replaced, and `info["worker_lost"]` names its environments: their episodes
        are over too.
        """
        infos, _ = self._ask("begin", chosen.tolist())
        return self._observations(), infos

    def step(self, actions: Arrays) -> tuple[Observation, Arrays, Arrays, Arrays, Infos]:
        self._views["action"][:] = self._checked(actions)
        infos, _ = self._ask("step", None)
        views = self._views
        return (
            self._observations(),
            views["reward"].copy(),
            views["terminated"].copy(),
            views["truncated"].copy(),
            infos,
        )

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the workers."""
        for worker in self._workers:
            worker.pipe.close()  # the worker sees this and ends
        end = time.monotonic() + END
        for worker in self._workers:
            worker.process.join(max(0.0, end - time.monotonic()))
            worker.process.kill()
            worker.process.join()

    def _seeds(self, seed: Any) -> list[int | None]:
        """A seed for each environment."""
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, (Sequence, np.ndarray)) and not isinstance(seed, str):
            if len(seed) != self.num_envs:
                raise UsageError(f"there must be a seed for each of {self.num_envs} environments, got {len(seed)}")
            return [check_seed(one) for one in seed]
        number = check_seed(seed)
        assert number is not None
        self._seed = number
        return [number + k for k in range(self.num_envs)]

    def _observations(self) -> Observation:
        return {name: self._views[name].copy() for name in self._names}

    def _checked(self, actions: Arrays) -> NDArray[np.float32]:
        expected = self._views["action"].shape
        try:
            actions = np.asarray(actions, np.float32)
        except (TypeError, ValueError) as error:
            raise UsageError(f"actions must be numbers of shape {expected}, got {actions!r}") from error
        if actions.shape != expected:
            raise UsageError(f"actions must have shape {expected}, got {actions.shape}")
        bad = np.argwhere(~np.isfinite(actions))
        if len(bad):
            env, index = bad[0]
            raise UsageError(f"action[{env}, {index}] is {actions[env, index]}: actions must be finite")
        return actions

    def _ask(self, kind: str, content: Any) -> tuple[Infos, bool]:
        """Send a message to every worker and wait for all answers; replaces the workers that are lost."""
        if self.closed:
            raise UsageError("this environment is closed: make a new one")
        if self._unfinished and kind != "reset":
            raise UsageError("the last call was interrupted, and what it would have given is lost: call reset()")
        self._unfinished = True
        self._asked += 1
        for worker in self._workers:
            worker.deadline = max(worker.deadline, time.monotonic() + self._timeout)
            self._tell(worker, (self._asked, kind, content))
        infos: Infos = {}
        failures: list[Exception] = []
        lost = False
        waiting = set(range(len(self._workers)))
        while waiting:
            for number in self._ready(waiting):
                answer = self._receive(number)
                if answer is None:
                    continue
                waiting.remove(number)
                if isinstance(answer, _Lost):
                    lost = True
                    failures += self._replace(number, answer.reason, infos)
                elif isinstance(answer, Raised):
                    answer.error.add_note(f"in a worker process:\n{answer.trace}")
                    failures.append(answer.error)
                else:
                    self._take(number, answer, infos)
        self._unfinished = False
        if failures:
            raise failures[0]
        return infos, lost

    @staticmethod
    def _tell(worker: _Worker, message: tuple[int, str, Any]) -> None:
        """Send a message; a worker that is gone is found out when its answer is due."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            worker.pipe.send(message)

    def _ready(self, waiting: set[int]) -> list[int]:
        """Workers that have answered, died or overrun; waits until there is one."""
        pipes = {self._workers[number].pipe: number for number in waiting}
        patience = min(self._workers[number].deadline for number in waiting) - time.monotonic()
        ready = [pipes[pipe] for pipe in wait(list(pipes), max(0.0, patience))]  # type: ignore[index]
        now = time.monotonic()
        return ready or [number for number in waiting if self._workers[number].deadline <= now]

    def _receive(self, number: int) -> list[Infos] | Raised | _Lost | None:
        """A worker's answer, the exception that it met, or why it is lost; None for an answer to an earlier call."""
        worker = self._workers[number]
        try:
            if not worker.pipe.poll():
                return _Lost(f"gave no answer within {self._timeout:g} s and was killed")
            asked, answer = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join(timeout=END)
            return _Lost(f"died with exit code {worker.process.exitcode}")
        if asked not in (self._asked, BUILDING):
            worker.deadline = time.monotonic() + self._timeout
            return None
        worker.deadline = 0.0
        return answer  # type: ignore[no-any-return]

    def _take(self, number: int, answer: list[Infos], infos: Infos) -> None:
        self._workers[number].losses = 0
        for env, info in zip(self._plans[number].members, answer, strict=True):
            infos.update(self._add_info(infos, info, env))

    def _replace(self, number: int, reason: str, infos: Infos) -> list[Exception]:
        """Start another worker in place of one that is lost; the error, if it happens again and again."""
        worker, plan = self._workers[number], self._plans[number]
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()
        self.workers_lost += 1
        for env in plan.members:
            self._views["reward"][env] = 0.0
            self._views["terminated"][env] = False
            self._views["truncated"][env] = True
            infos.update(self._add_info(infos, {"worker_lost": f"the simulator's worker {reason}"}, env))
        losses = worker.losses + 1
        self._workers[number] = self._spawn(plan, losses % (ATTEMPTS + 1))
        seeds = [derive(self._seed, "replaced", self.workers_lost, env) for env in range(self.num_envs)]
        self._tell(self._workers[number], (self._asked, "seed", seeds))
        if losses <= ATTEMPTS:
            return []
        return [UsageError(f"{losses} simulator workers in a row were lost; the last {reason}")]

    def _spawn(self, plan: Plan, losses: int) -> _Worker:
        return _Worker(*spawn(serve, plan, self._memory), time.monotonic() + START + self._timeout, losses)
