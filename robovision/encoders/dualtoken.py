"""DualToken-ViT (Chu et al., "DualToken-ViT: Position-aware efficient vision transformer with dual token fusion").

Two kinds of token go side by side: those of the image, and 7 x 7 global ones that know their place and pass through
all blocks. Each block convolves the image tokens (a ConvNeXt block), shrinks them step by step to 7 x 7, lets these
attend to each other, adds what they found to the global tokens, and lets the image tokens attend to those. The cost is
linear in the number of image tokens. Stem, merging and the gates after the MLP are LightViT's (Huang et al., 2022).

Its code is not public and the widths and depths of its table were not at hand: they are chosen, on LightViT's three
stages, so that the multiply-adds at 224 px are the published 0.5 and 1.0 G; the paper's parameter counts are unchecked.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision.encoders.base import IMAGENET, Encoder, Features, Normalisation, initialise_linear, whole_cells
from robovision.encoders.vit import LayerScale
from robovision.symmetry.claims import Symmetry, nothing_kept

FIRST = 8
"""Pixels of a token of the first stage."""
SIDE = 7
"""Global tokens a side."""
REDUCED = 4
"""How much narrower the gates are than the tokens."""


@dataclass(frozen=True)
class DualTokenSize:
    """Channels, blocks and heads of each stage."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]


SIZES = {
    "tiny": DualTokenSize((48, 96, 192), (2, 4, 4), (2, 4, 8)),
    "small": DualTokenSize((64, 128, 256), (2, 6, 4), (2, 4, 8)),
}


