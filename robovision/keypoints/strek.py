"""S-TREK as an extractor: an image in, keypoints with orientation, uncertainty and descriptors out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision import weights
from robovision.errors import UsageError
from robovision.keypoints.description import SIDE, SPACING, WIDTH, Descriptor, patches, soften
from robovision.keypoints.detector import Detection, Detector
from robovision.keypoints.places import REACH, refine
from robovision.keypoints.sampling import local_maxima
from robovision.keypoints.strek_config import DetectorOptions
from robovision.types import Array, Keypoints

SCALES = 1.0, 0.707, 0.5
"""Of the image in the multi-scale mode."""
SMALLEST = 128
"""Pixels of the shorter side below which a scale is left out."""
STRIP = 1_000_000
"""Pixels that the detector sees at once, about: larger images go through it in strips that overlap."""
AT_ONCE = 128
"""Patches that the descriptor sees at once: their maps stay in the processor's cache."""


@dataclass(frozen=True)
class ExtractorOptions:
    """What is extracted from an image."""

    most: int = 1024
    """Keypoints at most: the strongest. Fewer come back where there are fewer."""
    radius: int = 1
    """No two keypoints of a scale lie in one square of this radius, pixels; a larger one spreads them evenly."""
    multi_scale: bool = True
    """Look at smaller copies of the image, too."""

    def __post_init__(self) -> None:
        if self.most < 1 or self.radius < 1:
            raise UsageError(f"most and radius must be at least 1, got {self.most} and {self.radius}")


@dataclass(frozen=True)
class _Found:
    """Keypoints of one scale, strongest first, in pixels of that scale."""

    xy: Tensor
    scores: Tensor
    directions: Tensor
    uncertainty: Tensor


class Strek:
    """The extractor. `Strek.load()` has the weights that the package carries."""

    def __init__(self, detector: Detector, descriptor: Descriptor, options: ExtractorOptions) -> None:
        self.options = options
        self._detector = detector.eval().exported()
        self._descriptor = descriptor.exported()

    @classmethod
    def load(cls, options: ExtractorOptions = ExtractorOptions(), path: Path | None = None) -> Strek:
        """The extractor with the embedded weights, or with those of a file that `robovision keypoints train` wrote.

        Args:
            options: what is extracted.
            path: strek.safetensors of a descriptor's training; its detector has the default architecture.

        Raises:
            UsageError: if they are missing, changed or of another architecture.
        """
        tensors = weights.load_floats(weights.find("strek") if path is None else path)
        name = "strek" if path is None else str(path)
        detector, descriptor = Detector(DetectorOptions()), Descriptor()
        networks: dict[str, nn.Module] = {"detector": detector, "descriptor": descriptor}
        for part, network in networks.items():
            own = {key.removeprefix(f"{part}."): value for key, value in tensors.items() if key.startswith(part)}
            weights.assign(network, own, name)
        return cls(detector, descriptor, options)

    @torch.inference_mode()
    def extract(self, image: Array) -> Keypoints:
        """The keypoints of one image, strongest first, scores in 0..1; none in an image that is level or too small.

        Args:
            image: grey, floating point [H, W] in 0..1.

        Raises:
            ValueError: for another shape, NaN, or numbers outside 0..1.
        """
        images = self._scales(_check(image))
        parts = [self._detect(scaled) for scaled in images]
        scores, order = torch.cat([part.scores for part in parts]).sort(descending=True, stable=True)
        scores, order = scores[: self.options.most], order[: self.options.most]
        scale = torch.cat([torch.full((len(part.scores),), number) for number, part in enumerate(parts)])[order]
        xy, directions, uncertainty = (
            torch.cat(t)[order] for t in zip(*((p.xy, p.directions, p.uncertainty) for p in parts), strict=True)
        )
        described = torch.zeros(len(order), WIDTH)
        for number, scaled in enumerate(images):
            described[scale == number] = self._describe(scaled, xy[scale == number], directions[scale == number])
        rows, columns = image.shape
        factors = torch.tensor([[columns / part.shape[3], rows / part.shape[2]] for part in images])[scale]
        size = factors.mean(1)
        return Keypoints(
            ((xy + 0.5) * factors - 0.5).numpy().clip(-0.5, np.array([columns, rows], np.float32) - 0.5),
            (columns, rows),
            ((scores + 1) / 2).numpy(),
            described.numpy(),
            torch.atan2(directions[:, 1], directions[:, 0]).numpy(),
            (SIDE * SPACING / 2 * size).numpy(),
            (uncertainty * size).numpy(),
        )

    def _scales(self, pixels: Tensor) -> list[Tensor]:
        """The image in all sizes that are looked at."""
        smaller = [s for s in SCALES[1:] if self.options.multi_scale and s * min(pixels.shape[2:]) >= SMALLEST]
        return [pixels, *(_resize(pixels, scale) for scale in smaller)]

    def _detect(self, image: Tensor) -> _Found:
        margin = self._detector.options.margin
        if min(image.shape[2:]) <= 2 * (margin + REACH):
            nothing = torch.zeros(0)
            return _Found(torch.zeros(0, 2), nothing, torch.zeros(0, 2), nothing)
        detection = self._strips(image)
        logits = detection.logits
        peaks = local_maxima(logits, self.options.radius)[0]
        inner = torch.zeros_like(peaks)
        inner[REACH:-REACH, REACH:-REACH] = peaks[REACH:-REACH, REACH:-REACH]
        rows, columns = inner.nonzero(as_tuple=True)
        scores = logits[0, rows, columns]
        order = scores.sort(descending=True, stable=True).indices[: self.options.most]
        rows, columns, scores = rows[order], columns[order], scores[order]
        offset, uncertainty = refine(logits[0], rows, columns)
        xy = torch.stack([columns, rows], 1) + offset + margin
        vectors = detection.vectors[0, :, rows, columns].T
        return _Found(xy, scores, functional.normalize(vectors, dim=1), uncertainty)

    def _strips(self, image: Tensor) -> Detection:
        """The detection in a whole image, in strips, so that memory is bounded; the same as in one piece."""
        overlap = 2 * self._detector.options.margin
        height = max(1, STRIP // image.shape[3])
        parts: list[Detection] = [
            self._detector(image[:, :, top : top + height + overlap])
            for top in range(0, image.shape[2] - overlap, height)
        ]
        return Detection(torch.cat([p.logits for p in parts], 1), torch.cat([p.vectors for p in parts], 2))

    def _describe(self, image: Tensor, xy: Tensor, directions: Tensor) -> Tensor:
        if not len(xy):
            return torch.zeros(0, WIDTH)
        smooth = soften(image)
        described = [
            self._descriptor(patches(smooth, places[None], turns[None]))
            for places, turns in zip(torch.split(xy, AT_ONCE), torch.split(directions, AT_ONCE), strict=True)
        ]
        return torch.cat(described)


def _resize(pixels: Tensor, scale: float) -> Tensor:
    sides = [max(1, round(n * scale)) for n in pixels.shape[2:]]
    return functional.interpolate(pixels, sides, mode="bilinear", antialias=True)


def _check(image: Array) -> Tensor:
    if image.ndim != 2 or not np.issubdtype(image.dtype, np.floating) or image.size == 0:
        raise ValueError(f"image must be grey, floating point [H, W]; got {image.dtype} {list(image.shape)}")
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"image must hold numbers in 0..1; got {low:g}..{high:g}")
    return torch.from_numpy(np.ascontiguousarray(image, np.float32))[None, None]
