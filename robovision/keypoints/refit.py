"""A homography fitted to all matches that agree, the nearer the more: what a robust estimate ends with."""

from __future__ import annotations

import numpy as np

from robovision.keypoints.scores import warp
from robovision.types import Array

ROUNDS = 10
FEWEST = 8
"""Matches that must agree; 4 are always fitted exactly."""


def refit(homography: Array, first: Array, second: Array, reach: float) -> Array:
    """The homography [3, 3] after iteratively reweighted least squares, from a first estimate.

    The weights are Tukey's: (1 - (r / reach)^2)^2 for a match that is off by r pixels of the second image, none beyond
    (Beaton and Tukey, Technometrics 1974). The estimate stays as it is where fewer than FEWEST matches agree.

    Args:
        homography: [3, 3], from the first image's pixels to the second's.
        first: [M, 2], pixels.
        second: [M, 2], the points they match.
        reach: pixels.
    """
    for _ in range(ROUNDS):
        apart = np.linalg.norm(warp(first, homography) - second, axis=1)
        near = apart < reach
        if near.sum() < FEWEST:
            return homography
        fitted = fit(first[near], second[near], (1 - (apart[near] / reach) ** 2) ** 2)
        if fitted is None:
            return homography
        homography = fitted
    return homography


def fit(first: Array, second: Array, weights: Array) -> Array | None:
    """The homography [3, 3] of weighted matches [M, 2], by normalised direct linear transformation.

    Hartley and Zisserman, algorithm 4.2. None where the points don't tell it.
    """
    here, there = _normalisation(first, weights), _normalisation(second, weights)
    (x, y), (u, v) = warp(first, here).T, warp(second, there).T
    one, none = np.ones_like(x), np.zeros_like(x)
    across = np.stack([x, y, one, none, none, none, -u * x, -u * y, -u], 1)
    down = np.stack([none, none, none, x, y, one, -v * x, -v * y, -v], 1)
    equations = np.concatenate([across, down]) * np.tile(np.sqrt(weights), 2)[:, None]
    _, sizes, rows = np.linalg.svd(equations, full_matrices=False)
    if sizes[-2] < 1e-9 * sizes[0]:
        return None
    matrix = np.linalg.solve(there, rows[-1].reshape(3, 3) @ here)
    return matrix / matrix[2, 2] if abs(matrix[2, 2]) > 1e-12 else None


def _normalisation(points: Array, weights: Array) -> Array:
    """[3, 3], takes the points' weighted mean to 0, and their mean distance from it to the root of 2."""
    centre = np.average(points, axis=0, weights=weights)
    scale = np.sqrt(2) / max(float(np.linalg.norm(points - centre, axis=1).mean()), 1e-12)
    return np.array([[scale, 0, -scale * centre[0]], [0, scale, -scale * centre[1]], [0, 0, 1]])
