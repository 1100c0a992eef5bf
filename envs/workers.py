"""Runs independent pieces of simulation on several processes, and survives those that crash or hang.

OpenGL contexts can be neither pickled nor forked: workers are spawned, and build what they need themselves.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from robovision.errors import UsageError

Item = TypeVar("Item")
Result = TypeVar("Result")
ItemIn = TypeVar("ItemIn", contravariant=True)
ResultOut = TypeVar("ResultOut", covariant=True)

ATTEMPTS = 3


class Job(Protocol[ItemIn, ResultOut]):
    """What runs inside a worker: called with item after item, then closed."""

    def __call__(self, item: ItemIn, /) -> ResultOut: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Done(Generic[Result]):
    """A finished item's place in the sequence, its result, and how many workers were lost on the way to it."""

    index: int
    result: Result
    lost: int


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    index: int | None = None
    deadline: float = float("inf")


class WorkerPool(Generic[Item, Result]):
    """Processes that each build one job and apply it to item after item.

    A worker that dies, or takes more than `timeout` seconds over an item, is replaced and the item tried
    again, three times in all. An exception inside a job is raised here instead.

    Args:
        build: picklable; called once in each worker, returns the job.
        workers: number of processes.
        timeout: seconds that building the job and one item may take.
    """

    def __init__(self, build: Callable[[], Job[Item, Result]], workers: int, timeout: float = 300.0) -> None:
        if workers < 1:
            raise UsageError(f"there must be at least 1 worker process, got {workers}")
        self._build = build
        self._timeout = timeout
        self._workers = [self._spawn() for _ in range(workers)]

    def __enter__(self) -> WorkerPool[Item, Result]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.pipe.close()  # an idle worker sees this and ends
            if worker.index is not None:
                worker.process.kill()
        for worker in self._workers:
            worker.process.join(timeout=10)
            worker.process.kill()

    def map(self, items: Sequence[Item]) -> Iterator[Done[Result]]:
        """The results in the order in which they come.

        Raises:
            UsageError: if an item lost three workers, naming it and how the last one ended.
        """
        waiting = deque(range(len(items)))
        lost = [0] * len(items)
        left = len(items)
        while left:
            for worker in self._workers:
                if worker.index is None and waiting:
                    self._give(worker, waiting.popleft(), items)
            for worker in self._finished():
                index = worker.index
                assert index is not None
                try:
                    result = self._receive(worker)
                except _LostWorkerError as error:
                    lost[index] += 1
                    if lost[index] == ATTEMPTS:
                        raise UsageError(f"{items[index]} lost {ATTEMPTS} workers; the last {error}") from None
                    self._workers[self._workers.index(worker)] = self._spawn()
                    waiting.appendleft(index)
                else:
                    left -= 1
                    yield Done(index, result, lost[index])

    def _spawn(self) -> _Worker:
        return _Worker(*spawn(_serve, self._build))

    def _give(self, worker: _Worker, index: int, items: Sequence[Item]) -> None:
        worker.index = index
        worker.deadline = time.monotonic() + self._timeout
        try:
            worker.pipe.send(items[index])
        except BrokenPipeError:
            worker.deadline = 0.0  # it died while idle: found out as lost in the next round

    def _finished(self) -> list[_Worker]:
        """Busy workers that have answered, died or overrun; waits until there is one."""
        busy = [worker for worker in self._workers if worker.index is not None]
        patience = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
        ready = wait([worker.pipe for worker in busy], patience)
        now = time.monotonic()
        return [worker for worker in busy if worker.pipe in ready or worker.deadline <= now]

    def _receive(self, worker: _Worker) -> Result:
        value: Any = None
        try:
            answered = worker.pipe.poll()
            if answered:
                value = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join(timeout=10)
            raise _LostWorkerError(f"died with exit code {worker.process.exitcode}") from None
        if not answered:
            worker.process.kill()
            worker.process.join()
            raise _LostWorkerError(f"gave no answer within {self._timeout:g} s and was killed")
        worker.index = None
        worker.deadline = float("inf")
        if isinstance(value, Raised):
            value.error.add_note(f"in a worker process:\n{value.trace}")
            raise value.error
        return value  # type: ignore[no-any-return]


def spawn(target: Callable[..., None], *arguments: object) -> tuple[SpawnProcess, Connection]:
    """A new process that runs `target(pipe, *arguments)`, and our end of its pipe.

    The process doesn't import the user's script again, unless an argument is defined in it: one without
    `if __name__ == "__main__":` would start workers of its own. Ctrl-C doesn't reach it: the parent decides.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
    main = sys.modules["__main__"]
    needed = any(getattr(argument, "__module__", None) == "__main__" for argument in arguments)
    names = () if needed else ("__file__", "__spec__")
    hidden: dict[str, Any] = {name: vars(main)[name] for name in names if name in vars(main)}
    vars(main).update(dict.fromkeys(hidden))
    try:
        with _without_interrupts():
            process.start()
    finally:
        vars(main).update(hidden)
    theirs.close()
    return process, ours


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C waits until the block ends; processes that begin in it never see one."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # it would let them through again when the first process begins
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _LostWorkerError(Exception):
    """A worker is gone, and its item with it."""


@dataclass(frozen=True)
class Raised:
    """An exception inside a job, on its way to the parent."""

    error: Exception
    trace: str


def _serve(pipe: Connection, build: Callable[[], Job[Any, Any]]) -> None:
    """The worker's life: build the job, answer items until the parent closes the pipe or is gone."""
    try:
        job = build()
    except Exception as error:
        pipe.send(raised(error))
        return
    try:
        while True:
            item = pipe.recv()
            try:
                answer = job(item)
            except Exception as error:
                answer = raised(error)
            pipe.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    finally:
        job.close()


def raised(error: Exception) -> Raised:
    """The exception with its trace; one that is not ours as its text, since it may not be picklable."""
    trace = traceback.format_exc()
    return Raised(error if isinstance(error, UsageError) else RuntimeError(repr(error)), trace)