class Stem(nn.Module):
    """Images [B, 3, H, W] to maps [B, H / 8, W / 8, D]: a convolution, three for each channel alone, and one more."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        layers: list[nn.Module] = []
        for inputs, groups, stride in ((3, 1, 2), (half, half, 1), (half, half, 1), (half, half, 2)):
            layers += [
                nn.Conv2d(inputs, half, 3, stride, 1, groups=groups, bias=False),
                nn.BatchNorm2d(half),
                nn.GELU(),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(half, width, 3, 2, 1))
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        fast = images.contiguous(memory_format=torch.channels_last)
        return self.norm(self.layers(fast).permute(0, 2, 3, 1))  # type: ignore[no-any-return]


class Merge(nn.Module):
    """Four neighbours to one token, side by side and by their maximum: [B, H, W, D] -> [B, H / 2, W / 2, E]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * inputs)
        self.reduction = nn.Linear(4 * inputs, outputs, bias=False)
        self.largest = nn.Linear(inputs, outputs, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        batch, rows, columns, width = maps.shape
        cells = maps.view(batch, rows // 2, 2, columns // 2, 2, width).transpose(2, 3)
        merged = self.reduction(self.norm(cells.flatten(3)))
        return merged + self.largest(cells.amax((3, 4)))  # type: ignore[no-any-return]


class ConvEncoder(nn.Module):
    """The local half: a ConvNeXt block (Liu et al., CVPR 2022) on maps [B, H, W, D]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.scale = LayerScale(width)

    def forward(self, maps: Tensor) -> Tensor:
        x = self.spatial(maps.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return maps + self.scale(self.fc2(functional.gelu(self.fc1(self.norm(x)))))  # type: ignore[no-any-return]


class Shrink(nn.Module):
    """Maps [B, H, W, D] to 7 x 7 tokens [B, 49, D] in `steps` halvings, with a convolution before each."""

    def __init__(self, width: int, steps: int) -> None:
        super().__init__()
        self.side = SIDE << steps
        self.steps = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
                    nn.Conv2d(width, width, 1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.GELU(),
                    nn.AvgPool2d(2),
                )
                for _ in range(steps)
            )
        )

    def forward(self, maps: Tensor) -> Tensor:
        x = maps.permute(0, 3, 1, 2)
        if x.shape[2:] != (self.side, self.side):
            x = functional.interpolate(x, (self.side, self.side), mode="bilinear", align_corners=False)
        return self.steps(x).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Multi-head attention of tokens [B, N, D] to others [B, M, D]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, others: Tensor) -> Tensor:
        batch, _, width = tokens.shape
        q, k, v = (
            x.view(batch, x.shape[1], self.heads, -1).transpose(1, 2)
            for x in (self.q(tokens), *self.kv(others).split(width, dim=-1))
        )
        seen = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(seen.transpose(1, 2).reshape(tokens.shape))  # type: ignore[no-any-return]


class Mixer(nn.Module):
    """Tokens [B, 49, D] mixed over places, then over channels (Tolstikhin et al., NeurIPS 2021); the paper's `mix`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.places = nn.Sequential(nn.Linear(SIDE**2, SIDE**2), nn.GELU(), nn.Linear(SIDE**2, SIDE**2))
        self.norm2 = nn.LayerNorm(width)
        self.channels = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        x = tokens + self.places(self.norm1(tokens).mT).mT
        return x + self.channels(self.norm2(x))  # type: ignore[no-any-return]


class Gated(nn.Module):
    """An MLP whose output is gated by channel and by place (LightViT's bi-dimensional attention), [B, H, W, D]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.norm = nn.LayerNorm(width)
        narrow = width // REDUCED
        self.whole = nn.Linear(width, narrow)
        self.each = nn.Linear(width, narrow)
        self.channel = nn.Linear(narrow, width)
        self.place = nn.Linear(2 * narrow, 1)

    def forward(self, maps: Tensor) -> Tensor:
        x = self.fc2(functional.gelu(self.fc1(maps)))
        normed = self.norm(x)
        whole = functional.gelu(self.whole(normed.mean((1, 2), keepdim=True)))
        each = functional.gelu(self.each(normed))
        place = self.place(torch.cat([each, whole.expand(*each.shape[:3], -1)], dim=-1))
        return x * torch.sigmoid(self.channel(whole)) * torch.sigmoid(place)  # type: ignore[no-any-return]


class Block(nn.Module):
    """One dual token block: image tokens [B, H, W, D] and global tokens [B, 49, D], both changed."""

    def __init__(self, width: int, heads: int, steps: int) -> None:
        super().__init__()
        self.local = ConvEncoder(width)
        self.shrink = Shrink(width, steps)
        self.norm1 = nn.LayerNorm(width)
        self.aggregate = Attention(width, heads)
        self.mixer = Mixer(width)
        self.weights = nn.Parameter(torch.ones(2))
        self.norm2 = nn.LayerNorm(width)
        self.norm_global = nn.LayerNorm(width)
        self.broadcast = Attention(width, heads)
        self.norm3 = nn.LayerNorm(width)
        self.mlp = Gated(width)

    def forward(self, maps: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        local = self.local(maps)
        shrunk = self.norm1(self.shrink(local))
        found = self.mixer(self.aggregate(shrunk, shrunk))
        tokens = self.weights[0] * found + self.weights[1] * tokens
        seen = self.broadcast(self.norm2(local).flatten(1, 2), self.norm_global(tokens))
        fused = local + seen.view(local.shape)
        return fused + self.mlp(self.norm3(fused)), tokens


class DualTokenViT(Encoder):
    """Tokens are the cells of the last map, 1/32 of the image; their mean is the pooled vector.

    Args:
        size: widths, depths and heads of the three stages.
        normalisation: mean and deviation of its images.
    """

    def __init__(self, size: DualTokenSize, normalisation: Normalisation = IMAGENET) -> None:
        super().__init__(size.widths[-1], normalisation)
        self.stride = FIRST << (len(size.widths) - 1)
        self.stem = Stem(size.widths[0])
        self.tokens = nn.Parameter(torch.empty(1, SIDE**2, size.widths[0]))
        last = len(size.widths) - 1
        self.stages = nn.ModuleList(
            nn.ModuleList(Block(width, heads, last - number) for _ in range(depth))
            for number, (width, depth, heads) in enumerate(zip(size.widths, size.depths, size.heads, strict=True))
        )
        pairs = list(itertools.pairwise(size.widths))
        self.merge = nn.ModuleList(Merge(a, b) for a, b in pairs)
        self.widen = nn.ModuleList(nn.Sequential(nn.LayerNorm(a), nn.Linear(a, b, bias=False)) for a, b in pairs)
        self.norm = nn.LayerNorm(size.widths[-1])
        self.apply(_initialise)
        nn.init.trunc_normal_(self.tokens, std=0.02)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return whole_cells(height, width, self.stride)

    def symmetries(self) -> tuple[Symmetry, ...]:
        """None, on purpose: the global tokens know their place."""
        return nothing_kept(self.stride)

    def encode(self, images: Tensor) -> Features:
        maps = self.stem(images)
        tokens = self.tokens.repeat(len(maps), 1, 1)
        for number, stage in enumerate(self.stages):
            if number:
                maps, tokens = self.merge[number - 1](maps), self.widen[number - 1](tokens)
            for block in stage:  # type: ignore[attr-defined]
                maps, tokens = block(maps, tokens)
        features = self.norm(maps).flatten(1, 2)
        return Features(features, features.mean(1))


def _initialise(module: nn.Module) -> None:
    initialise_linear(module)
    if isinstance(module, LayerScale):
        nn.init.constant_(module.gamma, 1e-1)
