"""KITTI's tracking labels: the objects of all frames of a sequence in one file, each with the number of its track."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robovision.errors import UsageError
from robovision.files import write_atomically
from robovision.lidar.kitti_labels import KittiObjects, format_object, parse_objects, read_text
from robovision.types import Array


@dataclass(frozen=True, eq=False)
class KittiTracks:
    """N objects of a sequence.

    Convention:
        frames: int64 [N], the frame that each is in, from 0.
        tracks: int64 [N], the same for an object in all frames; -1 for `DontCare`.
        objects: as in KITTI's object files.
    """

    frames: Array
    tracks: Array
    objects: KittiObjects

    def at(self, frame: int) -> KittiObjects:
        """The objects of one frame."""
        index = np.flatnonzero(self.frames == frame)
        return KittiObjects(tuple(self.objects.names[i] for i in index), self.objects.values[index])


def read_tracks(path: Path, scored: bool = False) -> KittiTracks:
    """The objects of a sequence; with scores, if they are detections.

    Raises:
        UsageError: naming file and line, if it can't be read, a line is incomplete, a class is unknown, or a number
            is wrong.
    """
    rows = [(at, line.split()) for at, line in enumerate(read_text(path).splitlines(), 1) if line.strip()]
    try:
        numbers = np.array([[int(word) for word in words[:2]] for _, words in rows], np.int64).reshape(-1, 2)
    except ValueError as error:
        raise UsageError(
            f"{path}: frame and track at the start of each line must be whole numbers ({error})"
        ) from error
    # "Person" is what the tracking benchmark calls a sitting person.
    rest = [(at, ["Person_sitting" if w == "Person" else w for w in words[2:3]] + words[3:]) for at, words in rows]
    return KittiTracks(numbers[:, 0], numbers[:, 1], parse_objects(path, rest, scored))


def write_tracks(path: Path, tracks: KittiTracks) -> None:
    """Write the objects of a sequence; the numbers are read back bit by bit."""
    lines = [
        f"{frame} {track} {format_object(name, values)}\n".replace(" Person_sitting ", " Person ")
        for frame, track, name, values in zip(
            tracks.frames.tolist(),
            tracks.tracks.tolist(),
            tracks.objects.names,
            tracks.objects.values.tolist(),
            strict=True,
        )
    ]
    with write_atomically(path) as file:
        file.write("".join(lines).encode())
