"""Keypoints and verified matches as a database of COLMAP (Schönberger and Frahm, CVPR 2016), to reconstruct from."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from robovision.errors import UsageError, first_line
from robovision.files import cannot_write
from robovision.keypoints import hloc
from robovision.keypoints.matching import MatchOptions, match
from robovision.types import Array, Keypoints

MODEL = "SIMPLE_RADIAL"
HALF = np.float32(0.5)
"""What COLMAP adds to our pixels."""
FOCAL = 1.2
"""Focal length where nothing is known, as a share of the image's longer side; COLMAP's own guess."""


def import_pycolmap() -> Any:
    """The module pycolmap.

    Raises:
        UsageError: if it is not installed.
    """
    try:
        import pycolmap
    except ImportError as error:
        raise UsageError("COLMAP's databases need pycolmap: pip install 'robovision[colmap]'") from error
    return pycolmap


def focal_length(path: Path) -> float | None:
    """The focal length in pixels that an image's EXIF tells, or None."""
    pycolmap = import_pycolmap()
    try:
        camera = pycolmap.infer_camera_from_image(path)
    except (RuntimeError, ValueError):  # a video, or damaged
        return None
    return float(camera.mean_focal_length()) if camera.has_prior_focal_length else None


def pairs(count: int, neighbours: int | None) -> list[tuple[int, int]]:
    """All pairs of `count` images, or those of an image with as many as `neighbours` after it."""
    reach = count if neighbours is None else neighbours
    return [(i, j) for i, j in itertools.combinations(range(count), 2) if j - i <= reach]


def write_database(
    path: Path,
    features: Path,
    chosen: Sequence[tuple[int, int]],
    options: MatchOptions,
    focal_lengths: Mapping[str, float | None] | None = None,
    progress: Callable[[], object] = lambda: None,
) -> int:
    """Write keypoints, matches and verified two-view geometries of images; returns how many pairs were verified.

    What an interrupted call has written stays, and the next one goes on. Each folder of images has one camera, of
    the model SIMPLE_RADIAL: COLMAP refines it. Places are COLMAP's, the centre of the top-left pixel at (0.5, 0.5).

    Args:
        path: the database.
        features: the images' keypoints, an HDF5 file of `hloc.Store`.
        chosen: which images to match, by their places in the order of their names.
        options: how to match.
        focal_lengths: in pixels, by image; where there is none, `FOCAL` is assumed.
        progress: called after each pair.

    Raises:
        UsageError: if pycolmap is not installed, or the database is of other images or keypoints.
    """
    pycolmap = import_pycolmap()
    names = hloc.names(features)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _write_images(pycolmap, path, features, focal_lengths or {})
        with pycolmap.Database.open(path) as database:
            numbers = _numbers(database, path, features, names)
            for i, j in chosen:
                ids = numbers[i], numbers[j]
                if not database.exists_two_view_geometry(*ids):
                    _write_pair(pycolmap, database, ids, hloc.read(features, (names[i], names[j])), options)
                progress()
            return int(database.num_verified_image_pairs())
    except OSError as error:
        raise cannot_write(path, error) from error
    except RuntimeError as error:  # of SQLite
        raise UsageError(f"{path} is no database of COLMAP's, or can't be written: {first_line(error)}") from error


def _write_images(pycolmap: Any, path: Path, features: Path, focal_lengths: Mapping[str, float | None]) -> None:
    """A new database with the images, their cameras and keypoints, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    cameras: dict[tuple[str, tuple[int, int], float | None], tuple[Any, int]] = {}
    with pycolmap.Database.open(partial) as database:
        for name, keypoints in hloc.read(features):
            shared = str(PurePosixPath(name).parent), keypoints.image_size, focal_lengths.get(name)
            if shared not in cameras:
                cameras[shared] = _write_camera(pycolmap, database, *shared[1:])
            _write_image(pycolmap, database, name, cameras[shared], keypoints)
    partial.replace(path)


def _write_camera(pycolmap: Any, database: Any, size: tuple[int, int], focal: float | None) -> tuple[Any, int]:
    """A camera, and the number of a rig that it alone is on."""
    assumed = FOCAL * max(size) if focal is None else focal
    camera = pycolmap.Camera.create_from_model_name(pycolmap.INVALID_CAMERA_ID, MODEL, assumed, *size)
    camera.has_prior_focal_length = focal is not None
    camera.camera_id = database.write_camera(camera)
    rig = pycolmap.Rig()
    rig.add_ref_sensor(camera.sensor_id)
    return camera, database.write_rig(rig)


def _write_image(pycolmap: Any, database: Any, name: str, camera: tuple[Any, int], keypoints: Keypoints) -> None:
    image = pycolmap.Image(name=name, camera_id=camera[0].camera_id)
    image.image_id = database.write_image(image)
    frame = pycolmap.Frame()
    frame.rig_id = camera[1]
    frame.add_data_id(image.data_id)
    database.write_frame(frame)
    database.write_keypoints(image.image_id, keypoints.xy + HALF)


def _numbers(database: Any, path: Path, features: Path, names: Sequence[str]) -> list[int]:
    """The images' numbers in the database, after checking that it is of the same images and keypoints."""
    there = {image.name: int(image.image_id) for image in database.read_all_images()}
    if set(there) != set(names):
        differing = min(set(there) ^ set(names))
        raise UsageError(f"{path} is of other images, such as {differing}: remove it, or choose another --out")
    for name, keypoints in hloc.read(features):
        found: Array = database.read_keypoints(there[name])[:, :2] - HALF
        if found.shape != keypoints.xy.shape or abs(found - keypoints.xy).max(initial=0) > 1e-2:
            raise UsageError(f"{path} holds other keypoints of {name}: remove it, or choose another --out")
    return [there[name] for name in names]


def _write_pair(
    pycolmap: Any,
    database: Any,
    ids: tuple[int, int],
    both: Iterator[tuple[str, Keypoints]],
    options: MatchOptions,
) -> None:
    """The matches of two images, and the geometry that they agree on."""
    (_, first), (_, second) = both
    found = match(first, second, options).indices.astype(np.uint32)
    cameras = [database.read_camera(database.read_image(number).camera_id) for number in ids]
    settings = pycolmap.TwoViewGeometryOptions()
    settings.ransac.random_seed = 0
    geometry = pycolmap.estimate_two_view_geometry(
        cameras[0], first.xy + HALF, cameras[1], second.xy + HALF, found, settings
    )
    if not database.exists_matches(*ids):
        database.write_matches(*ids, found)
    database.write_two_view_geometry(*ids, geometry)
