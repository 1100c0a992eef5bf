"""Extractors of keypoints by name, all of one kind: an image in, keypoints out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robovision import weights
from robovision.devices import Device, resolve_device
from robovision.errors import UsageError, unknown
from robovision.keypoints import opencv
from robovision.keypoints.pixels import grey
from robovision.types import Array, Keypoints

if TYPE_CHECKING:
    from torch import Tensor

Method = Callable[[Array], Keypoints]
"""From grey float32 [H, W] in 0..1 to keypoints, strongest first."""


Maker = Callable[[int, Device, Path | None], Method]
"""From the number of keypoints, the device and the file of weights to a method."""


def _strek(multi_scale: bool) -> Maker:
    def make(num_keypoints: int, device: Device, path: Path | None) -> Method:
        from robovision.keypoints.strek import ExtractorOptions, Strek

        return Strek.load(ExtractorOptions(num_keypoints, multi_scale=multi_scale), path, device).extract

    return make


LEARNED: dict[str, Maker] = {"strek": _strek(multi_scale=True), "strek-fast": _strek(multi_scale=False)}
"""The extractors with weights, which may come from a file of one's own."""
METHODS: dict[str, Maker] = {
    **LEARNED,
    "sift": lambda num_keypoints, *_: opencv.sift(num_keypoints),
    "rootsift": lambda num_keypoints, *_: opencv.rootsift(num_keypoints),
    "orb": lambda num_keypoints, *_: opencv.orb(num_keypoints),
}
"""Every extractor."""

CANDIDATES = 4
"""Keypoints that uniform coverage chooses from, for each that it keeps."""


class Extractor:
    """Extracts keypoints of one kind; `load` makes it."""

    def __init__(self, name: str, method: Method, num_keypoints: int, uniform: bool) -> None:
        self.name = name
        self.num_keypoints = num_keypoints
        self.uniform = uniform
        self._method = method

    def extract(self, image: Array | Tensor) -> Keypoints:
        """The keypoints of one image, strongest first: at most `num_keypoints`, none in a level image.

        Args:
            image: grey or RGB, with alpha or without; a NumPy array [H, W] or [H, W, C] or a tensor [H, W] or
                [C, H, W]; uint8, uint16, or floating point in 0..1.

        Raises:
            ValueError: for another shape or type, an empty image, NaN, or numbers outside of 0..1.
        """
        found = self._method(grey(image))
        if self.uniform:
            return select(found, uniform_coverage(found.xy, found.scores, self.num_keypoints))
        return found if len(found) <= self.num_keypoints else select(found, np.arange(self.num_keypoints))

    def extract_batch(self, images: Array | Tensor | Iterable[Array | Tensor]) -> list[Keypoints]:
        """The keypoints of each image of a batch: an array or a tensor with one more axis in front, or single images.

        Raises:
            ValueError: as `extract` does.
        """
        return [self.extract(image) for image in images]


def load(name: str, num_keypoints: int = 1024, uniform: bool = False, device: Device = "auto") -> Extractor:
    """The extractor of this name.

    Args:
        name: "strek" (several scales), "strek-fast" (the image's own only), "sift", "rootsift" or "orb"; the last
            three need OpenCV. "strek=FILE" and "strek-fast=FILE" have the weights of a strek.safetensors that
            `robovision keypoints train --part descriptor` wrote.
        num_keypoints: how many at most in an image.
        uniform: choose them for even coverage instead of the strongest ones.
        device: where S-TREK computes: "cpu", "cuda", "mps", or "auto", CUDA if there is any, else the processor.
            OpenCV's extractors compute on the processor, whatever it says.

    Raises:
        UsageError: for an unknown name or less than one keypoint, if there is no such device, if OpenCV is needed
            and not installed, or if a file is missing or holds other weights.
    """
    kind, path = parse(name)
    if num_keypoints < 1:
        raise UsageError(f"num_keypoints must be at least 1, got {num_keypoints}")
    most = num_keypoints * (CANDIDATES if uniform else 1)
    method = METHODS[kind](most, extractor_device(device), path)
    return Extractor(name, method, num_keypoints, uniform)


def parse(name: str) -> tuple[str, Path | None]:
    """The kind of extractor that a name says, and the file of its weights, if it says one.

    Raises:
        UsageError: for an unknown kind, or a file for one that has no weights.
    """
    kind, separator, file = name.partition("=")
    if kind not in METHODS:
        raise unknown("extractor", kind, METHODS)
    if separator and (kind not in LEARNED or not file):
        raise UsageError(f"weights are given as {' or '.join(f'{k}=FILE' for k in LEARNED)}, got {name!r}")
    return kind, Path(file) if file else None


def identity(name: str) -> dict[str, str]:
    """What tells keypoints of this extractor from others': its kind, and the checksum of its weights.

    Raises:
        UsageError: as `parse` does.
        OSError: if the file can't be read.
    """
    kind, path = parse(name)
    if kind not in LEARNED:
        return {"extractor": kind}
    return {"extractor": kind, "weights": weights.sha256(weights.find("strek") if path is None else path)[:12]}


def extractor_device(name: Device) -> Device:
    """Where S-TREK computes: `auto` is CUDA or the processor, as MPS has not been tried; anything else is checked.

    Raises:
        UsageError: if PyTorch finds no such device.
    """
    found = resolve_device(name)
    return "cpu" if name == "auto" and found == "mps" else found


def select(keypoints: Keypoints, chosen: Array) -> Keypoints:
    """The keypoints with these indices, in their order, or those where a mask [N] is true."""
    arrays: dict[str, Any] = {
        field.name: value[chosen]
        for field in dataclasses.fields(keypoints)
        if isinstance(value := getattr(keypoints, field.name), np.ndarray)
    }
    return dataclasses.replace(keypoints, **arrays)


def uniform_coverage(xy: Array, scores: Array, count: int, robustness: float = 1.0, chunk: int = 1024) -> Array:
    """Indices of at most `count` points that cover the image evenly, strongest first.

    Adaptive non-maximal suppression (Brown, Szeliski and Winder, CVPR 2005, section 3): those that are farthest
    from any clearly stronger point, one whose score times `robustness` is still above theirs.

    Args:
        xy: [N, 2], pixels.
        scores: [N]; of one that is not positive every stronger one counts.
        count: how many.
        robustness: 0..1; 1 counts every stronger point, which suits S-TREK, whose strongest scores are nearly 1 all.
        chunk: points whose distances are in memory at once.
    """
    if len(xy) <= count:
        return np.argsort(-scores, kind="stable")
    radii = np.concatenate(
        [
            np.where(
                scores[None] * np.where(scores > 0, robustness, 1) > scores[start : start + chunk, None],
                ((xy[start : start + chunk, None] - xy[None]) ** 2).sum(-1),
                np.inf,
            ).min(axis=1)
            for start in range(0, len(xy), chunk)
        ]
    )
    kept = np.lexsort([-scores, -radii])[:count]
    return kept[np.argsort(-scores[kept], kind="stable")]
