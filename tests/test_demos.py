from __future__ import annotations

import dataclasses
import filecmp
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from resource import RLIMIT_FSIZE, prlimit

import minari
import numpy as np
import pytest
import torch

from robovision.agents.clips import Clips, Drawing, random_shift
from robovision.agents.policy import histories
from robovision.envs import make
from robovision.envs.demo_arrays import Demonstrations, load, summarise
from robovision.envs.demo_options import DemoOptions
from robovision.envs.demo_recording import failed, least_return
from robovision.envs.demos import collect, prepare
from robovision.envs.env import PixelEnv
from robovision.envs.experts import find
from robovision.envs.minari_dataset import data_folder, episode_path, metadata_path, read_metadata
from robovision.envs.minari_episode import Episode
from robovision.envs.registry import EnvOptions, resolve
from robovision.errors import UsageError
from robovision.seeding import derive
from tests.helpers import TINY_ENV

OPTIONS = DemoOptions(episodes=3, seed=5, noise=0.1, env=TINY_ENV, keep_failures=True)
EPISODES = 40
RECORDING = [
    *(sys.executable, "-m", "robovision.cli", "demos", "--task", "metaworld/drawer-open", "--episodes", str(EPISODES)),
    *("--seed", "5"),
    *("--noise", "0.1", "--env.size", "32", "--env.preset", "fastest", "--env.horizon", "12", "--workers", "2"),
    "--keep-failures",
]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three demonstrations, recorded by two workers."""
    folder = tmp_path_factory.mktemp("demos") / "metaworld" / "drawer-open-v0"
    seen: list[int] = []
    assert collect(OPTIONS, folder, 2, seen.append) == 0
    assert seen == [0, 1, 2, 3]
    return folder


def fake_demonstrations(*lengths: int) -> Demonstrations:
    """Demonstrations whose numbers say which episode and time they are."""
    parts = [
        (
            np.full((n, 3, 4, 4), k, np.uint8) + np.arange(n, dtype=np.uint8)[:, None, None, None] * 10,
            np.stack([np.full(n, k), np.arange(n)], axis=1).astype(np.float32),
            np.arange(n, dtype=np.float32)[:, None],
        )
        for k, n in enumerate(lengths)
    ]
    pixels, proprioception, actions = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Demonstrations(pixels, proprioception, actions, np.array(lengths), None)


def same_files(one: Path, other: Path) -> bool:
    names = sorted(path.name for path in data_folder(one).iterdir())
    assert names == sorted(path.name for path in data_folder(other).iterdir())
    return filecmp.cmpfiles(data_folder(one), data_folder(other), names, shallow=False)[0] == names


def test_minari_opens_what_was_recorded_as_it_happened(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(recorded.parent.parent))
    assert list(minari.list_local_datasets()) == ["metaworld/drawer-open-v0"]
    dataset = minari.load_dataset("metaworld/drawer-open-v0")
    assert (dataset.total_episodes, dataset.total_steps) == (3, 36)
    assert dataset.storage.metadata["robovision"]["env"]["preset"] == "fastest"
    env = make(OPTIONS.task, OPTIONS.env)
    assert dataset.observation_space == env.observation_space
    assert dataset.action_space == env.action_space
    seeds = [metadata["seed"] for metadata in dataset.storage.get_episode_metadata(range(3))]
    assert len(set(seeds)) == 3
    for seed, episode in zip(seeds, dataset, strict=True):
        observation, info = env.reset(seed=seed)
        noise = np.random.default_rng(derive(seed, "noise"))
        for t, action in enumerate(episode.actions):
            assert np.array_equal(env.expert_action(), action)
            assert np.array_equal(observation["pixels"], episode.observations["pixels"][t])
            assert np.array_equal(observation["proprioception"], episode.observations["proprioception"][t])
            assert info["success"] == episode.infos["success"][t]
            disturbed = (action + noise.normal(0, 0.1, 4).astype(np.float32)).clip(-1, 1)
            observation, reward, terminated, truncated, info = env.step(disturbed)
            assert reward == episode.rewards[t]
            assert terminated == episode.terminations[t]
            assert truncated == episode.truncations[t] == (t == 11)
        assert np.array_equal(observation["pixels"], episode.observations["pixels"][12])
        assert episode.observations["pixels"].shape == (13, 3, 32, 32)
        assert episode.infos["success"].shape == (13,)
    env.close()


def test_minari_recovers_the_environment_of_what_was_recorded(recorded: Path) -> None:
    dataset = minari.MinariDataset(data_folder(recorded))
    env = dataset.recover_environment()
    assert isinstance(env.unwrapped, PixelEnv)
    assert env.unwrapped.task == OPTIONS.task
    assert env.unwrapped.options == resolve(OPTIONS.task, OPTIONS.env)
    first = dataset[0]
    seed = next(iter(dataset.storage.get_episode_metadata([0])))["seed"]
    assert np.array_equal(env.reset(seed=seed)[0]["pixels"], first.observations["pixels"][0])
    env.close()


def test_an_interrupted_collection_goes_on_and_gives_the_same_files(recorded: Path, tmp_path: Path) -> None:
    collect(dataclasses.replace(OPTIONS, episodes=1), tmp_path, 1)
    assert minari.MinariDataset(data_folder(tmp_path)).total_episodes == 1
    collect(OPTIONS, tmp_path, 1)
    assert same_files(recorded, tmp_path)


def test_what_a_policy_learns_from_is_what_minari_reads(recorded: Path) -> None:
    demos = load(recorded, 2)
    first, second = list(minari.MinariDataset(data_folder(recorded)))[:2]
    assert demos.lengths.tolist() == [12, 12]
    assert demos.solved == 0
    for name, values in (("pixels", demos.pixels), ("proprioception", demos.proprioception)):
        expected = np.concatenate([episode.observations[name][:-1] for episode in (first, second)])
        assert values.dtype == expected.dtype
        assert np.array_equal(values, expected)
    assert np.array_equal(demos.actions, np.concatenate([first.actions, second.actions]))
    assert "3 demonstrations, 0 successful, 36 frames" in summarise(recorded, 3)


def test_other_demonstrations_are_not_mixed_in(recorded: Path, tmp_path: Path) -> None:
    other = dataclasses.replace(OPTIONS, noise=0.2, env=dataclasses.replace(TINY_ENV, preset="exact"))
    said = r"holds other demonstrations \(env.preset: 'fastest' there, 'exact' wanted; noise: 0.1 there, 0.2 wanted\)"
    with pytest.raises(UsageError, match=said):
        collect(other, recorded, 1)
    prepare(dataclasses.replace(OPTIONS, episodes=7), recorded)
    prepare(OPTIONS, tmp_path)
    content = (data_folder(tmp_path) / "metadata.json").read_text()
    (data_folder(tmp_path) / "metadata.json").write_text(content.replace('"robovision"', '"other"'))
    with pytest.raises(UsageError, match="was not recorded by `robovision demos`"):
        prepare(OPTIONS, tmp_path)
    (data_folder(tmp_path) / "metadata.json").write_text(content[:50])
    with pytest.raises(UsageError, match=r"metadata\.json can't be read"):
        prepare(OPTIONS, tmp_path)


SHORT = DemoOptions(episodes=2, seed=1, noise=0.1, env=dataclasses.replace(TINY_ENV, size=16, horizon=88))
"""So few steps that the expert opens the drawer in time from some starts only."""


def test_a_recording_that_never_began_is_in_nobodys_way(tmp_path: Path) -> None:
    wrong = dataclasses.replace(OPTIONS, env=dataclasses.replace(TINY_ENV, cameras=("corner9",)))
    with pytest.raises(UsageError, match="unknown camera 'corner9'"):
        collect(wrong, tmp_path / "refused", 1)
    hopeless = dataclasses.replace(OPTIONS, episodes=1, keep_failures=False)
    with pytest.raises(UsageError, match="failed at 10 starts"):
        collect(hopeless, tmp_path / "failed", 1)
    assert not list(tmp_path.iterdir())
    prepare(hopeless, tmp_path)  # killed here, say
    prepare(OPTIONS, tmp_path)
    assert read_metadata(tmp_path)["robovision"]["keep_failures"] == OPTIONS.keep_failures


def test_failures_are_not_recorded_whatever_the_number_of_workers(tmp_path: Path) -> None:
    for name, workers in (("one", 1), ("two", 2)):
        collect(SHORT, tmp_path / name, workers)
    assert same_files(tmp_path / "one", tmp_path / "two")
    collect(dataclasses.replace(SHORT, episodes=1), tmp_path / "again", 1)
    collect(SHORT, tmp_path / "again", 1)
    assert same_files(tmp_path / "one", tmp_path / "again")
    kept = dataclasses.replace(SHORT, keep_failures=True)
    collect(kept, tmp_path / "kept", 1)
    chosen, plain = (list(minari.MinariDataset(data_folder(tmp_path / name))) for name in ("one", "kept"))
    assert all(episode.infos["success"].any() for episode in chosen)
    solved = [bool(episode.infos["success"].any()) for episode in plain]
    assert 0 < sum(solved) < 2, "this tells nothing unless some starts succeed and some fail"
    for one, other, success in zip(chosen, plain, solved, strict=True):
        if success:  # attempt 0 has the seed that it had before there were attempts
            assert np.array_equal(one.observations["pixels"], other.observations["pixels"])
    discarded = read_metadata(tmp_path / "one")["discarded_attempts"]
    assert discarded >= 2 - sum(solved)
    assert f", {discarded} failed attempt" in summarise(tmp_path / "one", 2)
    assert read_metadata(tmp_path / "kept")["discarded_attempts"] == 0
    assert "discarded" not in summarise(tmp_path / "kept", 2)
    with pytest.raises(UsageError, match="keep_failures: True there, False wanted"):
        collect(SHORT, tmp_path / "kept", 1)


def test_datasets_from_before_the_choice_hold_failures(recorded: Path, tmp_path: Path) -> None:
    shutil.copytree(recorded, folder := tmp_path / "older")
    metadata = read_metadata(folder)
    del metadata["robovision"]["keep_failures"]
    metadata_path(folder).write_text(json.dumps(metadata))
    assert collect(OPTIONS, folder, 1) == 0
    with pytest.raises(UsageError, match="keep_failures: True there, False wanted"):
        collect(dataclasses.replace(OPTIONS, keep_failures=False), folder, 1)


def test_an_expert_that_always_fails_is_said(tmp_path: Path) -> None:
    said = r"metaworld/drawer-open failed at 10 starts of demonstration 0: none reached a success within 12 steps"
    with pytest.raises(UsageError, match=said):
        collect(dataclasses.replace(OPTIONS, episodes=1, keep_failures=False), tmp_path, 1)


def test_on_dmc_a_return_under_half_of_the_experts_mean_fails() -> None:
    mean = find("dmc/walker-walk").info.return_mean  # type: ignore[union-attr]
    assert least_return(DemoOptions("dmc/walker-walk")) == mean / 2
    assert least_return(DemoOptions("dmc/walker-walk", env=EnvOptions(horizon=100))) == pytest.approx(mean / 10)
    assert least_return(DemoOptions("metaworld/drawer-open")) is None
    ends = np.zeros(2, bool)
    for rewards, least, success, expected in (
        ([3.0, 1.9], 5.0, None, True),
        ([3.0, 2.0], 5.0, None, False),
        ([9.0, 9.0], None, [False, False, False], True),
        ([0.0, 0.0], None, [False, True, False], False),
    ):
        infos = {} if success is None else {"success": np.array(success)}
        assert failed(Episode({}, np.zeros((2, 1)), np.array(rewards), ends, ends, infos), least) is expected


def test_damaged_and_missing_episodes_are_named_and_collected_again(recorded: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no demonstrations"):
        load(tmp_path, 1)
    with pytest.raises(UsageError, match="holds 3 demonstrations, not 4"):
        load(recorded, 4)
    shutil.copytree(recorded, folder := tmp_path / "copy")
    file = episode_path(folder, 1)
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:3000] + bytes(4000) + whole[7000:], b""):
        file.write_bytes(content)
        with pytest.raises(UsageError, match=r"episode 1 in .* is damaged or missing"):
            load(folder, 2)
    with pytest.raises(UsageError, match=r"episode-0001\.hdf5 is damaged"):
        collect(OPTIONS, folder, 1)
    file.unlink()
    with pytest.raises(UsageError, match=r"episode 1 in .* is damaged or missing"):
        load(folder, 2)
    collect(OPTIONS, folder, 1)
    assert file.read_bytes() == whole
    assert load(folder, 3).lengths.tolist() == [12, 12, 12]


def stop_at(count: int, folder: Path, stop: Callable[[int], None]) -> tuple[int, str]:
    """Record, and stop the process by its number once Minari sees so many episodes; its exit code and errors."""
    command = ["nice", "-n", "19", *RECORDING, "--out", str(folder)]  # so that the one who watches is never late
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None:
        if metadata_path(folder).exists() and read_metadata(folder)["total_episodes"] >= count:
            stop(process.pid)
            break
        time.sleep(0.0005)
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


def fill_disk(pid: int) -> None:
    """From now on the process and its workers write like on a disk that takes no more."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for process in (pid, *map(int, children)):
        prlimit(process, RLIMIT_FSIZE, (100, 100))


