from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import pytest

from robovision.envs.workers import WorkerPool
from robovision.errors import UsageError
from tests.misbehaving import Dying, Misbehaving


def test_results_come_for_all_and_jobs_are_closed(tmp_path: Path) -> None:
    with WorkerPool[int, int](functools.partial(Misbehaving, tmp_path, (), ()), 2) as pool:
        done = list(pool.map(range(7)))
    assert {d.index: d.result for d in done} == {k: k**2 for k in range(7)}
    assert sum(d.lost for d in done) == 0
    assert len(list(tmp_path.glob("closed-*"))) == 2


def test_crashed_and_hung_workers_are_replaced_and_counted(tmp_path: Path) -> None:
    build = functools.partial(Misbehaving, tmp_path, (1,), (3,))
    with WorkerPool[int, int](build, 2, timeout=8) as pool:
        done = sorted(pool.map(range(5)), key=lambda d: d.index)
    assert [d.result for d in done] == [0, 1, 4, 9, 16]
    assert [d.lost for d in done] == [0, 1, 0, 1, 0]


def test_an_item_that_kills_every_worker_is_named(tmp_path: Path) -> None:
    with WorkerPool[int, int](Dying, 1) as pool, pytest.raises(UsageError, match=r"5 lost 3 workers.*exit code 9"):
        list(pool.map([5]))


def test_an_error_in_a_job_is_raised_here(tmp_path: Path) -> None:
    with (
        WorkerPool[int, int](functools.partial(Misbehaving, tmp_path, (), ()), 1) as pool,
        pytest.raises(UsageError, match="-1 is negative"),
    ):
        list(pool.map([-1]))


def refuse() -> Misbehaving:
    raise UsageError("this job can't be built")


def test_an_error_while_building_is_raised_here() -> None:
    with WorkerPool[int, int](refuse, 1) as pool, pytest.raises(UsageError, match="can't be built"):
        list(pool.map([1]))


def test_a_script_without_a_main_guard_may_start_workers(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from robovision.envs import make_vec\n"
        "print('once')\n"
        "envs = make_vec('dmc/pendulum-swingup', 2, size=16, workers=2)\n"
        "print(envs.reset(seed=0)[0]['pixels'].shape)\n"
        "envs.close()\n"
    )
    output = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=True)
    assert output.stdout.split("\n")[:2] == ["once", "(2, 3, 16, 16)"]


def test_a_job_may_be_defined_in_the_script_that_starts_the_workers(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from robovision.envs.workers import WorkerPool\n"
        "class Double:\n"
        "    def __call__(self, item): return 2 * item\n"
        "    def close(self): pass\n"
        "if __name__ == '__main__':\n"
        "    with WorkerPool(Double, 2) as pool:\n"
        "        print(sorted(done.result for done in pool.map([1, 2, 3])))\n"
    )
    output = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=True)
    assert output.stdout == "[2, 4, 6]\n"
