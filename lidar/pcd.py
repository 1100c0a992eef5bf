"""PCD files (Point Cloud Library, format 0.7): ASCII, binary and compressed binary; written as binary.

Fields: x, y, z, and where there are any `intensity` (0..1), `time` (seconds) and `ring`; others are passed over.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from robovision.errors import UsageError, unknown
from robovision.files import write_atomically
from robovision.lidar.checks import make_cloud, read_bytes
from robovision.types import Array, PointCloud

KINDS = ("ascii", "binary", "binary_compressed")
OPTIONAL = ("intensity", "time", "ring")
REQUIRED = ("FIELDS", "SIZE", "TYPE", "POINTS", "DATA")


def read_pcd(path: Path) -> PointCloud:
    """The cloud of a PCD file.

    Raises:
        UsageError: naming the file, if the header is wrong, x, y or z is missing, or points are missing at the end.
    """
    header, body = _split(path, read_bytes(path))
    dtype, points = _layout(path, header)
    kind = header["DATA"][0].lower()
    if kind not in KINDS:
        raise UsageError(f"{path}: {unknown('PCD data kind', kind, KINDS)}")
    table = _READ[kind](path, body, dtype, points)
    xyz = np.stack([table[name].astype(np.float32) for name in "xyz"], axis=1)
    intensity, time, ring = (table[name] if name in (dtype.names or ()) else None for name in OPTIONAL)
    return make_cloud(path, xyz, intensity, time, ring)


def write_pcd(path: Path, cloud: PointCloud) -> None:
    """Write a cloud as binary PCD; all numbers are read back bit by bit."""
    table = to_table(cloud)
    fields = table.dtype.names or ()
    kinds = [{"f": "F", "i": "I"}[table[name].dtype.kind] for name in fields]
    sizes = [str(table[name].dtype.itemsize) for name in fields]
    header = (
        "# .PCD v0.7\nVERSION 0.7\n"
        f"FIELDS {' '.join(fields)}\nSIZE {' '.join(sizes)}\nTYPE {' '.join(kinds)}\n"
        f"COUNT {' '.join('1' for _ in fields)}\nWIDTH {len(cloud)}\nHEIGHT 1\n"
        f"VIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(cloud)}\nDATA binary\n"
    )
    with write_atomically(path) as file:
        file.write(header.encode() + table.tobytes())


def to_table(cloud: PointCloud) -> Array:
    """The cloud as one structured array [N] with fields x, y, z and those of `OPTIONAL` that it has."""
    given = [(name, getattr(cloud, name)) for name in OPTIONAL if getattr(cloud, name) is not None]
    columns = [*((name, cloud.xyz[:, k]) for k, name in enumerate("xyz")), *given]
    # PCL knows no 8-byte integers: 4 bytes are enough for the number of a laser.
    types = [(name, "<i4" if values.dtype.kind == "i" else "<f4") for name, values in columns]
    table = np.zeros(len(cloud), np.dtype(types))
    for name, values in columns:
        table[name] = values
    return table


def _split(path: Path, content: bytes) -> tuple[dict[str, list[str]], bytes]:
    at = content.find(b"\nDATA")
    end = content.find(b"\n", at + 1)
    if at < 0 or end < 0:
        raise UsageError(f"{path} is no PCD file, or is cut off in its header")
    lines = content[:end].decode("ascii", errors="replace").splitlines()
    header = {words[0]: words[1:] for words in map(str.split, lines) if len(words) > 1 and words[0] != "#"}
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise UsageError(f"{path}: the PCD header has no {', '.join(missing)}")
    return header, content[end + 1 :]


def _layout(path: Path, header: dict[str, list[str]]) -> tuple[np.dtype[np.void], int]:
    names = header["FIELDS"]
    counts = header.get("COUNT", ["1"] * len(names))
    try:
        codes = {"F": "f", "I": "i", "U": "u"}
        parts = zip(names, header["TYPE"], header["SIZE"], counts, strict=True)
        # Padding is named "_", as often as it is needed.
        types = [(f"_{k}" if n == "_" else n, f"<{codes[t]}{s}", (int(c),)) for k, (n, t, s, c) in enumerate(parts)]
        dtype = np.dtype([(n, t) if c == (1,) else (n, t, c) for n, t, c in types])
        points = int(header["POINTS"][0])
        if points < 0:
            raise ValueError(f"POINTS {points}")
    except (KeyError, ValueError, TypeError) as error:
        raise UsageError(f"{path}: the PCD header contradicts itself ({error})") from error
    if not {"x", "y", "z"} <= set(names):
        raise UsageError(f"{path}: fields x, y and z are needed; there are {', '.join(names)}")
    if any(dtype[name].shape for name in "xyz"):
        raise UsageError(f"{path}: fields x, y and z must be one number each; their COUNT must be 1")
    return dtype, points


def _ascii(path: Path, body: bytes, dtype: np.dtype[np.void], points: int) -> Array:
    words = body.decode("ascii", errors="replace").split()
    width = sum(int(np.prod(dtype[name].shape)) for name in dtype.names or ())
    if len(words) < points * width:
        raise _cut(path, points, len(words) // width)
    try:
        numbers = np.array(words[: points * width], dtype=np.float64).reshape(points, width)
    except ValueError as error:
        raise UsageError(f"{path}: {error}; ASCII data must be numbers") from error
    table = np.zeros(points, dtype)
    column = 0
    for name in dtype.names or ():
        count = int(np.prod(dtype[name].shape))
        table[name] = numbers[:, column : column + count].reshape(table[name].shape)
        column += count
    return table


def _binary(path: Path, body: bytes, dtype: np.dtype[np.void], points: int) -> Array:
    if len(body) < points * dtype.itemsize:
        raise _cut(path, points, len(body) // dtype.itemsize)
    return np.frombuffer(body, dtype, points)


def _compressed(path: Path, body: bytes, dtype: np.dtype[np.void], points: int) -> Array:
    """Field after field, compressed by LZF."""
    if len(body) < 8:
        raise _cut(path, points, 0)
    packed, size = struct.unpack_from("<II", body)
    if len(body) < 8 + packed or size < points * dtype.itemsize:
        raise _cut(path, points, 0)
    content = _lzf(path, body[8 : 8 + packed], size)
    table = np.zeros(points, dtype)
    start = 0
    for name in dtype.names or ():
        part = np.frombuffer(content, dtype[name], points, start)
        table[name] = part
        start += part.nbytes
    return table


def _lzf(path: Path, packed: bytes, size: int) -> bytes:
    """Undo LZF (Lehmann's liblzf): runs of literals, and copies of up to 264 bytes from the last 8 KB."""
    out = bytearray()
    at = 0
    try:
        while at < len(packed):
            control = packed[at]
            at += 1
            if control < 32:
                out += packed[at : at + control + 1]
                at += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += packed[at]
                at += 1
            start = len(out) - ((control & 31) << 8) - packed[at] - 1
            at += 1
            if start < 0:
                raise IndexError
            period = bytes(out[start : start + length + 2])
            out += (period * (1 + (length + 2) // len(period)))[: length + 2]
    except (IndexError, ZeroDivisionError):
        raise UsageError(f"{path}: the compressed data is damaged; write the file again") from None
    if len(out) != size:
        raise UsageError(f"{path}: the compressed data gives {len(out)} bytes where {size} are announced")
    return bytes(out)


def _cut(path: Path, points: int, found: int) -> UsageError:
    return UsageError(f"{path} is cut off: its header announces {points} points, it holds {found}; write it again")


_READ = {"ascii": _ascii, "binary": _binary, "binary_compressed": _compressed}
