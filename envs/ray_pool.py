"""What `WorkerPool` does, with the workers on a Ray cluster: one machine's cores, or those of many."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Generic

from robovision.envs.workers import ATTEMPTS, Done, Item, Job, Result, WorkerPool
from robovision.errors import UsageError

PATIENCE = 10.0
"""Seconds in which the workers may close what they built."""


@contextlib.contextmanager
def cluster(address: str) -> Iterator[Any]:
    """The module `ray`, connected.

    Args:
        address: `local` for a cluster of this machine's cores, which ends with the block, or where one is, as `auto`.

    Raises:
        UsageError: where Ray is not installed, or there is no cluster at the address.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise UsageError("Ray is not installed: pip install 'robovision[cluster]'") from None
    try:
        ray.init(None if address == "local" else address, include_dashboard=False, log_to_driver=False)
    except (ConnectionError, ValueError) as error:
        raise UsageError(f"no Ray cluster at {address!r} ({error}); `local` starts one here") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def open_pool(
    build: Callable[[], Job[Item, Result]], workers: int, timeout: float = 300.0, ray: str | None = None
) -> contextlib.AbstractContextManager[WorkerPool[Item, Result] | RayPool[Item, Result]]:
    """Workers in processes of this machine, or on a Ray cluster.

    Args:
        build, workers, timeout: as of `WorkerPool`.
        ray: None for processes; otherwise the cluster, as `cluster` takes it.
    """
    return WorkerPool(build, workers, timeout) if ray is None else _joined(build, workers, timeout, ray)


@contextlib.contextmanager
def _joined(
    build: Callable[[], Job[Item, Result]], workers: int, timeout: float, address: str
) -> Iterator[RayPool[Item, Result]]:
    with cluster(address) as ray, RayPool(ray, build, workers, timeout) as pool:
        yield pool


class RayPool(Generic[Item, Result]):
    """Actors that each build one job and apply it to item after item; lost ones are replaced, as in `WorkerPool`.

    Args:
        ray: the module, connected.
        build: picklable; called once in each actor, returns the job.
        workers: number of actors, of a core each; no more than the cluster has cores.
        timeout: seconds that building the job and one item may take.
    """

    def __init__(self, ray: Any, build: Callable[[], Job[Item, Result]], workers: int, timeout: float) -> None:
        self._ray = ray
        self._build = build
        self._timeout = timeout
        cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._actor = ray.remote(num_cpus=1, max_restarts=0)(_Actor)
        self._actors = [self._spawn() for _ in range(min(workers, cores))]

    def __enter__(self) -> RayPool[Item, Result]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._ray.wait([a.close.remote() for a in self._actors], num_returns=len(self._actors), timeout=PATIENCE)

    def map(self, items: Sequence[Item]) -> Iterator[Done[Result]]:
        """The results in the order in which they come.

        Raises:
            UsageError: if an item lost three workers, naming it and how the last one ended.
        """
        waiting, lost = deque(range(len(items))), [0] * len(items)
        idle = list(self._actors)
        running: dict[Any, tuple[Any, int, float]] = {}
        while waiting or running:
            while waiting and idle:
                actor, index = idle.pop(), waiting.popleft()
                running[actor.apply.remote(items[index])] = actor, index, time.monotonic() + self._timeout
            for answer in self._finished(running):
                actor, index, _ = running.pop(answer)
                try:
                    result = self._receive(answer)
                except _LostError as error:
                    lost[index] += 1
                    if lost[index] == ATTEMPTS:
                        raise UsageError(f"{items[index]} lost {ATTEMPTS} workers; the last {error}") from None
                    idle.append(self._replace(actor))
                    waiting.appendleft(index)
                else:
                    idle.append(actor)
                    yield Done(index, result, lost[index])

    def _spawn(self) -> Any:
        return self._actor.remote(self._build)

    def _replace(self, actor: Any) -> Any:
        self._ray.kill(actor)
        self._actors[self._actors.index(actor)] = fresh = self._spawn()
        return fresh

    def _finished(self, running: dict[Any, tuple[Any, int, float]]) -> list[Any]:
        """What has been answered, or is overdue; waits until there is one."""
        patience = max(0.0, min(deadline for *_, deadline in running.values()) - time.monotonic())
        answered, _ = self._ray.wait(list(running), timeout=patience)
        now = time.monotonic()
        return [answer for answer, (*_, deadline) in running.items() if answer in answered or deadline <= now]

    def _receive(self, answer: Any) -> Result:
        errors = self._ray.exceptions
        try:
            return self._ray.get(answer, timeout=0)  # type: ignore[no-any-return]
        except errors.GetTimeoutError:
            raise _LostError(f"gave no answer within {self._timeout:g} s and was killed") from None
        except errors.RayActorError as error:
            raise _LostError(f"died: {str(error).splitlines()[0]}") from None
        except errors.RayTaskError as error:
            raise error.cause if isinstance(error.cause, UsageError) else error from None


class _LostError(Exception):
    """An actor is gone, and its item with it."""


class _Actor:
    """The worker's life on the cluster."""

    def __init__(self, build: Callable[[], Job[Any, Any]]) -> None:
        self._build = build
        self._job: Job[Any, Any] | None = None

    def apply(self, item: Any) -> Any:
        """The job's answer; it is built with the first item, so that what goes wrong there is raised too."""
        if self._job is None:
            self._job = self._build()
        return self._job(item)

    def close(self) -> None:
        if self._job is not None:
            self._job.close()
