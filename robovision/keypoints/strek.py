"""S-TREK as an extractor: an image in, keypoints with orientation, uncertainty and descriptors out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision import weights
from robovision.devices import Device, resolve_device
from robovision.errors import UsageError
from robovision.keypoints.description import SIDE, SPACING, WIDTH, Descriptor, patches, soften
from robovision.keypoints.detector import Detection, Detector, saved_options
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
AT_ONCE = {"cpu": 128}
"""Patches that the descriptor sees at once: their maps stay in the processor's cache. On other devices MANY."""
MANY = 2048


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

    def __init__(
        self, detector: Detector, descriptor: Descriptor, options: ExtractorOptions, device: Device = "cpu"
    ) -> None:
        self.options = options
        self._device = torch.device(resolve_device(device))
        self._detector = detector.eval().exported().to(self._device)
        self._descriptor = descriptor.exported().to(self._device)

    @classmethod
    def load(
        cls,
        options: ExtractorOptions = ExtractorOptions(),
        path: Path | None = None,
        device: Device = "cpu",
    ) -> Strek:
        """The extractor with the embedded weights, or with those of a file that `robovision keypoints train` wrote.

        Args:
            options: what is extracted.
            path: strek.safetensors of a descriptor's training.
            device: where it computes.

        Raises:
            UsageError: if they are missing, changed or of another architecture, or there is no such device.
        """
        file = weights.find("strek") if path is None else path
        tensors = weights.load_floats(file)
        name = "strek" if path is None else str(path)
        detector, descriptor = Detector(saved_options(file) or DetectorOptions()), Descriptor()
        networks: dict[str, nn.Module] = {"detector": detector, "descriptor": descriptor}
        for part, network in networks.items():
            own = {key.removeprefix(f"{part}."): value for key, value in tensors.items() if key.startswith(part)}
            if not own:
                raise UsageError(f"{name} does not hold both of S-TREK's networks: give a training's strek.safetensors")
            weights.assign(network, own, name)
        return cls(detector, descriptor, options, device)

    @torch.inference_mode()
    def extract(self, image: Array) -> Keypoints:
        """The keypoints of one image, strongest first, scores in 0..1; none in an image that is level or too small.

        Args:
            image: grey, floating point [H, W] in 0..1.

        Raises:
            ValueError: for another shape, NaN, or numbers outside 0..1.
        """
        with _full_precision(self._device):
            return self._extract(_check(image).to(self._device))

    def _extract(self, image: Tensor) -> Keypoints:
        images = self._scales(image)
        parts = [self._detect(scaled) for scaled in images]
        scores, order = torch.cat([part.scores for part in parts]).sort(descending=True, stable=True)
        scores, order = scores[: self.options.most], order[: self.options.most]
        scale = torch.cat([torch.full_like(p.scores, number, dtype=torch.int64) for number, p in enumerate(parts)])[
            order
        ]
        xy, directions, uncertainty = (
            torch.cat(t)[order] for t in zip(*((p.xy, p.directions, p.uncertainty) for p in parts), strict=True)
        )
        described = scores.new_zeros(len(order), WIDTH)
        for number, scaled in enumerate(images):
            described[scale == number] = self._describe(scaled, xy[scale == number], directions[scale == number])
        rows, columns = image.shape[2:]
        factors = xy.new_tensor([[columns / part.shape[3], rows / part.shape[2]] for part in images])[scale]
        size = factors.mean(1)
        return Keypoints(
            _numpy((xy + 0.5) * factors - 0.5).clip(-0.5, np.array([columns, rows], np.float32) - 0.5),
            (columns, rows),
            _numpy((scores + 1) / 2),
            _numpy(described),
            _numpy(torch.atan2(directions[:, 1], directions[:, 0])),
            _numpy(SIDE * SPACING / 2 * size),
            _numpy(uncertainty * size),
        )

    def _scales(self, pixels: Tensor) -> list[Tensor]:
        """The image in all sizes that are looked at."""
        smaller = [s for s in SCALES[1:] if self.options.multi_scale and s * min(pixels.shape[2:]) >= SMALLEST]
        return [pixels, *(_resize(pixels, scale) for scale in smaller)]

    def _detect(self, image: Tensor) -> _Found:
        margin = self._detector.options.margin
        if min(image.shape[2:]) <= 2 * (margin + REACH):
            nothing, nowhere = image.new_zeros(0), image.new_zeros(0, 2)
            return _Found(nowhere, nothing, nowhere, nothing)
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
            return xy.new_zeros(0, WIDTH)
        smooth, count = soften(image), AT_ONCE.get(xy.device.type, MANY)
        described = [
            self._descriptor(patches(smooth, places[None], turns[None]))
            for places, turns in zip(torch.split(xy, count), torch.split(directions, count), strict=True)
        ]
        return torch.cat(described)


@contextlib.contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Without TensorFloat-32, whose rounding makes maxima where an image is level, and the same at every call."""
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=cudnn.enabled, deterministic=True, allow_tf32=False):
        yield


def _numpy(values: Tensor) -> Array:
    return values.cpu().numpy()


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
