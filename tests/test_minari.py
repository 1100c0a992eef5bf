from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import gymnasium
import gymnasium_robotics
import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_dataset import parse_dataset_id
from numpy.typing import NDArray

from robovision.agents.config import TrainConfig
from robovision.agents.train import create as create_run
from robovision.envs.demo_arrays import load
from robovision.envs.minari_dataset import (
    Publisher,
    Spaces,
    create,
    data_folder,
    dataset_id,
    episode_path,
    episodes,
    main_path,
    open_dataset,
)
from robovision.envs.minari_episode import Episode, chunks, to_hdf5
from robovision.errors import UsageError
from tests.helpers import TINY_ENV

gymnasium.register_envs(gymnasium_robotics)


def play(env: gymnasium.Env[Any, Any], steps: int, seed: int) -> Any:
    """Some random steps as Minari gathers them."""
    observation, _ = env.reset(seed=seed)
    env.action_space.seed(seed)
    observations, actions, rewards, success = [observation], [], [], [False]
    for _ in range(steps):
        actions.append(env.action_space.sample())
        observation, reward, _, _, info = env.step(actions[-1])
        observations.append(observation)
        rewards.append(float(reward))
        success.append(bool(info.get("success", False)))
    ends = [False] * (steps - 1) + [True]
    return EpisodeBuffer(
        seed=seed, observations=observations, actions=actions, rewards=rewards, terminations=[False] * steps,
        truncations=ends, infos={"success": success},
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:.* is set to None:UserWarning")  # Minari asks for an author and the like
@pytest.mark.parametrize(
    ("name", "task", "data_format", "sizes"),
    [
        ("D4RL/door/human-v2", "AdroitHandDoor", "hdf5", (39, 28)),
        ("mujoco/hopper/expert-v0", "Hopper-v5", "hdf5", (11, 3)),
        ("mujoco/reacher/expert-v0", "Reacher-v5", "arrow", (10, 2)),
    ],
)
def test_minaris_own_kind_of_datasets_load(
    name: str, task: str, data_format: str, sizes: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    known = sorted(key for key in gymnasium.registry if key == task or key.startswith(f"{task}-v"))
    env = gymnasium.make(known[-1])
    buffers = [play(env, steps, seed) for seed, steps in enumerate((4, 6))]
    minari.create_dataset_from_buffers(name, buffers, env, data_format=data_format)
    env.close()
    for where in (name, tmp_path / name, tmp_path / name / "data"):
        dataset = open_dataset(where)
        found = list(episodes(dataset))
        assert [len(episode) for episode in found] == [4, 6]
        for episode, buffer in zip(found, buffers, strict=True):
            assert episode.observations["state"].shape == (len(episode) + 1, sizes[0])
            assert np.array_equal(episode.observations["state"], np.stack(buffer.observations))
            assert np.array_equal(episode.actions, np.stack(buffer.actions))
            assert episode.actions.shape[1] == sizes[1]
            assert episode.rewards.tolist() == buffer.rewards
            assert episode.truncations.tolist() == buffer.truncations
            assert episode.success is not None
            assert episode.success.tolist() == buffer.infos["success"][1:]
    blind = TrainConfig("dmc/reacher-easy", demos=2, data=tmp_path / name, env=TINY_ENV)
    for call in (lambda: load(tmp_path / name, 2), lambda: create_run(tmp_path / "run", blind)):
        with pytest.raises(UsageError, match=r"episode 0 in .* observes no pixels, but state"):
            call()
    assert not (tmp_path / "run").exists()


def record(folder: Path, *recorded: Episode, space: spaces.Dict) -> None:
    """A dataset of episodes, as the recorder writes it."""
    create(folder, {"dataset_id": dataset_id("made/up"), "robovision": {"task": "made/up"}})
    actions = spaces.Box(-1, 1, recorded[0].actions.shape[1:], np.float32)

    class Described(gymnasium.Env[Any, Any]):
        observation_space = space
        action_space = actions
        metadata = {"render_fps": 20}  # noqa: RUF012

    for number, episode in enumerate(recorded):
        episode_path(folder, number).write_bytes(to_hdf5(episode, number, seed=7 + number))
    Publisher(folder).publish(Spaces.of(Described()))


def random_episode(steps: int, space: spaces.Dict, infos: dict[str, NDArray[Any]] | None = None) -> Episode:
    space.seed(steps)
    random = np.random.default_rng(steps)
    return Episode(
        observations={name: np.stack([part.sample() for _ in range(steps + 1)]) for name, part in space.items()},
        actions=random.uniform(-1, 1, (steps, 2)).astype(np.float32),
        rewards=random.normal(size=steps),
        terminations=np.zeros(steps, bool),
        truncations=np.arange(steps) == steps - 1,
        infos=infos or {},
    )


EVERYTHING = spaces.Dict(
    pixels=spaces.Box(0, 255, (9, 40, 48), np.uint8),
    pixels_side=spaces.Box(0, 255, (3, 40, 48), np.uint8),
    depth=spaces.Box(0, 10, (1, 40, 48), np.float32),
    segmentation=spaces.Box(-1, 99, (2, 40, 48), np.int32),
    proprioception=spaces.Box(-np.inf, np.inf, (0,), np.float32),
)


def test_every_kind_of_observation_comes_back_as_it_was(tmp_path: Path) -> None:
    written = [random_episode(1, EVERYTHING), random_episode(5, EVERYTHING, {"success": np.arange(6) > 3})]
    record(tmp_path, *written, space=EVERYTHING)
    dataset = open_dataset(tmp_path)
    assert dataset.observation_space == EVERYTHING
    assert dataset.total_steps == 6
    for one, other in zip(written, episodes(dataset), strict=True):
        assert set(one.observations) == set(other.observations)
        for name, values in one.observations.items():
            assert other.observations[name].dtype == values.dtype
            assert np.array_equal(other.observations[name], values)
        for name in ("actions", "rewards", "terminations", "truncations"):
            assert np.array_equal(getattr(other, name), getattr(one, name))
    assert written[0].success is None
    assert written[1].success is not None
    assert written[1].success.tolist() == [False, False, False, True, True]
    demos = load(tmp_path, 2)
    assert demos.solved is None
    assert demos.proprioception.shape == (6, 0)
    assert np.array_equal(demos.pixels[1:], written[1].observations["pixels"][:-1])


def test_minaris_tools_extend_and_combine_what_was_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    space = spaces.Dict(pixels=spaces.Box(0, 255, (3, 40, 40), np.uint8))
    written = [random_episode(3, space), random_episode(4, space)]
    record(tmp_path / "made/up-v0", *written, space=space)
    dataset = minari.load_dataset("made/up-v0")
    assert [len(part) for part in minari.split_dataset(dataset, [1, 1], seed=0)] == [1, 1]
    both = minari.combine_datasets([dataset, dataset], "made/twice-v0")
    assert np.array_equal(both[3].observations["pixels"], written[1].observations["pixels"])
    more = random_episode(2, space)
    buffer = EpisodeBuffer(**{name: getattr(more, name) for name in ("observations", "actions", "infos")},
                           rewards=list(more.rewards), terminations=[False] * 2, truncations=[True] * 2)  # fmt: skip
    dataset.update_dataset_from_buffer([buffer])
    again = minari.load_dataset("made/up-v0")
    assert again.total_episodes == 3
    assert np.array_equal(again[2].observations["pixels"], more.observations["pixels"])


def test_images_lie_in_compressed_rows_through_time() -> None:
    still = random_episode(60, spaces.Dict(pixels=spaces.Box(0, 255, (3, 40, 40), np.uint8)))
    still.observations["pixels"][1:] = still.observations["pixels"][0]
    content = to_hdf5(still, 0, 0)
    with h5py.File(io.BytesIO(content), "r") as file:
        pixels: Any = file["observations/pixels"]
        assert pixels.chunks == (61, 3, 4, 40)
        assert (pixels.compression, pixels.compression_opts) == ("gzip", 4)
    assert len(content) < still.observations["pixels"].nbytes / 10  # although each frame by itself is noise
    assert chunks((2000, 3, 224, 224)) == (512, 3, 4, 224)
    assert chunks((5, 2, 2)) == (5, 2, 2)


def test_what_is_not_a_whole_dataset_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is neither data/metadata\.json nor metadata\.json in it"):
        open_dataset(tmp_path)
    with pytest.raises(UsageError, match="no Minari dataset is called not/there-v0"):
        open_dataset("not/there-v0")
    create(tmp_path, {"dataset_id": "made/up-v0"})
    with pytest.raises(UsageError, match=r"Minari can't open .*: "):
        open_dataset(tmp_path)
    space = spaces.Dict(pixels=spaces.Box(0, 255, (3, 40, 40), np.uint8))
    record(tmp_path, random_episode(3, space), space=space)
    content = json.loads((data_folder(tmp_path) / "metadata.json").read_text())
    for change, said in (({"data_format": "pickle"}, "pickle"), ({"minari_version": "0.0.1"}, "0.0.1")):
        (data_folder(tmp_path) / "metadata.json").write_text(json.dumps({**content, **change}))
        with pytest.raises(UsageError, match=f"Minari can't open .*{said}"):
            open_dataset(tmp_path)


def test_parts_of_unequal_length_are_said(tmp_path: Path) -> None:
    space = spaces.Dict(pixels=spaces.Box(0, 255, (3, 40, 40), np.uint8))
    record(tmp_path, random_episode(3, space), space=space)
    file: Any
    with h5py.File(episode_path(tmp_path, 0), "a") as file:
        file["observations/pixels"].resize(3, axis=0)
    with pytest.raises(UsageError, match=r"episode 0 has 3 rewards, 3 actions and observations {'pixels': 3}"):
        list(episodes(open_dataset(tmp_path)))
    with h5py.File(episode_path(tmp_path, 0), "a") as file:
        file["observations/pixels"].resize(4, axis=0)
        file.attrs["total_steps"] = 2
    with pytest.raises(UsageError, match=r"episode 0 in .*: pixels are \(3, 3, 40, 40\), expected \(2, 3, 40, 40\)"):
        load(tmp_path, 1)


def test_gaps_stay_unseen_until_they_are_filled(tmp_path: Path) -> None:
    space = spaces.Dict(pixels=spaces.Box(0, 255, (3, 40, 40), np.uint8))
    record(tmp_path, random_episode(3, space), space=space)
    for number in (3, 2, 1):
        episode_path(tmp_path, number).write_bytes(to_hdf5(random_episode(number, space), number, 0))
        Publisher(tmp_path).publish()
        assert open_dataset(tmp_path).total_episodes == (4 if number == 1 else 1)
    assert [len(episode) for episode in episodes(open_dataset(tmp_path))] == [3, 1, 2, 3]
    moved = tmp_path.with_name("moved")
    tmp_path.replace(moved)
    assert main_path(moved).stat().st_size < 10_000
    assert open_dataset(moved)[2].observations["pixels"].shape == (3, 3, 40, 40)


def test_a_task_becomes_a_name_that_minari_takes() -> None:
    for task in ("metaworld/drawer-open", "dmc/walker-walk", "mjcf//home/me/my arm.v2.xml", "mjcf/../bras-\u00e9.xml"):
        assert parse_dataset_id(dataset_id(task))[2] == 0
