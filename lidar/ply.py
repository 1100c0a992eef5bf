"""PLY files (Turk, 1994): ASCII and binary of both byte orders; written as little-endian binary.

The element `vertex` has properties x, y, z, and where there are any `intensity` (0..1), `time` (seconds) and `ring`;
others are passed over, and so are elements behind the vertices.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from robovision.errors import UsageError, unknown
from robovision.files import write_atomically
from robovision.lidar.checks import make_cloud, read_bytes
from robovision.lidar.pcd import OPTIONAL, to_table
from robovision.types import Array, PointCloud

FORMATS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
NAMES = (
    "char uchar short ushort int uint float double int8 uint8 int16 uint16 int32 uint32 float32 float64",
    "i1 u1 i2 u2 i4 u4 f4 f8 i1 u1 i2 u2 i4 u4 f4 f8",
)
TYPES = dict(zip(*(line.split() for line in NAMES), strict=True))


def read_ply(path: Path) -> PointCloud:
    """The vertices of a PLY file as a cloud.

    Raises:
        UsageError: naming the file, if the header is wrong, x, y or z is missing, or points are missing at the end.
    """
    content = read_bytes(path)
    mark = content.find(b"end_header")
    end = content.find(b"\n", mark)
    if not content.startswith(b"ply") or mark < 0 or end < 0:
        raise UsageError(f"{path} is no PLY file, or is cut off in its header")
    order, dtype, points = _header(path, content[:mark].decode("ascii", errors="replace"))
    names = dtype.names or ()
    if not {"x", "y", "z"} <= set(names):
        raise UsageError(f"{path}: properties x, y and z are needed; there are {', '.join(names) or 'none'}")
    table = _table(path, content[end + 1 :], order, dtype, points)
    xyz = np.stack([table[name].astype(np.float32) for name in "xyz"], axis=1)
    intensity, time, ring = (table[name] if name in names else None for name in OPTIONAL)
    return make_cloud(path, xyz, intensity, time, ring)


def write_ply(path: Path, cloud: PointCloud) -> None:
    """Write a cloud as binary PLY; all numbers are read back bit by bit."""
    table = to_table(cloud)
    kinds = {"i": "int", "f": "float"}
    properties = [f"property {kinds[table[name].dtype.kind]} {name}\n" for name in table.dtype.names or ()]
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(cloud)}\n{''.join(properties)}end_header\n"
    with write_atomically(path) as file:
        file.write(header.encode() + table.tobytes())


def _header(path: Path, text: str) -> tuple[str, np.dtype[np.void], int]:
    lines = [line.split() for line in text.splitlines()[1:] if line.strip() and line.split()[0] != "comment"]
    try:
        kind = next(words[1] for words in lines if words[0] == "format")
        elements = [k for k, words in enumerate(lines) if words[0] == "element"]
        if not elements or lines[elements[0]][1] != "vertex":
            raise UsageError(f"{path}: the first element must be `vertex`")
        last = elements[1] if len(elements) > 1 else len(lines)
        properties = [words for words in lines[elements[0] + 1 : last] if words[0] == "property"]
        if any(words[1] == "list" for words in properties):
            raise UsageError(f"{path}: a vertex with lists can't be read as a point")
        if kind not in FORMATS:
            raise UsageError(f"{path}: {unknown('PLY format', kind, FORMATS)}")
        dtype = np.dtype([(words[2], FORMATS[kind] + TYPES[words[1]]) for words in properties])
        points = int(lines[elements[0]][2])
        if points < 0:
            raise ValueError(f"{points} vertices")
        return kind, dtype, points
    except (StopIteration, IndexError, KeyError, ValueError) as error:
        raise UsageError(f"{path}: the PLY header is wrong ({error!r})") from error


def _table(path: Path, body: bytes, order: str, dtype: np.dtype[np.void], points: int) -> Array:
    if order != "ascii":
        found = len(body) // dtype.itemsize
        if found < points:
            raise _cut(path, points, found)
        return np.frombuffer(body, dtype, points)
    words, width = body.decode("ascii", errors="replace").split(), len(dtype.names or ())
    if len(words) < points * width:
        raise _cut(path, points, len(words) // width)
    try:
        numbers = np.array(words[: points * width], np.float64).reshape(points, width)
    except ValueError as error:
        raise UsageError(f"{path}: {error}; ASCII data must be numbers") from error
    table = np.zeros(points, dtype)
    for k, name in enumerate(dtype.names or ()):
        table[name] = numbers[:, k]
    return table


def _cut(path: Path, points: int, found: int) -> UsageError:
    return UsageError(f"{path} is cut off: its header announces {points} vertices, it holds {found}; write it again")
