"""Every kind of image as one: grey numbers in 0..1."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from robovision.errors import UsageError, first_line
from robovision.types import Array

if TYPE_CHECKING:
    from torch import Tensor

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in grey (ITU-R BT.601), as in OpenCV."""


def grey(image: Array | Tensor) -> Array:
    """The image as grey float32 [H, W] in 0..1.

    Args:
        image: grey [H, W]; or, with 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha) channels, a NumPy array
            [H, W, C] or a tensor [C, H, W]. Integers are uint8 or uint16 over their whole range, bool is 0 or 1,
            floating point lies in 0..1. What alpha leaves transparent becomes black.

    Raises:
        ValueError: for another shape or type, an empty image, NaN, or numbers outside of 0..1.
    """
    if isinstance(image, np.ndarray):
        array, layout = image, "[H, W] or [H, W, C]"
    else:
        array, layout = _of_tensor(image), "[H, W] or [C, H, W]"
        array = np.moveaxis(array, 0, -1) if array.ndim == 3 else array
    shape = list(image.shape)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 2, 3, 4)):
        raise ValueError(f"an image must have shape {layout} with C in 1..4, got {shape}")
    if not array.size:
        raise ValueError(f"the image is empty: its shape is {shape}")
    array = _unit_range(array)
    if array.ndim == 2:
        return array
    colours = array[..., :-1] * array[..., -1:] if array.shape[2] in (2, 4) else array
    return np.ascontiguousarray(colours[..., 0] if colours.shape[2] == 1 else colours @ LUMA)


def read_grey(path: Path) -> Array:
    """The image in a file, upright (by its EXIF orientation), as grey float32 [H, W] in 0..1.

    Grey images of 16 bits keep their precision.

    Raises:
        UsageError: if there is no such file, or it is no image, or a damaged one.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if not upright.mode.startswith(("I", "F")):
                transparent = "A" in upright.getbands() or "transparency" in upright.info
                upright = upright.convert("RGBA" if transparent else "RGB")
            array = np.array(upright)
    except FileNotFoundError:
        raise UsageError(f"there is no image {path}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path} is no readable image: {first_line(error)}") from error
    if array.dtype.kind == "i":  # 16 bits, in 32
        array = array.clip(0, 65535).astype(np.uint16)
    try:
        return grey(array)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error


def _of_tensor(image: object) -> Array:
    import torch

    if not isinstance(image, torch.Tensor):
        remedy = "pixels.read_grey(path) reads a file, np.asarray(image) takes one of Pillow's"
        raise ValueError(f"an image must be a NumPy array or a tensor, got a {type(image).__name__}; {remedy}")
    return np.asarray(image.detach().cpu().numpy())


def _unit_range(array: Array) -> Array:
    if array.dtype == bool:
        return array.astype(np.float32)
    if array.dtype in (np.uint8, np.uint16):
        return array.astype(np.float32) / np.float32(np.iinfo(array.dtype).max)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"an image must be uint8, uint16, bool or floating point, got {array.dtype}")
    low, high = float(array.min()), float(array.max())
    if np.isnan(low):
        raise ValueError("the image holds NaN; floating point images hold numbers in 0..1")
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"floating point images hold numbers in 0..1, got {low:g}..{high:g}; divide by the range, or pass uint8"
        )
    return array.astype(np.float32)
