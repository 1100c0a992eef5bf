"""Frames of every task for pretraining: which tasks, how they are stored, what varies."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from robovision.envs.frames import HELD_OUT, SHARD, SHARES, FrameOptions, load, render, schedule, shard_path
from robovision.envs.photographs import EPISODE, photograph
from robovision.envs.registry import list_tasks
from robovision.errors import UsageError

SMALL = FrameOptions(count=SHARD + 1, size=16, tasks=("dmc/pendulum-swingup", "dmc/cartpole-balance"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    assert render(SMALL, folder, workers=2) == 0
    return folder


def test_families_get_their_shares_and_held_out_tasks_are_left_out() -> None:
    order = schedule(FrameOptions(count=1000 * SHARD))
    families = Counter(task.split("/")[0] for task in order)
    assert {family: count / 1000 for family, count in families.items()} == pytest.approx(SHARES, abs=0.002)
    assert set(HELD_OUT) < set(list_tasks())
    assert set(order) == {task for task in list_tasks() if task.split("/")[0] in SHARES} - set(HELD_OUT)


def test_whole_shards_are_written_and_each_is_of_one_task(store: Path) -> None:
    assert schedule(SMALL) == ["dmc/pendulum-swingup", "dmc/cartpole-balance"]
    frames = load(store)
    assert frames.shape == (2 * SHARD, 3, 16, 16)
    assert frames.dtype == np.uint8
    assert np.array_equal(load(store, 1, 2), frames[SHARD:])


def test_a_lost_shard_comes_back_the_same(store: Path) -> None:
    before = load(store)
    shard_path(store, 1).unlink()
    counts: list[int] = []
    render(SMALL, store, 1, counts.append)
    assert counts == [SHARD, 2 * SHARD]
    assert np.array_equal(load(store), before)


def test_states_cameras_colours_and_lights_vary() -> None:
    frames = np.stack(list(photograph("dmc/pendulum-swingup", 2 * EPISODE, 16, "fastest", np.random.default_rng(0))))
    assert len(np.unique(frames.reshape(len(frames), -1), axis=0)) == len(frames)
    other = np.stack(list(photograph("dmc/pendulum-swingup", 2 * EPISODE, 16, "fastest", np.random.default_rng(1))))
    assert not np.array_equal(frames, other)


@pytest.mark.parametrize("task", ["metaworld/reach", "adroit/door", "mujoco/reacher", "dmc/quadruped-escape"])
def test_every_kind_of_camera_and_height_fields_are_photographed(task: str) -> None:
    frames = np.stack(list(photograph(task, 1, 16, "fastest", np.random.default_rng(0))))
    assert frames.shape == (EPISODE, 3, 16, 16)
    assert (frames.std((1, 2, 3)) > 1).mean() > 0.5


def test_wrong_options_and_foreign_folders_are_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 1 frame"):
        FrameOptions(count=0)
    with pytest.raises(UsageError, match="dmc/walker-walk"):
        FrameOptions(tasks=("dmc/walker-wlk",))
    with pytest.raises(UsageError, match="seed: 0 there, 1 wanted"):
        render(FrameOptions(SMALL.count, 16, tasks=SMALL.tasks, seed=1), store, 1)
    with pytest.raises(UsageError, match="holds no frames"):
        load(tmp_path)


def test_a_damaged_shard_is_named(store: Path, tmp_path: Path) -> None:
    content = shard_path(store, 0).read_bytes()
    shard_path(tmp_path, 0).write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError, match=r"shard-00000.npz is damaged.*delete it"):
        load(tmp_path)
    np.savez_compressed(shard_path(tmp_path, 0), pixels=np.zeros((2, 16, 16, 3), np.uint8))
    with pytest.raises(UsageError, match=r"expected uint8 \[K, 3, S, S\]"):
        load(tmp_path)
    shard_path(tmp_path, 0).write_bytes(content)
    np.savez_compressed(shard_path(tmp_path, 1), pixels=np.zeros((SHARD, 3, 8, 8), np.uint8))
    with pytest.raises(UsageError, match="the others"):
        load(tmp_path)
