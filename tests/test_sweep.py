from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from robovision.agents.config import EncoderOptions, TrainConfig
from robovision.agents.data import load_checked
from robovision.agents.sweep import finish, share, sweep
from robovision.devices import Device
from robovision.envs.demo_options import RECORD, DemoOptions
from robovision.envs.demos import collect
from robovision.envs.minari_dataset import metadata_path
from robovision.errors import UsageError
from tests.helpers import TINY


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A training of seconds on demonstrations that several share."""
    folder = tmp_path_factory.mktemp("demos")
    collect(DemoOptions(TINY.task, 2, 3, TINY.noise, TINY.env, keep_failures=True), folder, 1)
    return dataclasses.replace(
        TINY,
        data=folder,
        encoder=EncoderOptions("cnn", adapter="none"),
        evaluation=dataclasses.replace(TINY.evaluation, times=1, video=False),
        workers=1,
    )


def test_what_is_finished_is_left_alone_and_what_differs_refused(tmp_path: Path, config: TrainConfig) -> None:
    done: list[Path] = []
    jobs = {tmp_path / "one": config}
    sweep(jobs, done=done.append)
    results = tmp_path / "one" / "results.json"
    written = results.stat().st_mtime_ns
    sweep(jobs, done=done.append)
    assert done == [tmp_path / "one"] * 2
    assert results.stat().st_mtime_ns == written
    with pytest.raises(UsageError, match=r"(?s)holds a run of other options.*--seed: 3 -> 4"):
        finish(tmp_path / "one", dataclasses.replace(config, seed=4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "metaworld/hammer"}, "task: 'metaworld/drawer-open' there, 'metaworld/hammer' wanted"),
        ({"env": dataclasses.replace(TINY.env, preset="exact")}, "env.preset: 'fastest' there, 'exact' wanted"),
        ({"env": dataclasses.replace(TINY.env, cameras=("corner3",))}, r"env.cameras: \['top_cap2'\] there"),
        ({"env": dataclasses.replace(TINY.env, size=64)}, "env.size: 32 there, 64 wanted"),
        ({"demos": 3}, "holds 2 demonstrations, not 3"),
    ],
)
def test_demonstrations_that_do_not_fit_are_refused(
    tmp_path: Path, config: TrainConfig, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        finish(tmp_path / "run", dataclasses.replace(config, **changes))  # type: ignore[arg-type]


def test_a_foreign_dataset_of_other_shapes_is_refused(tmp_path: Path, config: TrainConfig) -> None:
    assert config.data is not None
    foreign = tmp_path / "foreign"
    shutil.copytree(config.data, foreign)
    metadata = json.loads(metadata_path(foreign).read_text())
    metadata.pop(RECORD)  # what only our own say of themselves
    metadata_path(foreign).write_text(json.dumps(metadata))
    assert load_checked(dataclasses.replace(config, data=foreign), foreign).pixels.shape[1:] == (3, 32, 32)
    other = dataclasses.replace(config, task="adroit/pen", env=dataclasses.replace(config.env, size=64))
    shapes = (
        r"don't fit adroit/pen: actions: \[4\] there, \[24\] wanted; "
        r"pixels: \[3, 32, 32\] there, \[3, 64, 64\] wanted; "
        r"proprioception: \[4\] there, \[24\] wanted"
    )
    with pytest.raises(UsageError, match=shapes):
        load_checked(other, foreign)


@pytest.mark.parametrize(
    ("device", "threads", "machines", "expected"),
    [
        ("cpu", 0, [{"CPU": 16.0, "GPU": 2.0}], (1, 0)),
        ("cpu", 3, [{"CPU": 16.0}], (3, 0)),
        ("auto", 0, [{"CPU": 16.0}, {"memory": 1.0}], (1, 0)),
        ("auto", 1, [{"CPU": 64.0}, {"CPU": 16.0, "GPU": 2.0}, {"CPU": 12.0, "GPU": 4.0}], (3, 1)),
        ("cuda", 0, [], (1, 1)),
    ],
)
def test_a_training_takes_its_share_of_a_cluster(
    config: TrainConfig, device: Device, threads: int, machines: list[dict[str, float]], expected: tuple[int, int]
) -> None:
    assert share(dataclasses.replace(config, device=device, threads=threads), machines) == expected


def ray_workers() -> Iterator[int]:
    """The processes in which Ray runs trainings."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if entry.read_bytes().startswith(b"ray::finish"):
                yield int(entry.parent.name)
        except OSError:
            continue


def test_a_worker_killed_in_a_sweep_costs_no_finished_cell(tmp_path: Path, config: TrainConfig) -> None:
    pytest.importorskip("ray")
    jobs = {tmp_path / name: dataclasses.replace(config, seed=k) for k, name in enumerate(("one", "two"))}
    finish(tmp_path / "one", jobs[tmp_path / "one"])
    written = (tmp_path / "one" / "results.json").stat().st_mtime_ns
    killed: list[int] = []

    def kill() -> None:
        while not (tmp_path / "two" / "checkpoints" / "step-000004").exists():
            time.sleep(0.005)
        for pid in ray_workers():
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    done: list[Path] = []
    sweep(jobs, "local", done.append)
    thread.join(10)
    assert killed
    assert sorted(done) == sorted(jobs)
    assert all((path / "results.json").exists() for path in jobs)
    assert (tmp_path / "one" / "results.json").stat().st_mtime_ns == written
