"""A folder that is a Minari dataset: written episode by episode, whole at every moment, and any other one read.

    FOLDER/data/metadata.json        Minari's description, and under "robovision" what was asked for
    FOLDER/data/main_data.hdf5       links episode_0, episode_1, ... to the files beside it
    FOLDER/data/episode-0000.hdf5    one episode, written whole or not at all

Minari opens `FOLDER/data`. The links are HDF5's own (external links), relative, so the folder can be moved. They
let several processes write at once, and a process that is killed leaves every episode before it readable.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robovision.envs.minari_episode import DISCARDED, Episode, from_minari
from robovision.errors import UsageError
from robovision.files import cannot_write, write_atomically, write_json

if TYPE_CHECKING:
    import gymnasium
    from minari import MinariDataset

MEGABYTE = 1_000_000
"""Minari counts a dataset's size in these."""


@dataclass(frozen=True)
class Spaces:
    """What an environment takes and gives, serialised as Minari does, and its frames a second if it says."""

    observation_space: str
    action_space: str
    fps: float | None

    @classmethod
    def of(cls, env: gymnasium.Env[Any, Any]) -> Spaces:
        """Those of an environment."""
        from minari.serialization import serialize_space

        observation, action = (serialize_space(space) for space in (env.observation_space, env.action_space))
        assert isinstance(observation, str)
        assert isinstance(action, str)
        return cls(observation, action, env.metadata.get("render_fps"))


def dataset_id(task: str) -> str:
    """The name under which Minari knows a task's dataset: letters, digits, `-`, `_`, and a version.

    >>> dataset_id("metaworld/drawer-open"), dataset_id("mjcf//home/me/arm.xml")
    ('metaworld/drawer-open-v0', 'mjcf/home/me/arm-xml-v0')
    """
    return re.sub(r"/+", "/", re.sub(r"[^-\w/]", "-", task, flags=re.ASCII)).strip("/") + "-v0"


def data_folder(folder: Path) -> Path:
    """The part of a folder that Minari opens."""
    return folder / "data"


def metadata_path(folder: Path) -> Path:
    """Where the dataset is described."""
    return data_folder(folder) / "metadata.json"


def main_path(folder: Path) -> Path:
    """The file that links the episodes."""
    return data_folder(folder) / "main_data.hdf5"


def episode_path(folder: Path, number: int) -> Path:
    """Where a folder keeps its episode of this number."""
    return data_folder(folder) / f"episode-{number:04d}.hdf5"


def create(folder: Path, metadata: dict[str, Any]) -> None:
    """An empty dataset with this metadata. Minari opens it from the first episode on, which brings the spaces.

    Raises:
        UsageError: if the folder can't be written.
    """
    import minari

    fixed = {"total_episodes": 0, "total_steps": 0, "data_format": "hdf5", "jpeg_encoding": False}
    try:
        data_folder(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    write_json(metadata_path(folder), {**metadata, **fixed, "minari_version": minari.__version__})


def read_metadata(folder: Path) -> dict[str, Any]:
    """What a dataset says about itself.

    Raises:
        UsageError: if there is none in the folder, or it can't be read.
    """
    path = metadata_path(folder)
    if not path.is_file():
        raise UsageError(f"{folder} holds no demonstrations: there is no {path.relative_to(folder)} in it")
    try:
        content: dict[str, Any] = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path} can't be read: {error}") from error
    return content


def is_described(metadata: dict[str, Any]) -> bool:
    """Whether the metadata say what the arrays are; they do from the first episode on."""
    return "observation_space" in metadata


