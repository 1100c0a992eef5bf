"""What keypoints and matches are judged by, where the truth is a homography or a pose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from robovision.types import Array


def warp(xy: Array, homography: Array) -> Array:
    """Where a homography [3, 3] takes pixels [N, 2]; float64."""
    mapped = np.concatenate([xy, np.ones((len(xy), 1))], axis=1) @ np.asarray(homography, np.float64).T
    return np.asarray(mapped[:, :2] / mapped[:, 2:])


def inside(xy: Array, size: tuple[int, int], border: float = 0) -> Array:
    """Whether pixels [N, 2] lie in an image of this width and height, that far from its outermost ones; bool [N]."""
    edge = np.array(size) - 1 - border
    return np.asarray(((xy >= border) & (xy <= edge)).all(axis=1))


def nearest_distances(first: Array, second: Array) -> tuple[Array, Array]:
    """Of each point [N, 2] the distance to the nearest of the others [M, 2], and the other way round; float64."""
    if not len(first) or not len(second):
        return np.full(len(first), np.inf), np.full(len(second), np.inf)
    here, there = (torch.from_numpy(np.ascontiguousarray(xy, np.float64)) for xy in (first, second))
    apart = torch.cdist(here, there, compute_mode="donot_use_mm_for_euclid_dist")
    return apart.amin(1).numpy(), apart.amin(0).numpy()


def repeatability(
    points: tuple[Array, Array], sizes: tuple[tuple[int, int], tuple[int, int]], homography: Array, reach: float
) -> float:
    """The share of points that the other image has too, the mean of both directions; 0 where there are none.

    Counted are the points that lie in the other image once they are warped; found are those that have one of its
    points within `reach`, its pixels.

    Args:
        points: [N, 2] and [M, 2], pixels.
        sizes: width and height of both images.
        homography: [3, 3], from the first image's pixels to the second's.
        reach: pixels.
    """
    shares = []
    for k, matrix in ((0, homography), (1, np.linalg.inv(homography))):
        warped = warp(points[k], matrix)
        warped = warped[inside(warped, sizes[1 - k])]
        distances, _ = nearest_distances(warped, points[1 - k])
        shares.append(float((distances <= reach).mean()) if len(warped) else 0.0)
    return sum(shares) / 2


def transfer_errors(first: Array, second: Array, homography: Array) -> tuple[Array, Array]:
    """How far matches [M, 2] are apart in pixels of the second image, and in pixels of the first one."""
    forward = np.linalg.norm(warp(first, homography) - second, axis=1)
    backward = np.linalg.norm(warp(second, np.linalg.inv(homography)) - first, axis=1)
    return forward, backward


def corner_error(estimate: Array | None, truth: Array, size: tuple[int, int]) -> float:
    """The mean distance in pixels to which two homographies take the corners of the first image; infinite without one.

    Corners are the centres of the outermost pixels.
    """
    if estimate is None:
        return float("inf")
    width, height = size
    corners = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], np.float64)
    error = float(np.linalg.norm(warp(corners, estimate) - warp(corners, truth), axis=1).mean())
    return error if np.isfinite(error) else float("inf")


def area_under_recall(errors: Sequence[float] | Array, thresholds: Sequence[float]) -> list[float]:
    """The mean recall over errors from 0 to each threshold, by the trapezoid rule; 0..1.

    Recall at an error is the share of cases that are no worse; at 0 it is 0. Failures have infinite errors.
    """
    ordered = np.sort(np.asarray(errors, np.float64))
    recall = np.arange(1, len(ordered) + 1) / max(len(ordered), 1)
    areas = []
    for threshold in thresholds:
        count = int(np.searchsorted(ordered, threshold))
        reached = recall[count - 1] if count else 0.0
        x = np.concatenate([[0], ordered[:count], [threshold]])
        y = np.concatenate([[0], recall[:count], [reached]])
        areas.append(float(np.trapezoid(y, x) / threshold))
    return areas


def pose_error(rotation: Array, translation: Array, true_rotation: Array, true_translation: Array) -> float:
    """The larger of the angles between two rotations and between two translations' lines, degrees.

    A translation's sign does not count, as an essential matrix does not tell it.
    """
    turn = np.asarray(rotation, np.float64) @ np.asarray(true_rotation, np.float64).T
    turned = np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))
    lengths = np.linalg.norm(translation) * np.linalg.norm(true_translation)
    cosine = abs(float(np.dot(translation, true_translation))) / lengths
    return float(max(turned, np.degrees(np.arccos(np.clip(cosine, -1, 1)))))
