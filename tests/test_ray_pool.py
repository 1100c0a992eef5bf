from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from robovision.envs.ray_pool import RayPool, cluster, open_pool
from robovision.errors import UsageError
from tests.misbehaving import Dying, Misbehaving


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    pytest.importorskip("ray")
    with cluster("local") as module:
        yield module


def test_lost_actors_are_replaced_and_counted(ray: Any, tmp_path: Path) -> None:
    build = functools.partial(Misbehaving, tmp_path, (1,), (3,))
    with RayPool[int, int](ray, build, 2, timeout=15) as pool:
        done = sorted(pool.map(range(5)), key=lambda d: d.index)
    assert [d.result for d in done] == [0, 1, 4, 9, 16]
    assert [d.lost for d in done] == [0, 1, 0, 1, 0]
    assert list(tmp_path.glob("closed-*"))


def test_an_item_that_kills_every_actor_is_named(ray: Any) -> None:
    with RayPool[int, int](ray, Dying, 1, timeout=60) as pool, pytest.raises(UsageError, match="5 lost 3 workers"):
        list(pool.map([5]))


def test_an_error_in_a_job_is_raised_here(ray: Any, tmp_path: Path) -> None:
    build = functools.partial(Misbehaving, tmp_path, (), ())
    with RayPool[int, int](ray, build, 1, timeout=60) as pool, pytest.raises(UsageError, match="-1 is negative"):
        list(pool.map([-1]))


def test_an_address_without_a_cluster_is_named(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with (
        pytest.raises(UsageError, match="no Ray cluster at 'nowhere'"),
        open_pool(functools.partial(Misbehaving, tmp_path, (), ()), 1, ray="nowhere"),
    ):
        pass
