"""NAT, the neighbourhood attention transformer (Hassani et al., CVPR 2023, section 3.3), without its classifier.

Overlapping convolutions make tokens of 4 x 4 pixels; four stages of neighbourhood attention and MLP halve the grid in
between. Far from the border a shift by whole strides of the last map moves the tokens.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from robovision.encoders.base import IMAGENET, Encoder, Features, Normalisation, initialise_linear
from robovision.encoders.neighborhood import NeighborhoodAttention, check_window
from robovision.encoders.vit import LayerScale
from robovision.symmetry import claims
from robovision.symmetry.claims import Symmetry
from robovision.symmetry.data import Tokens
from robovision.symmetry.groups import shifts, turns

FIRST = 4
"""Pixels of a token of the first stage."""


@dataclass(frozen=True)
class NATSize:
    """Channels and heads of the first stage, which double at each; blocks of each stage; how wide MLPs are."""

    width: int
    heads: int
    depths: tuple[int, ...]
    mlp: int
    layer_scale: bool = False
    kernel: int = 7


SIZES = {
    "mini": NATSize(64, 2, (3, 4, 6, 5), 3),
    "tiny": NATSize(64, 2, (3, 4, 18, 5), 3),
    "small": NATSize(96, 3, (3, 4, 18, 5), 2, layer_scale=True),
    "base": NATSize(128, 4, (3, 4, 18, 5), 2, layer_scale=True),
}


class Block(nn.Module):
    """Pre-norm block on maps [B, H, W, D]: x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, width: int, heads: int, size: NATSize) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = NeighborhoodAttention(width, heads, size.kernel)
        self.scale1 = LayerScale(width) if size.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, size.mlp * width)
        self.fc2 = nn.Linear(size.mlp * width, width)
        self.scale2 = LayerScale(width) if size.layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale1(self.attn(self.norm1(x)))
        return x + self.scale2(self.fc2(functional.gelu(self.fc1(self.norm2(x)))))  # type: ignore[no-any-return]


class Halve(nn.Module):
    """A 3 x 3 convolution of stride 2 and a layer norm, on maps [B, H, W, D]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.reduction(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))  # type: ignore[no-any-return]


class Tokenizer(nn.Module):
    """Two 3 x 3 convolutions of stride 2 and a layer norm: images [B, 3, H, W] to maps [B, H / 4, W / 4, D]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Conv2d(3, width // 2, 3, 2, 1), nn.Conv2d(width // 2, width, 3, 2, 1))
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.proj(images).permute(0, 2, 3, 1))  # type: ignore[no-any-return]


class NAT(Encoder):
    """Tokens are the cells of the last map, 1/32 of the image with four stages; their mean is the pooled vector.

    Args:
        size: widths, heads and depths.
        normalisation: mean and deviation of its images.
    """

    def __init__(self, size: NATSize, normalisation: Normalisation = IMAGENET) -> None:
        widths = [size.width << k for k in range(len(size.depths))]
        super().__init__(widths[-1], normalisation)
        self.size = size
        self.stride = FIRST << (len(size.depths) - 1)
        self.tokenizer = Tokenizer(size.width)
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(width, size.heads << k, size) for _ in range(depth)))
            for k, (width, depth) in enumerate(zip(widths, size.depths, strict=True))
        )
        self.halve = nn.ModuleList(Halve(a, b) for a, b in itertools.pairwise(widths))
        self.norm = nn.LayerNorm(widths[-1])
        self.apply(initialise_linear)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        rows, columns = -(-height // self.stride), -(-width // self.stride)
        check_window(self.size.kernel, rows, columns)
        return rows, columns

    def symmetries(self) -> tuple[Symmetry, ...]:
        """Shifts by whole strides, at cells that see no border: next to it, windows move inwards."""
        cells = Tokens(self.stride)
        return (
            Symmetry(shifts(self.stride), "interior", outputs=cells, margin=self._reach(), part=claims.tokens),
            Symmetry(turns("C4"), "none", outputs=cells, part=claims.tokens),
        )

    def encode(self, images: Tensor) -> Features:
        x = self.tokenizer(images)
        for number, stage in enumerate(self.stages):
            x = stage(x if number == 0 else self.halve[number - 1](x))
        tokens = self.norm(x).flatten(1, 2)
        return Features(tokens, tokens.mean(1))

    def _reach(self) -> int:
        """Cells of the last map that a cell sees to each side, one more for windows next to the border."""
        pixels = 3
        for number, depth in enumerate(self.size.depths):
            cell = FIRST << number
            pixels += (cell // 2 if number else 0) + depth * (self.size.kernel // 2) * cell
        return -(-pixels // self.stride) + 1
