"""Random shifts of images, as in DrQ."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def random_shift(images: Tensor, reach: int, generator: torch.Generator) -> Tensor:
    """Each image of [B, C, H, W], or stack of them, moved by whole pixels in -reach..reach; the border repeats.

    Yarats et al., ICLR 2021 (DrQ), section 3.2.
    """
    height, width = images.shape[-2:]
    padded = functional.pad(images, (reach,) * 4, mode="replicate")
    offsets = torch.randint(2 * reach + 1, (len(images), 2), generator=generator).tolist()
    return torch.stack([i[:, y : y + height, x : x + width] for i, (y, x) in zip(padded, offsets, strict=True)])
