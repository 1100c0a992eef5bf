"""Photographs that are turned, tilted or lit anew: the truth is known exactly, and any folder of images will do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from robovision.devices import Device
from robovision.errors import UsageError
from robovision.keypoints.extractors import Extractor, load
from robovision.keypoints.opencv import import_cv2
from robovision.keypoints.planar import VERIFY, Estimator, Ransac, Score, away_from_edges, resize, score
from robovision.seeding import derive
from robovision.types import Array, Keypoints

Change = Literal["rotation", "perspective", "light"]
SPARE = 2
"""So many times the keypoints are extracted that are kept: those near synthetic edges are left out."""
ESTIMATORS: tuple[Estimator, ...] = (Ransac(1.0, 3000, 0.9995), VERIFY)
"""Of homographies, the same for every extractor."""
NOISE = 0.015
"""Deviation of the noise that the second image gets."""


@dataclass(frozen=True)
class WarpOptions:
    """How keypoints are measured on warped photographs."""

    step: int = 15
    """Degrees between two rotations; a divisor of 90."""
    versions: int = 8
    """Tilted, or lit, versions of a photograph, from slight to strong."""
    keypoints: int = 1024
    """Kept in each image: the strongest."""
    side: int = 480
    """The photographs' shorter side, pixels."""
    border: int = 24
    """Points so near to the photograph's edge are left out for every method, pixels."""

    def __post_init__(self) -> None:
        if self.step < 1 or 90 % self.step:
            raise UsageError(f"the step between rotations must divide 90 degrees, got {self.step}")
        if self.keypoints < 1 or self.versions < 1:
            raise UsageError(f"keypoints and versions must be at least 1, got {self.keypoints} and {self.versions}")

    def count(self, change: Change) -> int:
        """How many versions of a photograph there are."""
        return 360 // self.step if change == "rotation" else self.versions


def load_all(names: Sequence[str], options: WarpOptions, device: Device = "auto") -> dict[str, Extractor]:
    """The extractors of these names, each giving more keypoints than are kept."""
    return {name: load(name, SPARE * options.keypoints, device=device) for name in names}


def measure(
    extractors: Mapping[str, Extractor],
    photographs: Iterable[Array],
    change: Change,
    options: WarpOptions,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, list[list[Score]]]:
    """Scores of each extractor, for each photograph those of its versions.

    Args:
        extractors: by name, from `load_all`.
        photographs: grey [H, W] in 0..1.
        change: rotation: 0, step, ... degrees, on a canvas that holds all of the photograph, in slightly other light;
            perspective: tilted, in slightly other light; light: other gamma, contrast, brightness, noise, blur.
        options: sizes and numbers.
        progress: called after each version of a photograph.
    """
    scores: dict[str, list[list[Score]]] = {name: [] for name in extractors}
    for number, photograph in enumerate(photographs):
        first, _ = resize(photograph, options.side)
        size = first.shape[1], first.shape[0]
        kept = {name: keep(e.extract(first), np.eye(3), size, options) for name, e in extractors.items()}
        for name in extractors:
            scores[name].append([])
        for second, homography in _versions(first, change, number, options):
            back = np.linalg.inv(homography)
            for name, extractor in extractors.items():
                found = keep(extractor.extract(second), back, size, options)
                scores[name][-1].append(score(kept[name], found, homography, ESTIMATORS))
            progress()
    return scores


def keep(found: Keypoints, back: Array, size: tuple[int, int], options: WarpOptions) -> Keypoints:
    """The strongest keypoints that are counted, away from the edges of the photograph.

    Args:
        found: of a version of the photograph, strongest first.
        back: [3, 3], from the version's pixels to the photograph's.
        size: width and height of the photograph.
        options: how many, and how far from the edge.
    """
    return away_from_edges(found, back, size, options.border, options.keypoints)


def _versions(first: Array, change: Change, number: int, options: WarpOptions) -> Iterator[tuple[Array, Array]]:
    """The versions of a photograph, and the homographies that made them."""
    for k in range(options.count(change)):
        random = np.random.default_rng(derive(0, change, number, k))
        strength = (k + 1) / options.versions
        if change == "light":
            yield relight(first, strength, random), np.eye(3)
            continue
        turned = rotate(first, k * options.step) if change == "rotation" else tilt(first, strength, random)
        yield other_light(turned[0], random), turned[1]


def rotate(image: Array, degrees: int) -> tuple[Array, Array]:
    """The image turned clockwise on a canvas that holds it, and the map [3, 3] from its pixels to the canvas's.

    Multiples of 90 degrees move whole pixels.
    """
    height, width = image.shape
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    size = round(abs(width * cos) + abs(height * sin)), round(abs(width * sin) + abs(height * cos))
    matrix = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    matrix[:2, 2] = (np.array(size) - 1) / 2 - matrix[:2, :2] @ np.array([(width - 1) / 2, (height - 1) / 2])
    if degrees % 90 == 0:
        return np.ascontiguousarray(np.rot90(image, -degrees // 90)), matrix
    turned = import_cv2().warpAffine(image, matrix[:2], size, flags=import_cv2().INTER_LINEAR)
    return np.asarray(turned).clip(0, 1), matrix


def tilt(image: Array, strength: float, random: np.random.Generator) -> tuple[Array, Array]:
    """The image as a tilted plane, on a canvas of its size, and the map [3, 3] to it.

    Each corner moves inwards, by up to 0.3 times the strength of the sides.
    """
    cv2 = import_cv2()
    height, width = image.shape
    corners = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], np.float32)
    inwards = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * random.uniform(0, 0.3 * strength, (4, 2))
    moved = (corners + inwards * [width, height]).astype(np.float32)
    matrix = np.asarray(cv2.getPerspectiveTransform(corners, moved), np.float64)
    finer = np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1]])  # averaged over 2 x 2 samples, as the image shrinks
    large = cv2.warpPerspective(image, finer @ matrix, (2 * width, 2 * height), flags=cv2.INTER_LINEAR)
    return np.asarray(cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)).clip(0, 1), matrix


def other_light(image: Array, random: np.random.Generator) -> Array:
    """Another gamma, contrast and brightness, and noise."""
    return _noisy((image**1.2 - 0.5) * 0.85 + 0.53, random, NOISE)


def relight(image: Array, strength: float, random: np.random.Generator) -> Array:
    """Another gamma (up to 2), contrast (down to 0.5), a light from one side, and noise; all grow with the strength."""
    height, width = image.shape
    gamma = 2.0 ** (strength * random.choice([-1, 1]))
    y, x = np.mgrid[0:height, 0:width]
    angle = random.uniform(0, 2 * np.pi)
    side = (x / width - 0.5) * np.cos(angle) + (y / height - 0.5) * np.sin(angle)
    lit = ((image**gamma - 0.5) * (1 - 0.5 * strength) + 0.5) * (1 + 0.8 * strength * side)
    return _noisy(lit, random, 0.03 * strength)


def _noisy(image: Array, random: np.random.Generator, deviation: float) -> Array:
    return np.asarray((image + random.normal(0, deviation, image.shape)).clip(0, 1), np.float32)
