"""Images to work on: from folders, globs, single files and videos, each under a name of its own."""

from __future__ import annotations

import functools
import glob
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robovision.errors import UsageError, first_line
from robovision.keypoints.pixels import read_grey
from robovision.types import Array

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".gif"})
VIDEOS = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"})
"""Endings of what is looked for in folders."""
MISSED = 0.9
"""Share of the frames that a video says it has below which it is damaged: rates vary, and editors hide frames."""


@dataclass(frozen=True)
class Source:
    """A file with an image, or with a video.

    Convention:
        name: where it lies, relative to what all sources have in common, with slashes: `left/0001.jpg`.
    """

    name: str
    path: Path

    @property
    def is_video(self) -> bool:
        """Whether it holds a video."""
        return self.path.suffix.lower() in VIDEOS


def find(arguments: Sequence[str]) -> list[Source]:
    """The images and videos that arguments name, in the order of their names.

    Args:
        arguments: folders, which are searched with all in them; globs such as `run/**/left/*.png`; or files.

    Raises:
        UsageError: if one of them names nothing, or there is no image or video.
    """
    files: set[Path] = set()
    roots: list[str] = []
    for argument in arguments:
        root, found = _files(argument)
        files |= found
        roots.append(str(root))
    if not files:
        raise UsageError(f"there is no image or video in {', '.join(arguments) or 'nothing'}; give folders or files")
    common = Path(os.path.commonpath(roots))
    return sorted((Source(f.relative_to(common).as_posix(), f) for f in files), key=lambda source: source.name)


def _files(argument: str) -> tuple[Path, set[Path]]:
    """The folder that an argument starts from, and the files that it names."""
    path = Path(argument).absolute()
    if path.is_dir():
        return path, {file for file in path.rglob("*") if _is_known(file)}
    if path.is_file():
        return path.parent, {path}
    fixed = itertools.takewhile(lambda part: not glob.has_magic(part), path.parts)
    found = {Path(name) for name in glob.glob(str(path), recursive=True)}  # noqa: PTH207 (absolute, with **)
    files = {file for file in found if file.is_file()} | {f for d in found if d.is_dir() for f in _files(str(d))[1]}
    if not files:
        raise UsageError(f"there is no image, video or folder {argument}")
    return Path(*fixed), files


def _is_known(file: Path) -> bool:
    """Whether it looks like an image or a video; a link to nothing does, too, so that it is missed."""
    known = file.suffix.lower() in IMAGES | VIDEOS and not file.name.startswith(".")
    return known and (file.is_file() or (file.is_symlink() and not file.exists()))


def read(source: Source, every: int, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Array | None]]:
    """The name of each image of a source, with its pixels, grey float32 [H, W] in 0..1, if they are wanted.

    A video's frames are named by their number: `left.mp4/000120.jpg`.

    Args:
        source: the image or video.
        every: of a video only every so many-th frame.
        wanted: whether to read the image of a name; else None comes in its place.

    Raises:
        UsageError: if it is damaged, after what could be read of it, or its name is no text.
    """
    if not _is_text(source.name):
        shown = str(source.path).encode(errors="backslashreplace").decode()
        raise UsageError(f"{shown} has a name that is no UTF-8, so no file can hold its keypoints: rename it")
    if not source.is_video:
        yield source.name, read_grey(source.path) if wanted(source.name) else None
        return
    for number, frame in enumerate(_decode(source.path)):
        if number % every == 0:
            name = f"{source.name}/{number:06d}.jpg"
            yield name, frame() if wanted(name) else None


def _is_text(name: str) -> bool:
    """Whether it is Unicode; Python keeps bytes of a file's name that are none as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def readable(paths: Sequence[Path], progress: Callable[[], object] = lambda: None) -> tuple[list[Path], list[str]]:
    """The images that can be read, and a message for each of the others.

    Each is decoded to see it, so that a damaged one shows before long work on all; `progress` is called after each.
    """
    good, faults = [], []
    for path in paths:
        try:
            read_grey(path)
        except UsageError as error:
            faults.append(str(error))
        else:
            good.append(path)
        progress()
    return good, faults


def count(source: Source, every: int) -> int | None:
    """How many images `read` gives, by what a video says of itself; None if it says nothing."""
    import av

    if not source.is_video:
        return 1
    try:
        with av.open(str(source.path)) as container:
            return -(-container.streams.video[0].frames // every) or None
    except (av.error.FFmpegError, IndexError, ValueError):
        return None


def _decode(path: Path) -> Iterator[Callable[[], Array]]:
    """A function for each frame of a video that gives its pixels."""
    import av

    count, declared = 0, 0
    try:
        with av.open(str(path)) as container:
            declared = _declared(container)
            for frame in container.decode(video=0):
                count += 1
                yield functools.partial(_grey, frame)
    except (av.error.FFmpegError, IndexError, ValueError) as error:
        reason = error.strerror if isinstance(error, av.error.FFmpegError) else first_line(error)
        raise UsageError(f"{path} can't be read beyond frame {count}: {reason}") from error
    if not count:
        raise UsageError(f"{path} has no frames")
    if count < MISSED * declared - 1:
        raise UsageError(
            f"{path} can't be read beyond frame {count} of about {declared}: the file is cut off or damaged"
        )


def _declared(container: Any) -> int:
    """How many frames a video says that it has, or how many its duration holds; 0 if it says neither."""
    video = container.streams.video[0]
    if video.frames or container.duration is None or not video.average_rate:
        return int(video.frames)
    return int(container.duration / 1e6 * float(video.average_rate) + 0.5)


def _grey(frame: Any) -> Array:
    return np.asarray(frame.to_ndarray(format="gray").astype(np.float32) / np.float32(255))
