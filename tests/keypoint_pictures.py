"""Pictures that have keypoints, and what small tests of them share."""

from __future__ import annotations

import functools

import cv2
import numpy as np
import torch
from torch import Tensor

from robovision.keypoints.leaves import dead_leaves
from robovision.keypoints.strek_config import DetectorOptions
from robovision.types import Array

TINY = DetectorOptions(group="C4", fields=1, kernel=3, layers=3)


def blobs(height: int, width: int, seed: int = 0) -> Array:
    """Bright and dark spots and boxes in no order, smooth at the edges: float32 [height, width] in 0..1."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width), 0.5, np.float32)
    for _ in range(height * width // 150):
        x, y = (int(v) for v in rng.integers(0, (width, height)))
        half, tone = int(rng.integers(2, 9)), float(rng.uniform(0, 1))
        corners = cv2.boxPoints(((x, y), (2 * half, 3 * half), float(rng.uniform(0, 90))))
        cv2.fillConvexPoly(image, corners.astype(np.int32), tone)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 1.0))


@functools.cache
def leaf_picture() -> Tensor:
    """Dead leaves, grey [160, 160] in 0..1."""
    return dead_leaves(160, 0, 0)


def generator(seed: int = 0) -> torch.Generator:
    """Chance of a seed."""
    return torch.Generator().manual_seed(seed)
