from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from robovision.agents.clips import Clips, histories, random_shift
from robovision.envs.demos import DemoOptions, Episode, collect, episode_path, load, load_episode, summarise
from robovision.errors import UsageError
from tests.helpers import TINY_ENV

OPTIONS = DemoOptions(episodes=3, seed=5, noise=0.1, env=TINY_ENV)


def fake_episodes(*lengths: int) -> list[Episode]:
    """Episodes whose numbers say which episode and time they are."""
    return [
        Episode(
            np.full((n, 3, 4, 4), k, np.uint8) + np.arange(n, dtype=np.uint8)[:, None, None, None] * 10,
            np.stack([np.full(n, k), np.arange(n)], axis=1).astype(np.float32),
            np.arange(n, dtype=np.float32)[:, None],
            np.zeros(n, bool),
        )
        for k, n in enumerate(lengths)
    ]


def test_an_interrupted_collection_goes_on_and_gives_the_same(tmp_path: Path) -> None:
    seen: list[int] = []
    assert collect(OPTIONS, tmp_path / "a", 2, seen.append) == 0
    assert seen == [0, 1, 2, 3]
    collect(dataclasses.replace(OPTIONS, episodes=1), tmp_path / "b", 1)
    collect(OPTIONS, tmp_path / "b", 1)
    for k in range(3):
        one, other = (load_episode(episode_path(tmp_path / folder, k)) for folder in "ab")
        for field in dataclasses.fields(Episode):
            assert np.array_equal(getattr(one, field.name), getattr(other, field.name))
    assert load_episode(episode_path(tmp_path / "a", 2)).pixels.shape == (TINY_ENV.horizon, 3, 32, 32)
    assert "3 demonstrations, 0 successful, 36 frames" in summarise(tmp_path / "a", 3)
    starts = [load_episode(episode_path(tmp_path / "a", k)).pixels[0] for k in range(3)]
    assert not np.array_equal(starts[0], starts[1])


def test_other_demonstrations_are_not_mixed_in(tmp_path: Path) -> None:
    collect(dataclasses.replace(OPTIONS, episodes=1), tmp_path, 1)
    other = dataclasses.replace(OPTIONS, env=dataclasses.replace(TINY_ENV, preset="exact"))
    with pytest.raises(UsageError, match=r"holds other demonstrations \(env: .*'fastest'.* there, .*'exact'.* wanted"):
        collect(other, tmp_path, 1)


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"episode-0000\.npz is missing"):
        load(tmp_path, 1)
    np.savez(episode_path(tmp_path, 0), pixels=np.zeros(3))
    with pytest.raises(UsageError, match=r"episode-0000\.npz is damaged"):
        load(tmp_path, 1)
    content = episode_path(tmp_path, 0).read_bytes()
    episode_path(tmp_path, 0).write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError, match=r"episode-0000\.npz is damaged"):
        load(tmp_path, 1)


def test_wrong_options_are_said() -> None:
    with pytest.raises(UsageError, match="unknown task"):
        DemoOptions(task="metaworld/none")
    with pytest.raises(UsageError, match="at least 1 episode, got 0"):
        DemoOptions(episodes=0)
    with pytest.raises(UsageError, match=r"noise must lie in 0\.\.1"):
        DemoOptions(noise=2)


def test_every_frame_is_drawn_equally_often() -> None:
    clips = Clips(fake_episodes(3, 9), history=1, clip=4, shift=0, seed=0)
    counts = torch.zeros(2, 9)
    for step in range(400):
        batch = clips.batch(step, 16)
        where = batch.proprioception.long()
        counts.index_put_((where[:, 0], where[:, 1]), torch.ones(len(where)), accumulate=True)
        assert torch.equal(batch.actions[:, 0], batch.proprioception[:, 1])
    drawn = torch.cat([counts[0, :3], counts[1]])
    assert counts[0, 3:].sum() == 0
    assert float(drawn.std() / drawn.mean()) < 0.05


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    one, other = (Clips(fake_episodes(30, 20), 3, 4, 1, seed=2) for _ in range(2))
    one.batch(0, 4)
    assert torch.equal(one.batch(7, 4).images, other.batch(7, 4).images)
    assert not torch.equal(one.batch(8, 4).images, other.batch(7, 4).images)


def test_histories_are_the_frames_before_and_the_first_repeats() -> None:
    clips = Clips(fake_episodes(6), history=3, clip=2, shift=0, seed=0)
    for step in range(50):
        batch = clips.batch(step, 3)
        embedded = batch.images[:, :, 0, 0, 0, None].float() / 10
        now = batch.proprioception[:, 1]
        expected = torch.stack([(now - 2).clamp_min(0), (now - 1).clamp_min(0), now], dim=1)
        assert torch.equal(histories(embedded, batch.valid)[..., 0], expected)


def test_a_shift_moves_each_clip_as_one() -> None:
    images = torch.randint(256, (8, 2, 3, 16, 16), dtype=torch.uint8)
    moved = random_shift(images, 3, torch.Generator().manual_seed(0))
    kinds = set()
    for before, after in zip(images, moved, strict=True):
        fits = [
            (dy, dx)
            for dy in range(-3, 4)
            for dx in range(-3, 4)
            if torch.equal(after[..., 3:-3, 3:-3], before.roll((dy, dx), (2, 3))[..., 3:-3, 3:-3])
        ]
        assert len(fits) == 1
        kinds.add(fits[0])
    assert len(kinds) > 3
    assert random_shift(images, 0, torch.Generator()) is images


def test_nan_in_demonstrations_is_named() -> None:
    episodes = fake_episodes(3, 4)
    episodes[1].actions[2] = np.nan
    with pytest.raises(UsageError, match="demonstration 1 has actions that are NaN"):
        Clips(episodes, 1, 1, 0, 0)
