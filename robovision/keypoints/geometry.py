"""Verification: the geometry of two views that most matches agree on, and which matches these are.

The robust estimators are OpenCV's: USAC with MAGSAC++ scores (Barath et al., CVPR 2020). A homography is then fitted
anew to all matches that agree with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from robovision.errors import UsageError
from robovision.keypoints.opencv import import_cv2
from robovision.keypoints.refit import refit
from robovision.keypoints.scores import warp
from robovision.types import Array

REACH = 2
"""Times the threshold: so near a match counts when a homography is fitted anew."""
Model = Literal["homography", "fundamental", "essential"]
NEEDED: dict[Model, int] = {"homography": 4, "fundamental": 8, "essential": 6}
"""Matches without which nothing is estimated: a homography needs 4; fewer than 8 or 6 always fit the others."""


@dataclass(frozen=True)
class VerifyOptions:
    """How the geometry of two views is estimated."""

    model: Model = "fundamental"
    """homography: a plane, or a camera that only turns; fundamental: any rigid scene; essential: the same with cameras
    whose intrinsics are known."""
    threshold: float = 2.0
    """Pixels up to which a match agrees with the model."""
    confidence: float = 0.9999
    """Probability with which the estimate is not from wrong matches alone."""
    iterations: int = 10_000
    """Samples at most."""
    seed: int = 0
    """Chooses the samples."""

    def __post_init__(self) -> None:
        if self.model not in NEEDED:
            raise UsageError(f"model must be one of {', '.join(NEEDED)}, got {self.model!r}")
        if not self.threshold > 0 or not 0 < self.confidence < 1 or self.iterations < 1:
            raise UsageError(
                "threshold and iterations must be positive and confidence between 0 and 1, got "
                f"{self.threshold}, {self.iterations} and {self.confidence}"
            )


@dataclass(frozen=True, eq=False)
class Geometry:
    """The geometry of two views.

    Convention:
        model: what `matrix` is. With homogeneous pixels x of the first view and x' of the second:
            homography x' ~ H x; fundamental x'^T F x = 0; essential: the same with pixels times K^-1.
        matrix: float64 [3, 3], or None where the matches agree on nothing.
        inliers: bool [M], the matches that agree.
    """

    model: Model
    matrix: Array | None
    inliers: Array


def verify(
    first: Array, second: Array, options: VerifyOptions = VerifyOptions(), intrinsics: tuple[Array, Array] | None = None
) -> Geometry:
    """The geometry that most of the matched points agree on.

    Args:
        first: [M, 2], pixels of the first image.
        second: [M, 2], the points they match.
        options: which model, and how.
        intrinsics: K [3, 3] of both cameras, in pixels, for an essential matrix.

    Raises:
        ValueError: for wrong shapes, NaN or infinite numbers, or an essential matrix without intrinsics.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.ndim != 2 or first.shape[1] != 2 or first.shape != second.shape:
        raise ValueError(f"matched points must be [M, 2] twice, got {list(first.shape)} and {list(second.shape)}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("matched points hold NaN or infinite numbers")
    if options.model == "essential" and intrinsics is None:
        raise ValueError("an essential matrix needs the intrinsics of both cameras")
    if len(first) < NEEDED[options.model]:
        return Geometry(options.model, None, np.zeros(len(first), bool))
    cv2 = import_cv2()
    try:
        matrix, mask = _estimate(cv2, first, second, options, intrinsics)
    except cv2.error:  # points that are all the same, or on a line
        matrix, mask = None, None
    if matrix is None or np.shape(matrix) != (3, 3) or mask is None:
        return Geometry(options.model, None, np.zeros(len(first), bool))
    matrix, agreeing = np.asarray(matrix, np.float64), mask.ravel().astype(bool)
    if options.model == "homography":
        matrix = refit(matrix, first, second, REACH * options.threshold)
        agreeing = np.linalg.norm(warp(first, matrix) - second, axis=1) <= options.threshold
    return Geometry(options.model, matrix, agreeing)


def _estimate(
    cv2: Any, first: Array, second: Array, options: VerifyOptions, cameras: tuple[Array, Array] | None
) -> Any:
    settings = cv2.UsacParams()
    settings.threshold, settings.confidence = options.threshold, options.confidence
    settings.maxIterations, settings.randomGeneratorState = options.iterations, options.seed
    settings.score, settings.loMethod = cv2.SCORE_METHOD_MAGSAC, cv2.LOCAL_OPTIM_SIGMA
    settings.final_polisher, settings.final_polisher_iterations = cv2.MAGSAC, 10
    settings.isParallel = False
    if options.model == "homography":
        return cv2.findHomography(first, second, settings)
    if options.model == "fundamental":
        return cv2.findFundamentalMat(first, second, settings)
    assert cameras is not None
    settings.threshold = options.threshold / mean_focal_length(cameras)
    rays = [normalise(xy, k) for xy, k in zip((first, second), cameras, strict=True)]
    return cv2.findEssentialMat(*rays, np.eye(3), np.eye(3), None, None, settings)


def centred_camera(shape: tuple[int, ...], focal: float) -> Array:
    """K [3, 3] of a camera whose optical axis meets the middle of an image [H, W]; focal length in pixels."""
    height, width = shape
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


def normalise(xy: Array, intrinsics: Array) -> Array:
    """Pixels [M, 2] on the plane at distance 1 from the camera: K^-1 x."""
    homogeneous = np.concatenate([xy, np.ones((len(xy), 1))], axis=1)
    rays = np.linalg.solve(np.asarray(intrinsics, np.float64), homogeneous.T).T
    return np.asarray(rays[:, :2] / rays[:, 2:])


def mean_focal_length(intrinsics: tuple[Array, Array]) -> float:
    """The mean of fx and fy of both cameras, pixels."""
    return float(np.mean([k[axis, axis] for k in intrinsics for axis in (0, 1)]))


def relative_pose(
    essential: Array, first: Array, second: Array, intrinsics: tuple[Array, Array], inliers: Array
) -> tuple[Array, Array]:
    """The rotation [3, 3] and the unit translation [3] from the first camera's frame to the second's: x' = R x + t.

    Of the four that an essential matrix allows, the one with most inliers in front of both cameras (Hartley and
    Zisserman, section 9.6.2).

    Args:
        essential: [3, 3].
        first: [M, 2], pixels.
        second: [M, 2], the points they match.
        intrinsics: K [3, 3] of both cameras.
        inliers: bool [M].
    """
    rays = [normalise(xy, k)[inliers] for xy, k in zip((first, second), intrinsics, strict=True)]
    _, rotation, translation, _ = import_cv2().recoverPose(essential, *rays, np.eye(3))
    return np.asarray(rotation), np.asarray(translation)[:, 0]
