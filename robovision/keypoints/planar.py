"""Two images that a homography relates: how well keypoints repeat, match and tell the homography."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from robovision.keypoints.extractors import select
from robovision.keypoints.geometry import VerifyOptions, verify
from robovision.keypoints.matching import match
from robovision.keypoints.opencv import import_cv2
from robovision.keypoints.scores import corner_error, inside, repeatability, transfer_errors, warp
from robovision.types import Array, Keypoints

THRESHOLDS = (1.0, 3.0, 5.0)
"""Pixels."""


class Estimator(Protocol):
    """Tells the homography from matches."""

    @property
    def name(self) -> str:
        """What tables call it."""
        ...

    def __call__(self, first: Array, second: Array) -> Array | None:
        """The homography [3, 3] from matches [M, 2], or None."""
        ...


@dataclass(frozen=True)
class Ransac:
    """OpenCV's RANSAC for a homography."""

    threshold: float
    """Pixels."""
    iterations: int
    confidence: float

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"RANSAC {self.threshold:g} px"

    def __call__(self, first: Array, second: Array) -> Array | None:
        """The homography [3, 3] from matches [M, 2], or None."""
        if len(first) < 4:
            return None
        cv2 = import_cv2()
        matrix, _ = cv2.findHomography(
            first, second, cv2.RANSAC, self.threshold, maxIters=self.iterations, confidence=self.confidence
        )
        return None if matrix is None else np.asarray(matrix)


@dataclass(frozen=True)
class Verify:
    """`robovision.keypoints.geometry.verify`: OpenCV's MAGSAC++, then a fit to all matches that agree."""

    threshold: float
    """Pixels."""

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"verify {self.threshold:g} px"

    def __call__(self, first: Array, second: Array) -> Array | None:
        """The homography [3, 3] from matches [M, 2], or None."""
        return verify(first, second, VerifyOptions("homography", self.threshold)).matrix


GLUE_FACTORY = Ransac(0.5, 3000, 0.995)
FULL_SIZE = Ransac(3.0, 10_000, 0.999999)
VERIFY = Verify(1.0)


@dataclass(frozen=True, eq=False)
class Score:
    """What one pair of images gave.

    Convention:
        keypoints: the mean number in both images; matches: of mutual nearest neighbours.
        repeated: [3], repeatability at THRESHOLDS.
        accurate: [3], the share of matches that are no farther apart than THRESHOLDS in either image (MMA).
        precise: [3], the share whose mean distance in both images is below THRESHOLDS. Both 0 without matches.
        corners: [E], mean error in pixels of the first image's corners under the homography of each estimator.
    """

    keypoints: float
    matches: int
    repeated: Array
    accurate: Array
    precise: Array
    corners: Array


def score(first: Keypoints, second: Keypoints, homography: Array, estimators: Sequence[Estimator]) -> Score:
    """What the keypoints of two images give, if the homography [3, 3] takes the first one's pixels to the second's."""
    pairs = match(first, second).indices
    points = first.xy[pairs[:, 0]].astype(np.float64), second.xy[pairs[:, 1]].astype(np.float64)
    forward, backward = transfer_errors(*points, homography)
    places, sizes = (first.xy, second.xy), (first.image_size, second.image_size)
    return Score(
        (len(first) + len(second)) / 2,
        len(pairs),
        np.array([repeatability(places, sizes, homography, reach) for reach in THRESHOLDS]),
        np.array([_share(np.maximum(forward, backward) <= reach) for reach in THRESHOLDS]),
        np.array([_share((forward + backward) / 2 < reach) for reach in THRESHOLDS]),
        np.array([corner_error(estimate(*points), homography, first.image_size) for estimate in estimators]),
    )


def _share(right: Array) -> float:
    return float(right.mean()) if len(right) else 0.0


def away_from_edges(found: Keypoints, to_first: Array, size: tuple[int, int], border: int, count: int) -> Keypoints:
    """The first `count` keypoints that lie in the first image and this far from its edge, once they are warped to it.

    So the edges that a warp makes count for nobody.
    """
    kept = np.flatnonzero(inside(warp(found.xy, to_first), size, border))
    return select(found, kept[:count])


def resize(image: Array, shorter: int) -> tuple[Array, Array]:
    """The image [H, W] with its shorter side of so many pixels, and the map [3, 3] from its old pixels to the new.

    Bilinear, and averaged where it shrinks. x' = (x + 0.5) s - 0.5 for each axis.
    """
    cv2 = import_cv2()
    height, width = image.shape
    scale = shorter / min(height, width)
    size = round(width * scale), round(height * scale)
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = image if scale == 1 else cv2.resize(image, size, interpolation=kind)
    sx, sy = size[0] / width, size[1] / height
    matrix = np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])
    return np.asarray(resized).clip(0, 1), matrix


@dataclass(frozen=True, eq=False)
class Summary:
    """The means over pairs; shares in 0..1."""

    pairs: int
    keypoints: float
    matches: float
    repeated: Array
    accurate: Array
    precise: Array
    corner_errors: Array
    """[P, E], pixels."""

    @classmethod
    def of(cls, scores: Sequence[Score]) -> Summary:
        """The summary of at least one score."""

        def mean(value: Callable[[Score], Array | float]) -> Array:
            return np.asarray(np.stack([value(score) for score in scores]).mean(axis=0))

        return cls(
            len(scores),
            float(mean(lambda s: s.keypoints)),
            float(mean(lambda s: s.matches)),
            mean(lambda s: s.repeated),
            mean(lambda s: s.accurate),
            mean(lambda s: s.precise),
            np.stack([s.corners for s in scores]),
        )
