"""A picture of two images and their matches that a person can judge."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robovision.errors import UsageError
from robovision.files import write_atomically
from robovision.keypoints.opencv import import_cv2
from robovision.types import Array

SIDE = 900
"""Pixels of the longer side of each image."""
GAP, STRIP = 12, 36
"""Pixels between the images, and of the line of text under them."""
LINES = 120
"""Lines at most, chosen evenly over the first image: more than these no one can follow."""
WRONG = (150, 150, 150)


@dataclass(frozen=True)
class MatchPicture:
    """Two images with lines between matched points.

    Args:
        images: grey [H, W] in 0..1, both.
        points: [M, 2] in each, pixels; in the same order.
        right: bool [M], the matches that agree on a geometry; these have colours, by their place in the first image.
        text: what is written under the images.
    """

    images: tuple[Array, Array]
    points: tuple[Array, Array]
    right: Array
    text: str

    def draw(self) -> Array:
        """uint8 [H, W, 3], RGB: the images side by side, or one above the other if they are wide."""
        cv2 = import_cv2()
        scales = [min(1.0, SIDE / max(image.shape)) for image in self.images]
        panels = [_shrink(cv2, image, scale) for image, scale in zip(self.images, scales, strict=True)]
        canvas, corners = _arrange(panels)
        ends = [
            (xy + 0.5) * scale - 0.5 + corner for xy, scale, corner in zip(self.points, scales, corners, strict=True)
        ]
        self._wrong(cv2, canvas, ends)
        self._right(cv2, canvas, ends)
        cv2.putText(
            canvas, self.text, (10, canvas.shape[0] - 12), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (255,) * 3, 1, cv2.LINE_AA
        )
        return canvas

    def _wrong(self, cv2: Any, canvas: Array, ends: list[Array]) -> None:
        for xy in ends:
            for x, y in np.rint(xy[~self.right]).astype(int):
                cv2.circle(canvas, (x, y), 2, WRONG, 1, cv2.LINE_AA)

    def _right(self, cv2: Any, canvas: Array, ends: list[Array]) -> None:
        chosen = np.flatnonzero(self.right)
        places = [xy[chosen] for xy in ends]
        colours = _colours(places[0])
        overlay = canvas.copy()
        for k in _spread(places[0], LINES):
            start, end = (tuple(np.rint(xy[k]).astype(int).tolist()) for xy in places)
            cv2.line(overlay, start, end, colours[k], 1, cv2.LINE_AA)
        canvas[:] = cv2.addWeighted(overlay, 0.75, canvas, 0.25, 0)
        for xy in places:
            for (x, y), colour in zip(np.rint(xy).astype(int), colours, strict=True):
                cv2.circle(canvas, (x, y), 3, (0, 0, 0), -1, cv2.LINE_AA)
                cv2.circle(canvas, (x, y), 2, colour, -1, cv2.LINE_AA)


def write_picture(path: Path, picture: Array) -> None:
    """Write uint8 [H, W, 3] as an image of the kind that the name says, whole or not at all.

    Raises:
        UsageError: for a name that says no kind, or if it can't be written.
    """
    from PIL import Image

    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in ("PNG", "JPEG", "WEBP"):
        raise UsageError(f"the picture's name must end in .png, .jpg or .webp, got {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as file:
        Image.fromarray(picture).save(file, kind, **({"quality": 90} if kind == "JPEG" else {}))


def _shrink(cv2: Any, image: Array, scale: float) -> Array:
    sides = [max(1, round(side * scale)) for side in image.shape[::-1]]
    small = image if scale == 1 else cv2.resize(image, sides, interpolation=cv2.INTER_AREA)
    return np.repeat(np.rint(small * 255).astype(np.uint8)[..., None], 3, axis=2)


def _arrange(panels: list[Array]) -> tuple[Array, list[Array]]:
    """A canvas that holds both images, and where each one's top-left pixel is on it."""
    (h0, w0), (h1, w1) = (panel.shape[:2] for panel in panels)
    above = w0 + w1 > 1.5 * (h0 + h1)
    corners = [np.array([0, 0]), np.array([0, h0 + GAP]) if above else np.array([w0 + GAP, 0])]
    height, width = (h0 + GAP + h1, max(w0, w1)) if above else (max(h0, h1), w0 + GAP + w1)
    canvas = np.full((height + STRIP, width, 3), 24, np.uint8)
    for panel, (x, y) in zip(panels, corners, strict=True):
        canvas[y : y + panel.shape[0], x : x + panel.shape[1]] = panel
    return canvas, corners


def _colours(places: Array) -> list[tuple[int, ...]]:
    """A colour for each place, neighbours alike: the hue from left to right, twice as bright at the bottom."""
    if not len(places):
        return []
    low, high = places.min(0), places.max(0)
    share = (places - low) / np.maximum(high - low, 1)
    return [tuple(round(255 * c) for c in colorsys.hsv_to_rgb(0.85 * x, 1 - 0.55 * y, 1)) for x, y in share]


def _spread(places: Array, count: int) -> Array:
    """Indices of at most `count` places, evenly spread: each is the farthest from those before."""
    chosen: list[int] = []
    farthest = np.full(len(places), np.inf)
    for _ in range(min(count, len(places))):
        chosen.append(int(farthest.argmax()))
        farthest = np.minimum(farthest, np.linalg.norm(places - places[chosen[-1]], axis=1))
    return np.array(chosen, np.int64)
