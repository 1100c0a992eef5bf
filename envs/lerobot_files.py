"""The files of a LeRobot dataset that hold the steps: Parquet, and a video for each camera."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robovision.envs.minari_episode import Arrays
from robovision.errors import UsageError

FILES_PER_CHUNK = 1000
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
ENCODING = {"crf": "18", "preset": "veryfast", "g": "2", "bf": "0"}
"""Every second frame is a key frame, so that single frames are read fast."""


class EpisodeFiles:
    """One Parquet file and one video per camera, with several episodes in each."""

    def __init__(self, folder: Path, number: int, fps: Fraction) -> None:
        self.frames = 0
        self._folder = folder
        self._fps = fps
        self._place = {"chunk_index": number // FILES_PER_CHUNK, "file_index": number % FILES_PER_CHUNK}
        self._data: Any = None
        self._videos: dict[str, _Video] = {}

    def add(self, columns: Arrays, films: Arrays) -> dict[str, Any]:
        """Write an episode; returns where it lies, in the words of LeRobot's table of episodes."""
        table = _table(columns)
        if self._data is None:
            self._open(table.schema, films)
        self._data.write_table(table)
        row: dict[str, Any] = {f"data/{key}": value for key, value in self._place.items()}
        for name, film in films.items():
            self._videos[name].add(film)
            row |= {f"videos/{name}/{key}": value for key, value in self._place.items()}
            row[f"videos/{name}/from_timestamp"] = float(self.frames / self._fps)
            row[f"videos/{name}/to_timestamp"] = float((self.frames + len(film)) / self._fps)
        self.frames += table.num_rows
        return row

    def close(self) -> None:
        """Complete the files."""
        self._data.close()
        for video in self._videos.values():
            video.close()

    def _open(self, schema: Any, films: Arrays) -> None:
        from pyarrow import parquet

        path = self._folder / DATA_PATH.format(**self._place)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._data = parquet.ParquetWriter(path, schema)
        for name, film in films.items():
            path = self._folder / VIDEO_PATH.format(video_key=name, **self._place)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._videos[name] = _Video(path, film.shape[1], film.shape[2], self._fps)


class _Video:
    """An MP4 file that grows frame by frame."""

    def __init__(self, path: Path, height: int, width: int, fps: Fraction) -> None:
        import av

        if height % 2 or width % 2:
            raise UsageError(f"images of {height} x {width} pixels don't fit into H.264 video: the sides must be even")
        self._container = av.open(str(path), "w")
        self._stream = self._container.add_stream("libx264", rate=fps, options=ENCODING)
        self._stream.height, self._stream.width, self._stream.pix_fmt = height, width, "yuv420p"

    def add(self, film: NDArray[np.uint8]) -> None:
        import av

        for image in film:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        self._container.mux(self._stream.encode())
        self._container.close()


def _table(columns: Arrays) -> Any:
    """Columns as an Arrow table: single numbers plain, vectors as lists of fixed size."""
    import pyarrow as pa

    def column(values: NDArray[Any]) -> Any:
        flat = pa.array(values.ravel())
        return (
            flat
            if values.ndim == 1 or values.shape[1] == 1
            else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        )

    return pa.table({name: column(values) for name, values in columns.items()})
