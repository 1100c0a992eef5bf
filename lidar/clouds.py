"""Point clouds in files, by the end of the file's name: KITTI, nuScenes, Argoverse 2, PCD, PLY and NPZ."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from robovision.errors import UsageError
from robovision.files import write_atomically
from robovision.lidar.argoverse import read_sweep, write_sweep
from robovision.lidar.checks import make_cloud, read_bytes
from robovision.lidar.pcd import read_pcd, write_pcd
from robovision.lidar.ply import read_ply, write_ply
from robovision.types import Array, PointCloud

COLUMNS = {"kitti": 4, "nuscenes": 5}
"""Numbers of 4 bytes that make a point of each binary format."""

ZIP = (b"PK\x03\x04", b"PK\x05\x06")
"""How NPZ files begin, which are ZIP archives; the second if there is nothing in it."""

DAMAGED = (ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)
"""What reading an NPZ file raises if single bytes of it are wrong."""


def read_cloud(path: str | Path) -> PointCloud:
    """The cloud in a file `.bin` (KITTI), `.pcd.bin` (nuScenes), `.feather` (Argoverse 2), `.pcd`, `.ply` or `.npz`.

    Points with NaN or infinite coordinates stand for no return: they are left out, with a warning.

    Raises:
        UsageError: naming the file, if its ending is unknown, it can't be read, is cut off or not of its format.
    """
    path = Path(path)
    return _format(path)[0](path)


def write_cloud(path: str | Path, cloud: PointCloud) -> None:
    """Write a cloud in the format that the end of the name chooses, as `read_cloud`.

    What a format has no room for is left out: KITTI keeps intensity, nuScenes intensity and ring, Argoverse 2 all of
    it at its own precision; the others keep everything, bit by bit. Missing intensity and ring are written as 0
    where a format demands them.

    Raises:
        UsageError: if the ending is unknown or the file can't be written.
    """
    path = Path(path)
    _format(path)[1](path, cloud)


def read_kitti(path: Path) -> PointCloud:
    """A KITTI sweep: float32 x, y, z and reflectance in 0..1."""
    rows = _rows(path, "kitti")
    wrong = rows[np.isfinite(rows).all(axis=1) & ((rows[:, 3] < 0) | (rows[:, 3] > 1)), 3]
    if len(wrong):
        raise UsageError(
            f"{path}: KITTI's fourth number of a point, reflectance, lies in 0..1, got {wrong[0]:g}; divide intensity "
            "by its largest value, or, if each point has five numbers (nuScenes), name the file .pcd.bin"
        )
    return make_cloud(path, rows[:, :3], rows[:, 3])


def write_kitti(path: Path, cloud: PointCloud) -> None:
    """Write a KITTI sweep."""
    _write_rows(path, [cloud.xyz, _or_zero(cloud.intensity, cloud)[:, None]])


def read_nuscenes(path: Path) -> PointCloud:
    """A nuScenes sweep: float32 x, y, z, intensity in 0..255 and the number of the laser."""
    rows = _rows(path, "nuscenes")
    if not (np.isfinite(rows[:, 4]) & (rows[:, 4] == rows[:, 4].round()) & (rows[:, 4] >= 0)).all():
        raise UsageError(
            f"{path}: nuScenes' fifth number of a point is that of its laser, 0, 1, 2, ..; if each point has four "
            "numbers (KITTI), name the file .bin"
        )
    return make_cloud(path, rows[:, :3], rows[:, 3] / np.float32(255), ring=rows[:, 4])


def write_nuscenes(path: Path, cloud: PointCloud) -> None:
    """Write a nuScenes sweep."""
    intensity = _or_zero(cloud.intensity, cloud) * np.float32(255)
    _write_rows(path, [cloud.xyz, intensity[:, None], _or_zero(cloud.ring, cloud)[:, None]])


def read_npz(path: Path) -> PointCloud:
    """A cloud as arrays `xyz`, and perhaps `intensity`, `time`, `ring` and `frame`, named as in `PointCloud`."""
    arrays = read_arrays(path)
    if "xyz" not in arrays or arrays["xyz"].ndim != 2 or arrays["xyz"].shape[1] != 3:
        raise UsageError(f"{path} must hold an array xyz of shape [N, 3]; it holds {_shapes(arrays)}")
    intensity, time, ring = (arrays.get(name) for name in ("intensity", "time", "ring"))
    return make_cloud(path, arrays["xyz"], intensity, time, ring, frame=str(arrays.get("frame", "lidar")))


def write_npz(path: Path, cloud: PointCloud) -> None:
    """Write a cloud as arrays named as in `PointCloud`."""
    named = {"xyz": cloud.xyz, "intensity": cloud.intensity, "time": cloud.time, "ring": cloud.ring}
    write_arrays(path, {**{name: a for name, a in named.items() if a is not None}, "frame": np.array(cloud.frame)})


def read_arrays(path: Path) -> dict[str, Array]:
    """All arrays of an NPZ file.

    Raises:
        UsageError: if it can't be read, is cut off or holds Python objects, which are not loaded.
    """
    content = read_bytes(path)
    if not content.startswith(ZIP):  # of anything else NumPy thinks that it is pickled
        raise UsageError(f"{path} is no NPZ file or is cut off; write it again")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except DAMAGED as error:
        raise UsageError(f"{path} is no NPZ file or is cut off ({error}); write it again") from error


def write_arrays(path: Path, arrays: dict[str, Array], compress: bool = True) -> None:
    """Write arrays to an NPZ file, atomically."""
    with write_atomically(path) as file:
        (np.savez_compressed if compress else np.savez)(file, allow_pickle=False, **arrays)


def _rows(path: Path, kind: str) -> Array:
    content, columns = read_bytes(path), COLUMNS[kind]
    if len(content) % (4 * columns):
        others = [name for name, n in COLUMNS.items() if len(content) % (4 * n) == 0]
        advice = f"it could be of {' or '.join(others)}" if others else "it is cut off or of another format"
        raise UsageError(
            f"{path}: {len(content)} bytes is no multiple of the {4 * columns} bytes of a {kind} point; {advice}"
        )
    return np.frombuffer(content, "<f4").reshape(-1, columns)


def _write_rows(path: Path, columns: list[Array]) -> None:
    with write_atomically(path) as file:
        file.write(np.hstack(columns).astype("<f4").tobytes())


def _or_zero(values: Array | None, cloud: PointCloud) -> Array:
    return np.zeros(len(cloud), np.float32) if values is None else values


def _shapes(arrays: dict[str, Array]) -> str:
    return ", ".join(f"{name} {list(a.shape)}" for name, a in arrays.items()) or "nothing"


Reader = Callable[[Path], PointCloud]
Writer = Callable[[Path, PointCloud], None]
FORMATS: dict[str, tuple[Reader, Writer]] = {
    ".pcd.bin": (read_nuscenes, write_nuscenes),
    ".bin": (read_kitti, write_kitti),
    ".feather": (read_sweep, write_sweep),
    ".pcd": (read_pcd, write_pcd),
    ".ply": (read_ply, write_ply),
    ".npz": (read_npz, write_npz),
}


def _format(path: Path) -> tuple[Reader, Writer]:
    for ending, pair in FORMATS.items():
        if path.name.lower().endswith(ending):
            return pair
    raise UsageError(f"{path}: the end of the name chooses the format of a point cloud: {', '.join(FORMATS)}")
