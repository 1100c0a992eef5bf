"""Films of episodes as one mosaic, each marked green from its first success on, or red at the end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robovision.agents.evaluate import FILM_EVERY, Outcome
from robovision.errors import UsageError
from robovision.files import cannot_write

FPS = 20
STILL = 30
"""Frames that the last picture stays."""
BORDER = 4
RUNNING, SOLVED, FAILED = (90, 90, 90), (40, 200, 60), (220, 50, 40)

Film = NDArray[np.uint8]


def write_mosaic(path: Path, films: Sequence[Film], outcomes: Sequence[Outcome]) -> None:
    """An MP4 (H.264, 20 frames a second) of films [T, H, W, 3] side by side.

    Args:
        path: the file.
        films: one an episode, of equal shape.
        outcomes: how the same episodes went.

    Raises:
        UsageError: if the file can't be written.
    """
    length = max(len(film) for film in films)
    rows, columns = layout(len(films))
    height, width = rows * films[0].shape[1], columns * films[0].shape[2]
    times = [*range(length), *[length - 1] * STILL]
    partial = path.with_name(f".{path.name}.partial.mp4")
    try:
        _encode(partial, (mosaic(films, outcomes, time, time == length - 1) for time in times), height, width)
        partial.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


def mosaic(films: Sequence[Film], outcomes: Sequence[Outcome], time: int, over: bool) -> Film:
    """One picture of all films at a time, in rows and columns."""
    rows, columns = layout(len(films))
    height, width = films[0].shape[1:3]
    canvas = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for k, (film, outcome) in enumerate(zip(films, outcomes, strict=False)):
        y, x = (k // columns) * height, (k % columns) * width
        image = film[min(time, len(film) - 1)]
        canvas[y : y + height, x : x + width] = _frame(image, _colour(outcome, time, over))
    return canvas


def layout(count: int) -> tuple[int, int]:
    """Rows and columns of a mosaic of so many films."""
    columns = math.ceil(math.sqrt(count))
    return math.ceil(count / columns), columns


def _colour(outcome: Outcome, time: int, over: bool) -> tuple[int, int, int]:
    """Green from the first success on; what counts in the end is success at the last step. Grey without success."""
    if outcome.success is None:
        return RUNNING
    if over:
        return SOLVED if outcome.success else FAILED
    first = outcome.first_success
    return SOLVED if first is not None and time * FILM_EVERY >= first - 1 else RUNNING


def _frame(image: Film, colour: tuple[int, int, int]) -> Film:
    """The image with a border of this colour."""
    framed = image.copy()
    for edge in (np.s_[:BORDER], np.s_[-BORDER:], np.s_[:, :BORDER], np.s_[:, -BORDER:]):
        framed[edge] = colour
    return framed


def _encode(path: Path, frames: Iterator[Film], height: int, width: int) -> None:
    import av

    try:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=FPS, options={"crf": "23", "preset": "veryfast"})
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    except av.error.FFmpegError as error:
        raise UsageError(f"can't write the video {path}: {error}") from error
