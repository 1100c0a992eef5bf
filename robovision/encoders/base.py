"""The contract that every image encoder fulfils, so that any of them can feed any agent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Normalisation(NamedTuple):
    """Mean and standard deviation of R, G and B in 0..1 over the images that an encoder was trained on."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Features(NamedTuple):
    """What an encoder makes of a batch of images.

    Convention:
        tokens: [B, N, D], one token a grid cell, row by row from the top left (N = rows * columns).
        pooled: [B, P], one vector for the whole image.
    """

    tokens: Tensor
    pooled: Tensor


class Encoder(nn.Module, ABC):
    """An image batch in, tokens on their grid and a pooled vector out.

    Convention:
        images: [B, 3, H, W], RGB, either uint8 in 0..255 or floating point in 0..1.
        The encoder normalises them itself with its own `mean` and `std`.
        `width` is D, the channels of a token; `pooled_width` is P, those of the pooled vector.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: int, normalisation: Normalisation = IMAGENET, pooled_width: int | None = None) -> None:
        super().__init__()
        self.width = width
        self.pooled_width = width if pooled_width is None else pooled_width
        self.register_buffer("mean", torch.tensor(normalisation.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(normalisation.std).view(1, 3, 1, 1), persistent=False)

    @abstractmethod
    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the token grid for an image of this size in pixels.

        Raises:
            ValueError: if the encoder can't take an image of this size.
        """

    @abstractmethod
    def encode(self, images: Tensor) -> Features:
        """Features of already normalised images, [B, 3, H, W] floating point."""

    def forward(self, images: Tensor) -> Features:
        """Features of an image batch; see the class for the convention.

        Raises:
            ValueError: for a wrong shape, type, value range or size, naming what came.
        """
        return self.encode(self.normalise(images))

    def normalise(self, images: Tensor) -> Tensor:
        """Images with this encoder's mean removed and its deviation divided out."""
        check_images(images)
        self.grid(images.shape[2], images.shape[3])
        scale = 255.0 if images.dtype == torch.uint8 else 1.0
        return (images.to(self.mean.dtype) - self.mean * scale) / (self.std * scale)


def check_images(images: Tensor) -> None:
    """Raise ValueError unless `images` is [B, 3, H, W], uint8 or floating point in 0..1, not empty."""
    if images.ndim != 4 or images.shape[1] != 3:
        channels_last = images.ndim == 4 and images.shape[-1] == 3
        hint = "; channels come last here: use images.permute(0, 3, 1, 2)" if channels_last else ""
        raise ValueError(f"images must be [B, 3, H, W], got {list(images.shape)}{hint}")
    if 0 in images.shape:
        raise ValueError(f"images must not be empty, got {list(images.shape)}")
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise ValueError(f"images must be uint8 or floating point, got {images.dtype}")
    low, high = (float(value) for value in images.aminmax())
    if not (low >= 0.0 and high <= 1.0):  # NaN fails this too
        raise ValueError(f"floating-point images must lie in 0..1, got {low:g}..{high:g}")
