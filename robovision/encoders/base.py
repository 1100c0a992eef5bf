"""The contract that every image encoder fulfils, so that any of them can feed any agent."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from robovision.symmetry.claims import Symmetry


class Normalisation(NamedTuple):
    """Mean and standard deviation of R, G and B in 0..1 over the images that an encoder was trained on."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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

    @abstractmethod
    def symmetries(self) -> tuple[Symmetry, ...]:
        """What it says of its tokens when the image moves or turns; `robovision.testing.assert_declared` checks it."""

    def forward(self, images: Tensor) -> Features:
        """Features of an image batch; see the class for the convention.

        Raises:
            ValueError: for a wrong shape, type, value range, size or device, naming what came and the remedy.
        """
        return self.encode(self.normalise(images))

    def normalise(self, images: Tensor) -> Tensor:
        """Images with this encoder's mean removed and its deviation divided out."""
        check_images(images)
        here = self.mean.device
        if images.device != here:
            raise ValueError(f"images are on {images.device} and the encoder on {here}: use images.to({str(here)!r})")
        self.grid(images.shape[2], images.shape[3])
        scale = 255.0 if images.dtype == torch.uint8 else 1.0
        return (images.to(self.mean.dtype) - self.mean * scale) / (self.std * scale)


def whole_cells(height: int, width: int, cell: int) -> tuple[int, int]:
    """Rows and columns of the cells that an image is cut into.

    Raises:
        ValueError: if the cells' side does not divide the image's, in pixels.
    """
    if height % cell or width % cell or not height or not width:
        raise ValueError(f"image sides must be multiples of {cell} px, got {height} x {width}")
    return height // cell, width // cell


def initialise_linear(module: nn.Module) -> None:
    """Begin a linear layer, if it is one, with small numbers and no bias, as transformers do."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def check_images(images: object) -> None:
    """Raise ValueError unless `images` is [B, 3, H, W], uint8 or floating point in 0..1, not empty.

    The message says what came and what to do. Swapped colours (BGR) can't be told from the numbers.
    """
    if not isinstance(images, Tensor):
        raise ValueError(f"images must be a torch tensor, got {type(images).__name__}: use torch.as_tensor(images)")
    if images.is_nested or images.layout != torch.strided:
        kind = "nested" if images.is_nested else f"layout {images.layout}"
        remedy = "torch.nested.to_padded_tensor(images, 0)" if images.is_nested else "images.to_dense()"
        raise ValueError(f"images must be dense, got {kind}: use {remedy}")
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be [B, 3, H, W], got {list(images.shape)}{_shape_hint(images)}")
    if 0 in images.shape:
        raise ValueError(f"images must not be empty, got {list(images.shape)}")
    if images.dtype == torch.uint8:
        return
    if images.dtype not in FLOATS:
        remedy = "images.float()" if images.is_floating_point() else "for numbers in 0..255, images.to(torch.uint8)"
        raise ValueError(f"images must be uint8 or floating point of 16 bits or more, got {images.dtype}: {remedy}")
    if images.is_meta:
        return
    low, high = (float(value) for value in images.detach().aminmax())
    if not math.isfinite(low) or not math.isfinite(high):
        raise ValueError(f"images hold NaN or infinite numbers: {int((~images.isfinite()).sum())} of {images.numel()}")
    if low < 0 or high > 1:
        remedy = "divide by 255" if low >= 0 else "leave out your own normalisation, the encoder does it"
        raise ValueError(f"floating-point images must lie in 0..1, got {low:g}..{high:g}: {remedy}")


def _shape_hint(images: Tensor) -> str:
    """What to do with images of a usual other shape."""
    shape = tuple(images.shape)
    match shape:
        case (3, _, _):
            return "; one image: use images[None]"
        case (_, _, 3):
            return "; one image, channels last: use images.permute(2, 0, 1)[None]"
        case (_, _, _, 3):
            return "; channels come last here: use images.permute(0, 3, 1, 2)"
        case (_, 1, _, _):
            return "; grey images: use images.expand(-1, 3, -1, -1)"
        case (_, 4, _, _):
            return "; with transparency: use images[:, :3]"
        case _:
            return ""
