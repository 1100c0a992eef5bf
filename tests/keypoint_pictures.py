"""Pictures that have keypoints."""

from __future__ import annotations

import cv2
import numpy as np

from robovision.types import Array


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
