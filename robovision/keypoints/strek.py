"""S-TREK as an extractor: an image in, keypoints with orientation, uncertainty and descriptors out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from robovision import weights
from robovision.errors import UsageError
from robovision.keypoints.description import SIDE, SPACING, WIDTH, Descriptor, patches
from robovision.keypoints.detector import Detection, Detector
from robovision.keypoints.sampling import local_maxima
from robovision.keypoints.strek_config import DetectorOptions
from robovision.types import Array, Keypoints

TEMPERATURE = 0.05
"""Of the policy, as trained: it turns the sharpness of a maximum into pixels of uncertainty."""
SCALES = 1.0, 0.707, 0.5
"""Of the image in the multi-scale mode."""
SMALLEST = 128
"""Pixels of the shorter side below which a scale is left out."""


@dataclass(frozen=True)
class ExtractorOptions:
    """What is extracted from an image."""

    most: int = 1024
    """Keypoints at most: the strongest. Fewer come back where there are fewer."""
    radius: int = 3
    """No two keypoints of a scale lie in one square of this radius, pixels; a larger one spreads them evenly."""
    multi_scale: bool = False
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
        self._descriptor = descriptor.eval().requires_grad_(False)

    @classmethod
    def load(cls, options: ExtractorOptions = ExtractorOptions()) -> Strek:
        """The extractor with the embedded weights.

        Raises:
            UsageError: if they are missing or changed.
        """
        tensors = weights.load_floats(weights.find("strek"))
        parts = {
            part: {name.removeprefix(f"{part}."): value for name, value in tensors.items() if name.startswith(part)}
            for part in ("detector", "descriptor")
        }
        detector, descriptor = Detector(DetectorOptions()), Descriptor()
        weights.assign(detector, parts["detector"], "strek")
        weights.assign(descriptor, parts["descriptor"], "strek")
        return cls(detector, descriptor, options)

    @torch.inference_mode()
    def extract(self, image: Array) -> Keypoints:
        """The keypoints of one image, strongest first, scores in 0..1; none in an image that is level or too small.

        Args:
            image: grey, floating point [H, W] in 0..1.

        Raises:
            ValueError: for another shape, NaN, or numbers outside 0..1.
        """
        pixels = _check(image)
        scales = [
            s
            for s in (SCALES if self.options.multi_scale else SCALES[:1])
            if s == 1 or s * min(image.shape) >= SMALLEST
        ]
        parts = [self._one_scale(pixels, scale) for scale in scales]
        scores = torch.cat([part[1] for part in parts])
        order = scores.sort(descending=True, stable=True).indices[: self.options.most]
        xy, _, angles, sizes, uncertainty, described = (torch.cat(t)[order].numpy() for t in zip(*parts, strict=True))
        rows, columns = image.shape
        edge = np.array([columns, rows], np.float32) - 0.5
        return Keypoints(
            xy.clip(-0.5, edge), (columns, rows), scores[order].numpy(), described, angles, sizes, uncertainty
        )

    def _one_scale(self, pixels: Tensor, scale: float) -> tuple[Tensor, ...]:
        """Places, scores, angles, radii, uncertainties and descriptors, in pixels of the original image."""
        scaled = pixels if scale == 1 else _resize(pixels, scale)
        found = self._detect(scaled)
        described = self._describe(scaled, found)
        factor = torch.tensor([pixels.shape[3] / scaled.shape[3], pixels.shape[2] / scaled.shape[2]])
        angles = torch.atan2(found.directions[:, 1], found.directions[:, 0])
        size = torch.full_like(found.scores, SIDE * SPACING / 2 / scale)
        scores = (found.scores + 1) / 2
        return (found.xy + 0.5) * factor - 0.5, scores, angles, size, found.uncertainty / scale, described

    def _detect(self, image: Tensor) -> _Found:
        margin = self._detector.options.margin
        if min(image.shape[2:]) < 2 * margin + 3:
            nothing = torch.zeros(0)
            return _Found(torch.zeros(0, 2), nothing, torch.zeros(0, 2), nothing)
        detection: Detection = self._detector(image)
        logits = detection.logits
        peaks = local_maxima(logits, self.options.radius)[0]
        inner = torch.zeros_like(peaks)
        inner[1:-1, 1:-1] = peaks[1:-1, 1:-1]
        rows, columns = inner.nonzero(as_tuple=True)
        scores = logits[0, rows, columns]
        order = scores.sort(descending=True, stable=True).indices[: self.options.most]
        rows, columns, scores = rows[order], columns[order], scores[order]
        offset, uncertainty = refine(logits[0], rows, columns)
        xy = torch.stack([columns, rows], 1) + offset + margin
        vectors = detection.vectors[0, :, rows, columns].T
        return _Found(xy, scores, functional.normalize(vectors, dim=1), uncertainty)

    def _describe(self, image: Tensor, found: _Found) -> Tensor:
        if not len(found.xy):
            return torch.zeros(0, WIDTH)
        described: Tensor = self._descriptor(patches(image, found.xy[None], found.directions[None]))
        return described


def refine(logits: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Sub-pixel offsets (x, y) [N, 2] of maxima of a map [H, W], and their uncertainty [N] in pixels.

    A paraboloid through the 3 x 3 pixels has its maximum there. Its curvature makes the policy a Gaussian, of
    covariance TEMPERATURE times the inverse of the negative Hessian: the uncertainty is the root of its mean
    eigenvalue. Offsets are at most half a pixel in each direction.
    """

    def at(down: int, right: int) -> Tensor:
        return logits[rows + down, columns + right]

    middle = 2 * at(0, 0)
    dx, dy = (at(0, 1) - at(0, -1)) / 2, (at(1, 0) - at(-1, 0)) / 2
    xx, yy = at(0, 1) + at(0, -1) - middle, at(1, 0) + at(-1, 0) - middle
    xy = (at(1, 1) + at(-1, -1) - at(1, -1) - at(-1, 1)) / 4
    determinant = xx * yy - xy**2
    round_top = (determinant > 1e-9) & (xx + yy < 0)
    safe = torch.where(round_top, determinant, 1.0)
    offset = torch.stack([xy * dy - yy * dx, xy * dx - xx * dy], 1) / safe[:, None]
    offset = torch.where(round_top[:, None], offset, 0.0).clamp(-0.5, 0.5)
    variance = TEMPERATURE * -(xx + yy) / (2 * safe)
    side = torch.sym_max(*logits.shape)  # type: ignore[no-untyped-call]
    flat = torch.ones_like(variance) * side
    return offset, torch.where(round_top, variance.clamp(min=1e-8).sqrt().minimum(flat), flat)


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
