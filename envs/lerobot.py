"""Export of a Minari dataset to the layout of LeRobot datasets, version 3.0: Parquet, MP4 and JSON.

    OUT/meta/info.json, stats.json, tasks.parquet, episodes/chunk-000/file-000.parquet
    OUT/data/chunk-000/file-000.parquet                                one row a step
    OUT/videos/observation.images.pixels/chunk-000/file-000.mp4        one frame a step

An image, uint8 [C, H, W] with C a multiple of 3, or [H, W, 3], becomes a video (H.264, lossy) of its last three
channels: of stacked frames the newest. Vectors become columns: `proprioception` is LeRobot's `observation.state`,
and `state` beside it `observation.environment_state`. Other observations (depth, segmentation) and the one after
the last action are left out.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robovision.envs.lerobot_files import DATA_PATH, FILES_PER_CHUNK, VIDEO_PATH, EpisodeFiles
from robovision.envs.lerobot_stats import histogram, image_stats, vector_stats
from robovision.envs.minari_dataset import episodes, open_dataset
from robovision.envs.minari_episode import Arrays, Episode
from robovision.errors import UsageError
from robovision.files import cannot_write, write_json

VERSION = "v3.0"
FRAMES_PER_FILE = 50_000
"""After so many an episode begins the next files; keeps them far below LeRobot's 100 and 200 MB."""
EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"
RECORD = "robovision"


