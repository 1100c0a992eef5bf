"""KITTI's object files: one line of text for each object of a frame, ground truth or detection.

The format is that of the object benchmark (Geiger, Lenz, Urtasun, 2012): class, truncation, occlusion, observation
angle, rectangle in the image, height, width, length, place in the camera's frame, rotation and, for detections, score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robovision.errors import UsageError, unknown
from robovision.files import write_atomically
from robovision.types import Array

DONT_CARE = "DontCare"
CLASSES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc")
SPELLING = {name.lower(): name for name in (*CLASSES, DONT_CARE)}
LABEL, DETECTION = 14, 15
"""Numbers behind the class in a line of ground truth and of detections."""


@dataclass(frozen=True, eq=False)
class KittiObjects:
    """N objects as KITTI writes them; the camera's frame is x to the right, y down, z forward.

    Convention:
        names: the class of each object, one of `CLASSES` or `DontCare`.
        values: float64 [N, 14] or, with scores, [N, 15], in the order of the file, read-only; the properties name its
            columns.
    """

    names: tuple[str, ...]
    values: Array

    def __post_init__(self) -> None:
        values = np.asarray(self.values, dtype=np.float64)
        if values.flags.writeable:  # what nobody can change need not be copied
            values = values.copy()
        if values.shape not in ((len(self.names), LABEL), (len(self.names), DETECTION)):
            raise ValueError(
                f"KittiObjects.values must have shape [{len(self.names)}, 14 or 15], got {list(values.shape)}"
            )
        values.flags.writeable = False
        object.__setattr__(self, "values", values)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def truncation(self) -> Array:
        """Share [N] of the object outside the image, 0..1; -1 where it is unknown."""
        return self.values[:, 0]

    @property
    def occlusion(self) -> Array:
        """[N]: 0 visible, 1 partly, 2 largely occluded, 3 unknown; -1 in detections."""
        return self.values[:, 1]

    @property
    def alpha(self) -> Array:
        """Observation angle [N], radians; -10 where it is unknown."""
        return self.values[:, 2]

    @property
    def rectangles(self) -> Array:
        """[N, 4]: left, top, right, bottom in pixels of the left colour image."""
        return self.values[:, 3:7]

    @property
    def sizes(self) -> Array:
        """[N, 3]: height, width, length in metres; -1 where there is no box."""
        return self.values[:, 7:10]

    @property
    def locations(self) -> Array:
        """[N, 3]: the middle of the bottom in the rectified camera's frame, metres; -1000 where there is no box."""
        return self.values[:, 10:13]

    @property
    def rotation_y(self) -> Array:
        """Rotation [N] about the camera's y axis, radians, 0 for an object that heads along x."""
        return self.values[:, 13]

    @property
    def scores(self) -> Array | None:
        """[N], larger is better, or None for ground truth."""
        return self.values[:, 14] if self.values.shape[1] == DETECTION else None

    @property
    def boxed(self) -> Array:
        """Bool [N]: whether the object has a box in space, and not just a rectangle in the image."""
        missing = (self.sizes == -1).all(axis=1) | (self.locations == -1000).all(axis=1)
        boxed: Array = ~missing
        return boxed

    @staticmethod
    def concatenate(parts: Sequence[KittiObjects], numbers: int) -> KittiObjects:
        """The objects of all parts, in order, each with that many numbers."""
        names = tuple(name for part in parts for name in part.names)
        return KittiObjects(names, np.concatenate([np.zeros((0, numbers)), *(part.values for part in parts)]))


def read_labels(path: Path) -> KittiObjects:
    """The ground truth of one frame.

    Raises:
        UsageError: naming file and line, if it can't be read, a line is incomplete, a class is unknown, or a number
            is none, not finite or a negative size.
    """
    return _read(path, scored=False)


def read_detections(path: Path) -> KittiObjects:
    """The detections of one frame, with scores; an empty file is a frame without detections.

    Raises:
        UsageError: as `read_labels`, and if scores are missing.
    """
    return _read(path, scored=True)


def write_objects(path: Path, objects: KittiObjects) -> None:
    """Write ground truth or, if there are scores, detections; the numbers are read back bit by bit.

    Raises:
        UsageError: if the file can't be written.
    """
    pairs = zip(objects.names, objects.values.tolist(), strict=True)
    with write_atomically(path) as file:
        file.write("".join(f"{format_object(name, values)}\n" for name, values in pairs).encode())


def format_object(name: str, values: list[float]) -> str:
    """The line of one object."""
    truncation, occlusion, *rest = values
    return f"{name} {truncation} {int(occlusion)} {' '.join(map(str, rest))}"


def parse_objects(path: Path, rows: list[tuple[int, list[str]]], scored: bool) -> KittiObjects:
    """The objects of lines, each given by its number in the file and its words.

    Raises:
        UsageError: naming file and line, as `read_labels`.
    """
    numbers = DETECTION if scored else LABEL
    names = tuple(_name(path, at, row) for at, row in rows)
    values = np.array([_numbers(path, at, row[1:], numbers) for at, row in rows]).reshape(-1, numbers)
    objects = KittiObjects(names, values)
    _refuse(path, rows, ~np.isfinite(values).all(axis=1), "a number is not finite; remove the object or mend it")
    negative = (objects.sizes < 0).any(axis=1) & objects.boxed
    _refuse(path, rows, negative, "height, width or length is negative; write -1 -1 -1 only where there is no box")
    reverse = np.any(objects.rectangles[:, 2:] < objects.rectangles[:, :2], axis=1)
    _refuse(path, rows, reverse, "the rectangle has a negative size; it is left, top, right, bottom in pixels")
    return objects


def _read(path: Path, scored: bool) -> KittiObjects:
    rows = [(at, line.split()) for at, line in enumerate(read_text(path).splitlines(), 1) if line.strip()]
    return parse_objects(path, rows, scored)


def read_text(path: Path) -> str:
    """The text of a file of KITTI objects; UsageError if it can't be read or is no text."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror or error}; give a file of KITTI objects") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not text; give a file of KITTI objects, such as label_2/000000.txt") from error


def _name(path: Path, at: int, words: list[str]) -> str:
    """The class in KITTI's own spelling; the official evaluation does not look at upper and lower case either."""
    if not words:
        raise UsageError(f"{path}, line {at}: there is no class; the file may be cut off: write it again")
    known = SPELLING.get(words[0].lower())
    if known is None:
        raise UsageError(f"{path}, line {at}: {unknown('class', words[0], SPELLING.values())}")
    return known


def _numbers(path: Path, at: int, words: list[str], expected: int) -> list[float]:
    if len(words) != expected:
        raise UsageError(f"{path}, line {at}: {_miscounted(len(words), expected)}")
    try:
        return [float(word) for word in words]
    except ValueError as error:
        raise UsageError(f"{path}, line {at}: {error}; all but the class must be numbers") from error


def _miscounted(count: int, expected: int) -> str:
    found = f"{count} numbers behind the class where {expected} are expected"
    if (count, expected) == (LABEL, DETECTION):
        return f"{found}: the score is missing; append it to every detection"
    if (count, expected) == (DETECTION, LABEL):
        return f"{found}: ground truth has no score; have truth and detections been swapped?"
    return f"{found}; the file may be cut off: write it again"


def _refuse(path: Path, rows: list[tuple[int, list[str]]], wrong: Any, reason: str) -> None:
    if np.any(wrong):
        at, words = rows[int(np.argmax(wrong))]
        raise UsageError(f"{path}, line {at}: {reason}: {' '.join(words)}")
