"""SIFT, RootSIFT and ORB of OpenCV."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from robovision.errors import UsageError
from robovision.types import Array, Keypoints


def import_cv2() -> Any:
    """The module cv2.

    Raises:
        UsageError: if OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise UsageError("this needs OpenCV: pip install 'robovision[keypoints]'") from error
    return cv2


def sift(num_keypoints: int) -> Callable[[Array], Keypoints]:
    """SIFT (Lowe, 2004), descriptors as OpenCV scales them: whole numbers, of norm about 512."""
    detector = _sift(num_keypoints)
    return lambda image: _extract(detector, image, _numbers)


def rootsift(num_keypoints: int) -> Callable[[Array], Keypoints]:
    """SIFT whose descriptors are the roots of their L1-normalised numbers (Arandjelovic and Zisserman, 2012)."""
    detector = _sift(num_keypoints)
    return lambda image: _extract(detector, image, _root)


def orb(num_keypoints: int) -> Callable[[Array], Keypoints]:
    """ORB (Rublee et al., 2011). A descriptor is its 256 bits as numbers 0 and 1.

    The squared Euclidean distance of two of them is their Hamming distance.
    """
    detector = import_cv2().ORB_create(nfeatures=num_keypoints)
    room = 2 * detector.getEdgeThreshold()

    def extract(image: Array) -> Keypoints:
        height, width = image.shape
        if min(height, width) <= room:  # OpenCV fails on the smallest; on these there is nothing to find
            return Keypoints(np.zeros((0, 2)), (width, height), np.zeros(0), *_NOTHING)
        return _extract(detector, image, _bits)

    return extract


_NOTHING = np.zeros((0, 256)), np.zeros(0), np.zeros(0)
"""Descriptors, angles and scales of no keypoints."""


def _sift(num_keypoints: int) -> Any:
    """Without OpenCV's shift of a quarter of a pixel that the doubled first octave brings."""
    return import_cv2().SIFT_create(nfeatures=num_keypoints, enable_precise_upscale=True)


def _extract(detector: Any, image: Array, convert: Callable[[Array], Array]) -> Keypoints:
    """Strongest first; equal ones from the top to the bottom, from the left to the right, by angle."""
    height, width = image.shape
    found, described = detector.detectAndCompute(np.rint(image * 255).astype(np.uint8), None)
    if described is None:
        described = np.zeros((0, detector.descriptorSize()), np.uint8)
    numbers = np.array([(*k.pt, k.response, k.size, k.angle) for k in found], np.float64).reshape(-1, 5)
    x, y, response, diameter, angle = numbers.T
    order = np.lexsort([angle, x, y, -response])
    edge = np.array([width, height]) - 0.5
    return Keypoints(
        np.stack([x, y], 1)[order].clip(-0.5, edge),
        (width, height),
        response[order],
        convert(described)[order],
        np.radians(angle)[order],
        diameter[order] / 2,
    )


def _numbers(descriptors: Array) -> Array:
    return descriptors


def _root(descriptors: Array) -> Array:
    total = descriptors.sum(axis=1, keepdims=True)
    return np.asarray(np.sqrt(descriptors / np.maximum(total, 1e-12)))


def _bits(descriptors: Array) -> Array:
    return np.unpackbits(descriptors, axis=1)
