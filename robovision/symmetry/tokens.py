"""What a vision transformer's tokens keep of the image's symmetry, block by block, and where it looks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from robovision.encoders.base import check_images
from robovision.encoders.vit import Attention, ViT
from robovision.errors import UsageError
from robovision.symmetry.plane import Motion, Rotation, Translation, act

ANGLES = (5.0, 15.0, 45.0, 90.0, 180.0)
"""Turns in degrees, each to both sides."""
MIN_SIDE = 4
"""Patches along a side, so that something is left to compare after a shift by two of them."""


@dataclass(frozen=True)
class Inspection:
    """What was measured of one ViT on one image.

    Convention:
        translation: for each shift in pixels the error by depth, 0: equivariant, 1.41: unrelated.
        rotation: the same for each turn in degrees.
        amplitude: [depths, F], log amplitude of the tokens' map relative to frequency 0, at the frequencies
            0..pi per token, evenly spaced, along the diagonal.
        rollout: [rows, columns], the share of the class token's attention on each patch; they sum to 1.

    Depths are those of `depths`.
    """

    translation: dict[float, list[float]]
    rotation: dict[float, list[float]]
    amplitude: Tensor
    rollout: Tensor


def depths(vit: ViT) -> list[str]:
    """The places where tokens are looked at: projected patches, what block 1 gets, and what each block gives."""
    return ["patches", "input", *(str(number) for number in range(1, len(vit.blocks) + 1))]


def shifts(patch: int) -> tuple[int, ...]:
    """The shifts in pixels that are measured: within a patch, one patch and two."""
    return (1, patch // 4, patch // 2, patch, 2 * patch)


def canvas_side(size: int, patch: int) -> int:
    """Side in pixels of a picture from which every moved view of this size can be cut."""
    side = max(math.ceil(size * math.sqrt(2)) + 2, size + 4 * patch)
    return side + (side - size) % 2


def count(patch: int) -> int:
    """How many motions `inspect` measures."""
    return len(shifts(patch)) + len(ANGLES)


@torch.no_grad()
def inspect(vit: ViT, canvas: Tensor, size: int, progress: Callable[[], object] = lambda: None) -> Inspection:
    """Measure a ViT on the middle of a picture.

    Args:
        vit: the encoder; it is set to evaluation.
        canvas: [1, 3, C, C], the picture, with C from `canvas_side`: what moves into view is really there.
        size: side in pixels of what the ViT sees.
        progress: called after each motion.

    Raises:
        UsageError: if the size has fewer than four patches a side.
        ValueError: for a wrong picture.
    """
    check_images(canvas)
    if size < MIN_SIDE * vit.patch:
        raise UsageError(f"the size must be at least {MIN_SIDE} patches of {vit.patch} pixels, got {size}")
    needed = canvas_side(size, vit.patch)
    if canvas.shape[2] != needed or canvas.shape[3] != needed:
        raise ValueError(f"the picture must be {needed} x {needed} px, got {list(canvas.shape[2:])}")
    vit.eval()
    canvas = canvas / 255 if canvas.dtype == torch.uint8 else canvas
    still = token_maps(vit, middle(canvas, size))

    def error(motions: Sequence[Motion]) -> list[float]:
        values = equivariance_by_depth(vit, canvas, size, still, motions)
        progress()
        return values

    return Inspection(
        {float(s): error([Translation(*d) for d in ((s, 0), (-s, 0), (0, s), (0, -s))]) for s in shifts(vit.patch)},
        {angle: error([Rotation(angle), Rotation(-angle)]) for angle in ANGLES},
        relative_log_amplitude(still),
        attention_rollout(vit, middle(canvas, size)),
    )


def token_maps(vit: ViT, images: Tensor) -> Tensor:
    """The patch tokens at every depth as maps, [depths, B, D, rows, columns]."""
    normalised = vit.normalise(images)
    rows, columns = vit.grid(*images.shape[2:])
    seen = [vit.patch_embed(normalised)]
    x = vit.embed(normalised)
    prefix = x.shape[1] - rows * columns
    seen.append(x[:, prefix:])
    for block in vit.blocks:
        x = block(x)
        seen.append(x[:, prefix:])
    stacked = torch.stack(seen).transpose(2, 3)
    return stacked.reshape(*stacked.shape[:3], rows, columns)


def equivariance_by_depth(vit: ViT, canvas: Tensor, size: int, still: Tensor, motions: Sequence[Motion]) -> list[float]:
    """The error ||f(g x) - g f(x)|| / ||f(g x) - mean|| at each depth, over the motions g together.

    f(x) are the tokens of the middle of the canvas, `still`, and the mean is that of f(g x) over the places: what
    all tokens share is no sign of equivariance. Only places that both views hold count.
    """
    views = torch.cat([middle(act(motion, canvas)[0], size) for motion in motions]).clamp(0, 1)
    found = token_maps(vit, views)
    difference = spread = torch.zeros(len(still))
    for number, motion in enumerate(motions):
        expected, inside = act(motion, still[:, 0], vit.patch)
        seen = found[:, number]
        centred = seen - seen.mean((2, 3), keepdim=True)
        difference = difference + ((seen - expected) * inside).square().sum((1, 2, 3))
        spread = spread + (centred * inside).square().sum((1, 2, 3))
    values: list[float] = (difference / spread).sqrt().tolist()
    return values


def relative_log_amplitude(maps: Tensor) -> Tensor:
    """Log amplitude of maps [depths, B, D, n, n] over the diagonal frequencies, less that of 0: [depths, n // 2 + 1].

    Park and Kim (ICLR 2022, "How do vision transformers work?", figure 2): the Fourier transform of each channel,
    the logarithm of its amplitude, averaged over channels.
    """
    amplitude = torch.fft.fft2(maps.float()).abs().clamp_min(torch.finfo(torch.float32).tiny).log().mean((1, 2))
    diagonal = amplitude.diagonal(dim1=1, dim2=2)[:, : maps.shape[-1] // 2 + 1]
    relative: Tensor = diagonal - diagonal[:, :1]
    return relative


def attention_rollout(vit: ViT, images: Tensor) -> Tensor:
    """Where the class token's information comes from, [rows, columns], for the first image; it sums to 1.

    Abnar and Zuidema (ACL 2020, section 3): the blocks' attention, averaged over heads, half of it with the
    identity for the residual path, multiplied from the first block to the last.
    """
    normalised = vit.normalise(images[:1])
    grid = vit.grid(*images.shape[2:])
    x = vit.embed(normalised)
    path = torch.eye(x.shape[1])
    for block in vit.blocks:
        attention = block.get_submodule("attn")
        assert isinstance(attention, Attention)
        weights = attention.weights(block.get_submodule("norm1")(x))[0].mean(0)
        path = (0.5 * weights + 0.5 * torch.eye(len(weights))) @ path
        x = block(x)
    patches = path[0, -grid[0] * grid[1] :]
    return (patches / patches.sum()).view(grid)


def middle(canvas: Tensor, size: int) -> Tensor:
    """The middle [B, C, size, size] of a picture whose side is even or odd as the size is."""
    first = (canvas.shape[-1] - size) // 2
    return canvas[..., first : first + size, first : first + size]


def fit(picture: Tensor, side: int) -> Tensor:
    """A picture [3, H, W] scaled to cover a square, smoothed where it shrinks, and its middle cut out: uint8."""
    height, width = picture.shape[1:]
    scale = side / min(height, width)
    wanted = (max(side, round(height * scale)), max(side, round(width * scale)))
    scaled = functional.interpolate(picture[None].float(), wanted, mode="bicubic", align_corners=False, antialias=True)
    top, left = (wanted[0] - side) // 2, (wanted[1] - side) // 2
    return scaled[..., top : top + side, left : left + side].round().clamp(0, 255).to(torch.uint8)