def test_a_killed_recording_and_a_full_disk_leave_whole_episodes(recorded: Path, tmp_path: Path) -> None:
    whole = list(minari.MinariDataset(data_folder(recorded)))

    def seen_whole() -> int:
        dataset = minari.MinariDataset(data_folder(tmp_path))
        count = int(dataset.total_episodes)
        for one, other in zip(dataset, whole, strict=False):
            assert np.array_equal(one.observations["pixels"], other.observations["pixels"])
        assert load(tmp_path, count).lengths.tolist() == [12] * count
        return count

    code, _ = stop_at(2, tmp_path, lambda pid: os.kill(pid, signal.SIGKILL))
    assert code == -signal.SIGKILL
    killed = seen_whole()
    assert 2 <= killed < EPISODES
    code, errors = stop_at(killed + 2, tmp_path, fill_disk)
    assert code == 2, errors
    assert "can't write" in errors
    assert "Traceback" not in errors
    assert killed < seen_whole() < EPISODES
    answer = subprocess.run([*RECORDING, "--out", str(tmp_path)], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert f"{EPISODES} demonstrations, 0 successful" in answer.stdout
    assert seen_whole() == EPISODES


def test_wrong_options_are_said() -> None:
    with pytest.raises(UsageError, match="unknown task"):
        DemoOptions(task="metaworld/none")
    with pytest.raises(UsageError, match="at least 1 episode, got 0"):
        DemoOptions(episodes=0)
    with pytest.raises(UsageError, match=r"noise must lie in 0\.\.1"):
        DemoOptions(noise=2)


def test_every_frame_is_drawn_equally_often() -> None:
    clips = Clips(fake_demonstrations(3, 9), Drawing(clip=4))
    counts = torch.zeros(2, 9)
    for step in range(400):
        batch = clips.batch(step, 16)
        where = batch.proprioception.long()
        counts.index_put_((where[:, 0], where[:, 1]), torch.ones(len(where)), accumulate=True)
        assert torch.equal(batch.actions[:, 0, 0], batch.proprioception[:, 1])
    drawn = torch.cat([counts[0, :3], counts[1]])
    assert counts[0, 3:].sum() == 0
    assert float(drawn.std() / drawn.mean()) < 0.05


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    one, other = (Clips(fake_demonstrations(30, 20), Drawing(history=3, clip=4, shift=1, seed=2)) for _ in range(2))
    one.batch(0, 4)
    assert torch.equal(one.batch(7, 4).frames, other.batch(7, 4).frames)
    assert not torch.equal(one.batch(8, 4).frames, other.batch(7, 4).frames)


def test_histories_are_the_frames_before_and_the_first_repeats() -> None:
    clips = Clips(fake_demonstrations(6), Drawing(history=3, clip=2))
    for step in range(50):
        batch = clips.batch(step, 3)
        embedded = batch.frames[:, :, 0, 0, 0, None].float() / 10
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
    for name in ("actions", "proprioception"):
        demos = fake_demonstrations(3, 4)
        getattr(demos, name)[5] = np.nan
        with pytest.raises(UsageError, match=f"demonstration 1 has {name} that are NaN"):
            Clips(demos, Drawing())
