"""Relative pose between photographs whose cameras are known."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robovision.errors import UsageError, first_line
from robovision.keypoints.extractors import Extractor
from robovision.keypoints.geometry import NEEDED, mean_focal_length, normalise, relative_pose
from robovision.keypoints.matching import match
from robovision.keypoints.opencv import import_cv2
from robovision.keypoints.pixels import read_grey
from robovision.keypoints.scores import pose_error
from robovision.keypoints.sources import readable
from robovision.types import Array, Keypoints

THRESHOLD = 1.0
"""Pixels, divided by the mean focal length, up to which a match agrees with an essential matrix."""
CONFIDENCE = 0.99999


@dataclass(frozen=True, eq=False)
class Photograph:
    """A photograph with its camera.

    Convention:
        intrinsics: K, float64 [3, 3], pixels.
        pose: float64 [4, 4], from the camera's frame (x right, y down, z forward) to the world's.
    """

    name: str
    path: Path
    intrinsics: Array
    pose: Array


def photographs(folder: Path) -> tuple[list[Photograph], list[str]]:
    """The photographs image/NAME.jpg of a folder with intrinsic/NAME.txt and pose/NAME.txt, in order.

    And a message for each that is damaged, or whose camera is missing or no camera.

    Raises:
        UsageError: if there are fewer than two good ones.
    """
    files = sorted(path for path in (folder / "image").glob("*") if path.is_file())
    good, faults = readable(files)
    found = []
    for path in good:
        try:
            cameras = [_matrix(folder / kind / f"{path.stem}.txt", n) for kind, n in (("intrinsic", 3), ("pose", 4))]
        except UsageError as error:
            faults.append(str(error))
        else:
            found.append(Photograph(path.name, path, *cameras))
    if len(found) < 2:
        named = "".join(f"\n  {fault}" for fault in faults)
        raise UsageError(f"{folder} must hold at least two photographs in image/, got {len(found)}{named}")
    return found, faults


def _matrix(path: Path, side: int) -> Array:
    try:
        matrix = np.loadtxt(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} holds no matrix: {first_line(error)}") from error
    if matrix.shape != (side, side) or not np.isfinite(matrix).all():
        raise UsageError(f"{path} must hold {side} x {side} finite numbers, got {list(matrix.shape)}")
    return np.asarray(matrix)


def relative(first: Photograph, second: Photograph) -> tuple[Array, Array]:
    """Rotation [3, 3] and translation [3] from the first camera's frame to the second's."""
    motion = np.linalg.inv(second.pose) @ first.pose
    return motion[:3, :3], motion[:3, 3]


def measure(
    extractors: Mapping[str, Extractor], found: list[Photograph], progress: Callable[[], object] = lambda: None
) -> dict[str, dict[tuple[str, str], float]]:
    """Pose errors in degrees of each extractor, for all pairs, infinite where there is no estimate.

    The error is the larger of rotation's and translation's; `progress` is called after each photograph.
    """
    errors: dict[str, dict[tuple[str, str], float]] = {name: {} for name in extractors}
    for name, extractor in extractors.items():
        known: dict[str, Keypoints] = {}
        for photograph in found:
            known[photograph.name] = extractor.extract(read_grey(photograph.path))
            progress()
        for first, second in itertools.combinations(found, 2):
            pair = first.name, second.name
            errors[name][pair] = _error(known[pair[0]], known[pair[1]], first, second)
    return errors


def _error(known: Keypoints, other: Keypoints, first: Photograph, second: Photograph) -> float:
    pairs = match(known, other).indices
    points = known.xy[pairs[:, 0]].astype(np.float64), other.xy[pairs[:, 1]].astype(np.float64)
    cameras = first.intrinsics, second.intrinsics
    estimate = _pose(points, cameras)
    return float("inf") if estimate is None else pose_error(*estimate, *relative(first, second))


def _pose(points: tuple[Array, Array], cameras: tuple[Array, Array]) -> tuple[Array, Array] | None:
    """OpenCV's RANSAC for an essential matrix, as in SuperGlue's and LightGlue's evaluations."""
    if len(points[0]) < NEEDED["essential"]:
        return None
    cv2 = import_cv2()
    rays = [normalise(xy, k) for xy, k in zip(points, cameras, strict=True)]
    essential, mask = cv2.findEssentialMat(
        *rays, np.eye(3), cv2.RANSAC, prob=CONFIDENCE, threshold=THRESHOLD / mean_focal_length(cameras)
    )
    if essential is None or essential.shape != (3, 3):
        return None
    return relative_pose(essential, *points, cameras, mask.ravel().astype(bool))