class Publisher:
    """Makes the episode files of a folder visible to Minari: those from number 0 on without a gap."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._counts: list[tuple[int, int]] = []

    def publish(self, spaces: Spaces | None = None) -> None:
        """Link the files that have come; `spaces` are needed unless the metadata has them.

        First the links, then the metadata that counts them: killed in between, the dataset is the one before.

        Raises:
            UsageError: if an episode is damaged, naming it, or something can't be written.
        """
        while (path := episode_path(self._folder, len(self._counts))).exists():
            self._counts.append(_counts(path))
        present = read_metadata(self._folder)
        metadata = {**present, **({} if spaces is None else vars(spaces))}
        known = is_described(present) and len(self._counts) == present["total_episodes"]
        if known or not is_described(metadata):
            return
        with write_atomically(main_path(self._folder)) as file:
            file.write(_links(len(self._counts)))
        size = sum(episode_path(self._folder, k).stat().st_size for k in range(len(self._counts)))
        steps, discarded = np.array(self._counts, int).reshape(-1, 2).sum(axis=0).tolist()
        counts = {"total_episodes": len(self._counts), "total_steps": steps, DISCARDED: discarded}
        write_json(metadata_path(self._folder), {**metadata, **counts, "dataset_size": round(size / MEGABYTE, 1)})


def _counts(path: Path) -> tuple[int, int]:
    """An episode's steps, and the attempts that were discarded before it."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return int(file.attrs["total_steps"]), int(file.attrs.get(DISCARDED, 0))
    except (OSError, KeyError) as error:
        raise UsageError(f"{path} is damaged ({error}): delete it and collect again") from error


def _links(count: int) -> bytes:
    import h5py

    content = io.BytesIO()
    with h5py.File(content, "w", track_order=True) as file:
        for number in range(count):
            file[f"episode_{number}"] = h5py.ExternalLink(episode_path(Path(), number).name, "/")
    return content.getvalue()


def open_dataset(where: Path | str) -> MinariDataset:
    """Any Minari dataset: one that was recorded here, a folder with a `data` in it, such a `data`, or an id.

    An id such as `D4RL/door/human-v2` is looked up where Minari keeps its datasets (`MINARI_DATASETS_PATH`, by
    default ~/.minari/datasets); nothing is downloaded.

    Raises:
        UsageError: if there is none, or Minari can't open it, with Minari's reason.
    """
    import minari

    folder = Path(where)
    found = [place for place in (data_folder(folder), folder) if (place / "metadata.json").is_file()]
    if not found and isinstance(where, Path):
        raise UsageError(
            f"{where} holds no demonstrations: there is neither data/metadata.json nor metadata.json in it"
        )
    try:
        return minari.MinariDataset(found[0]) if found else minari.load_dataset(where)
    except FileNotFoundError as error:
        raise UsageError(f"no folder and no Minari dataset is called {where} ({error})") from error
    except (ValueError, KeyError, AssertionError, TypeError, ImportError, OSError) as error:
        raise UsageError(f"Minari can't open {where}: {type(error).__name__}: {error}") from error


def lengths(dataset: MinariDataset, count: int) -> NDArray[np.int64]:
    """The steps of the first `count` episodes, int64 [count].

    Raises:
        UsageError: if one is missing or damaged, naming it.
    """
    steps = []
    for index in dataset.episode_indices[:count]:
        with _named(dataset, index):
            steps += [int(metadata["total_steps"]) for metadata in dataset.storage.get_episode_metadata([index])]
    return np.array(steps, np.int64)


def episodes(dataset: MinariDataset) -> Iterator[Episode]:
    """All episodes, one in memory at a time.

    Raises:
        UsageError: if one is missing or damaged, naming it.
    """
    for index in dataset.episode_indices:
        with _named(dataset, index):
            (data,) = dataset.iterate_episodes([index])
        yield from_minari(data)


@contextlib.contextmanager
def _named(dataset: MinariDataset, index: int) -> Iterator[None]:
    """Errors of reading an episode as a UsageError that names it."""
    try:
        yield
    except (OSError, KeyError, ValueError, TypeError, AssertionError) as error:
        raise UsageError(
            f"episode {index} in {dataset.storage.data_path} is damaged or missing ({error}): "
            "delete its file and collect it again"
        ) from error