def export(
    source: Path | str, out: Path, fps: float | None = None, progress: Callable[[int], None] = lambda done: None
) -> list[str]:
    """Write a LeRobot dataset; returns the names of the observations that are left out.

    Args:
        source: a Minari dataset, as `minari_dataset.open_dataset` takes it.
        out: the folder; there must be none yet. It appears only once everything is in it.
        fps: steps a second; by default what the dataset says.
        progress: called with the number of episodes that are done.

    Raises:
        UsageError: if `out` exists or can't be written, if the dataset is empty, damaged, or does not say how many
            steps a second it has, if images have an odd side, which the video format can't hold, or without pyarrow.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise UsageError("exporting to LeRobot needs pyarrow: pip install 'robovision[lerobot]'")
    dataset = open_dataset(source)
    metadata = dataset.storage.metadata
    rate = metadata.get("fps") if fps is None else fps
    if not rate or rate <= 0:
        raise UsageError(f"{source} does not say how many steps a second it has, or 0: say it with --fps")
    if dataset.total_episodes == 0:
        raise UsageError(f"{source} holds no episode yet")
    if out.exists():
        raise UsageError(f"{out} exists already; choose another folder")
    record = metadata.get(RECORD, {})
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        writer = _Writer(partial, Fraction(rate).limit_denominator(1000), record.get("task", dataset.id))
        for number, episode in enumerate(episodes(dataset)):
            writer.add(episode)
            progress(number + 1)
        writer.finish(record)
        partial.rename(out)
    except OSError as error:  # FFmpeg's errors are among these
        raise cannot_write(out, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return writer.left_out


class _Writer:
    """Adds episode after episode to the data and the videos, and gathers what the metadata need."""

    def __init__(self, folder: Path, fps: Fraction, task: str) -> None:
        self.left_out: list[str] = []
        self._folder = folder
        self._fps = fps
        self._task = task
        self._rows: list[dict[str, Any]] = []
        self._vectors: list[Arrays] = []
        self._histograms: dict[str, NDArray[np.int64]] = {}
        self._features: dict[str, dict[str, Any]] = {}
        self._files: EpisodeFiles | None = None
        self._file = -1
        self._frames = 0

    def add(self, episode: Episode) -> None:
        """One episode more."""
        columns, films, self.left_out = split(episode)
        start, number = self._frames, len(self._rows)
        columns |= self._counters(len(episode), start, number)
        if self._files is None or self._files.frames >= FRAMES_PER_FILE:
            self._close()
            self._file += 1
            self._files = EpisodeFiles(self._folder, self._file, self._fps)
        row = self._files.add(columns, films)
        stats = {name: vector_stats(values) for name, values in columns.items()}
        for name, film in films.items():
            counts = histogram(film)
            self._histograms[name] = self._histograms.get(name, np.zeros_like(counts)) + counts
            stats[name] = image_stats(counts, len(film))
        self._vectors.append(columns)
        self._features = self._features or features(columns, films, self._fps)
        self._frames += len(episode)
        self._rows.append(
            {
                "episode_index": number,
                "tasks": [self._task],
                "length": len(episode),
                "dataset_from_index": start,
                "dataset_to_index": self._frames,
                **row,
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
                **{f"stats/{name}/{key}": value for name, part in stats.items() for key, value in part.items()},
            }
        )

    def finish(self, record: dict[str, Any]) -> None:
        """Write the metadata."""
        import pyarrow as pa
        from pyarrow import parquet

        self._close()
        meta = self._folder / "meta"
        (self._folder / EPISODES_PATH).parent.mkdir(parents=True)
        parquet.write_table(pa.Table.from_pylist(self._rows), self._folder / EPISODES_PATH)
        parquet.write_table(_tasks(self._task), meta / "tasks.parquet")
        write_json(meta / "info.json", self._info())
        write_json(meta / "stats.json", self._stats())
        write_json(meta / "robovision.json", record)

    def _close(self) -> None:
        if self._files is not None:
            self._files.close()

    def _counters(self, steps: int, start: int, number: int) -> Arrays:
        frame = np.arange(steps, dtype=np.int64)
        return {
            "timestamp": (frame / float(self._fps)).astype(np.float32),
            "frame_index": frame,
            "episode_index": np.full(steps, number, np.int64),
            "index": start + frame,
            "task_index": np.zeros(steps, np.int64),
        }

    def _stats(self) -> dict[str, Any]:
        names = list(self._vectors[0])
        stats = {name: vector_stats(np.concatenate([part[name] for part in self._vectors])) for name in names}
        return stats | {name: image_stats(counts, self._frames) for name, counts in self._histograms.items()}

    def _info(self) -> dict[str, Any]:
        return {
            "codebase_version": VERSION,
            "robot_type": None,
            "total_episodes": len(self._rows),
            "total_frames": self._frames,
            "total_tasks": 1,
            "chunks_size": FILES_PER_CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": _plain(self._fps),
            "splits": {"train": f"0:{len(self._rows)}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if self._histograms else None,
            "features": self._features,
        }


def split(episode: Episode) -> tuple[Arrays, Arrays, list[str]]:
    """An episode of T steps as columns [T] or [T, D], films uint8 [T, H, W, 3], and the names of what is neither."""
    columns: Arrays = {}
    films: Arrays = {}
    left_out = []
    names = {"proprioception": "state"}
    if "proprioception" in episode.observations:
        names["state"] = "environment_state"
    for name, values in episode.observations.items():
        before = values[:-1]
        numeric = before.dtype.kind in "fiub"
        if values.ndim == 4 and values.dtype == np.uint8 and (values.shape[3] == 3 or values.shape[1] % 3 == 0):
            film = before if values.shape[3] == 3 else before[:, -3:].transpose(0, 2, 3, 1)
            films[f"observation.images.{_dotted(name)}"] = film
        elif numeric and values.ndim <= 2 and values.size:
            columns[f"observation.{_dotted(names.get(name, name))}"] = _float32(before)
        else:
            left_out.append(name)
    columns["action"] = _float32(episode.actions)
    columns["next.reward"] = episode.rewards.astype(np.float32)
    columns["next.done"] = episode.terminations | episode.truncations
    if episode.success is not None:
        columns["next.success"] = episode.success
    return columns, films, left_out


def features(columns: Arrays, films: Arrays, fps: Fraction) -> dict[str, dict[str, Any]]:
    """What `info.json` says of each column and film."""
    described: dict[str, dict[str, Any]] = {
        name: {"dtype": "video", "shape": list(film.shape[1:]), "names": ["height", "width", "channels"],
               "info": {"video.height": film.shape[1], "video.width": film.shape[2], "video.codec": "h264",
                        "video.pix_fmt": "yuv420p", "video.is_depth_map": False, "video.fps": _plain(fps),
                        "video.channels": 3, "has_audio": False}}
        for name, film in films.items()
    }  # fmt: skip
    for name, values in columns.items():
        shape = [values.shape[1] if values.ndim == 2 else 1]
        described[name] = {"dtype": str(values.dtype), "shape": shape, "names": None}
    return described


def _tasks(task: str) -> Any:
    """The one task, as a table that pandas reads with the task's name as its index."""
    import json

    import pyarrow as pa

    table = pa.table({"task_index": pa.array([0], pa.int64()), "task": [task]})
    columns = [
        {
            "name": "task_index",
            "field_name": "task_index",
            "pandas_type": "int64",
            "numpy_type": "int64",
            "metadata": None,
        },
        {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object", "metadata": None},
    ]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "pandas_version": "2.0.0"}
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _float32(values: NDArray[Any]) -> NDArray[np.float32]:
    return values.astype(np.float32)


def _dotted(name: str) -> str:
    return name.replace("/", ".")


def _plain(fps: Fraction) -> float:
    """The frame rate as JSON keeps it: whole if it is whole."""
    return fps.numerator if fps.denominator == 1 else float(fps)
