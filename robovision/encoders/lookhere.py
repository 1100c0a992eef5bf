"""LookHere (Fuller et al., "LookHere: Vision transformers with directed attention generalize and extrapolate", NeurIPS
2024): no position embedding; each head looks in its own direction and less far the steeper its slope.

Logits get -slope * |p_k - p_q|, distances in patches, and -inf outside the head's field of view. That depends on the
offset alone, so that one table [heads, 2 rows - 1, 2 columns - 1] holds all of it; the mask of N x N numbers that the
fused attention wants is cut from it a few query rows at a time. The class token sees and is seen without bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision.encoders.base import IMAGENET, Encoder, Features, Normalisation, whole_cells
from robovision.encoders.vit import MLP, LayerScale, PatchEmbed, ViTSize
from robovision.errors import UsageError
from robovision.symmetry.claims import Symmetry, nothing_kept

View = Literal[45, 90, 180]
"""Degrees that a directed head sees."""

DIRECTED = 2 / 3
"""Share of the heads that look in a direction, in whole groups of four; the others see all around."""
UNDIRECTED_SLOPE = 4
LAYER_SLOPES = 1.5, 0.5
"""Factors of the slopes of the first block and of the last, linear in between."""
CHUNK = 1 << 21
"""Numbers of the mask that are held at once."""


@dataclass(frozen=True)
class Sector:
    """The offsets that a head sees: from one angle to another, radians, counter-clockwise, borders included."""

    start: float
    width: float

    def holds(self, down: Tensor, right: Tensor) -> Tensor:
        """Whether it sees the keys at these offsets from the query; the query itself always."""
        angle = torch.atan2(-down, right) - self.start
        within = (angle + 1e-6) % (2 * math.pi) <= self.width + 2e-6
        return within | ((down == 0) & (right == 0))


def sectors(view: View, count: int) -> list[Sector]:
    """The sectors of `count` directed heads: in turn those that tile the circle, beginning at the top or its right.

    Halves (180 degrees) look up, left, down, right; corners (90) and eighths (45) lie next to each other.
    """
    width = math.radians(view)
    step = math.pi / 2 if view >= 90 else math.pi / 4
    return [Sector((k * step) % (2 * math.pi), width) for k in range(count)]


def offset_table(view: View, heads: int, grid: tuple[int, int]) -> Tensor:
    """What block 1 would add at a slope of 1, by the key's row and column less the query's: [heads, 2R-1, 2C-1]."""
    down, right = (torch.arange(1 - side, side, dtype=torch.float32) for side in grid)
    y, x = torch.meshgrid(down, right, indexing="ij")
    directed = directed_heads(heads)
    slopes = [2.0 ** -(1 + k // 4) for k in range(directed)]
    slopes += [float(UNDIRECTED_SLOPE) ** -(1 + k) for k in range(heads - directed)]
    table = -torch.tensor(slopes)[:, None, None] * torch.hypot(y, x)
    for head, sector in enumerate(sectors(view, directed)):
        table[head].masked_fill_(~sector.holds(y, x), float("-inf"))
    return table


def directed_heads(heads: int) -> int:
    """How many of the heads look in a direction: 8 of 12."""
    return round(heads * DIRECTED / 4) * 4


class DirectedAttention(nn.Module):
    """Self-attention over a class token and a grid of patches [B, 1 + R C, D], biased by an offset table."""

    def __init__(self, width: int, heads: int, slope: float) -> None:
        super().__init__()
        self.heads = heads
        self.slope = slope
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """What each token sees; `table` is that of `offset_table`."""
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        seen = directed_attention(q, k, v, (self.slope * table).to(q.dtype))
        return self.proj(seen.transpose(1, 2).reshape(b, n, d))  # type: ignore[no-any-return]


def directed_attention(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    """Attention of a class token and a grid of patches to themselves; q, k and v are [B, heads, 1 + R C, d].

    To keys in backward order the masks of consecutive queries are overlapping windows of the mirrored table: a view.
    """
    heads, rows, columns = table.shape[0], (table.shape[1] + 1) // 2, (table.shape[2] + 1) // 2
    windows = table.flip(1, 2).unfold(1, rows, 1).unfold(2, columns, 1)  # [heads, R, C, R, C]
    k, v = k.flip(2), v.flip(2)
    at_once = max(1, CHUNK // (heads * columns * rows * columns))
    parts = [functional.scaled_dot_product_attention(q[:, :, :1], k, v)]
    queries, masks = torch.split(q[:, :, 1:], at_once * columns, dim=2), torch.split(windows, at_once, dim=1)
    for chosen, some in zip(queries, masks, strict=True):
        mask = table.new_empty(1, heads, chosen.shape[2], 1 + rows * columns)
        mask[..., -1] = 0
        mask[0, :, :, :-1].view(some.shape).copy_(some)
        parts.append(functional.scaled_dot_product_attention(chosen, k, v, mask))
    return torch.cat(parts, dim=2)


class Block(nn.Module):
    """Pre-norm block with layer scale (DeiT III): x + scale(attention(norm(x))), then x + scale(MLP(norm(x)))."""

    def __init__(self, size: ViTSize, slope: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(size.width, 1e-6)
        self.attn = DirectedAttention(size.width, size.heads, slope)
        self.ls1 = LayerScale(size.width)
        self.norm2 = nn.LayerNorm(size.width, 1e-6)
        self.mlp = MLP(size.width, quick_gelu=False)
        self.ls2 = LayerScale(size.width)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), table))
        return x + self.ls2(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


class LookHere(Encoder):
    """A vision transformer with directed heads, whose pooled vector is the class token after the last norm.

    Args:
        size: width, depth and heads; the paper's has 12 heads.
        patch: side of a patch in pixels.
        view: degrees that a directed head sees.
        normalisation: mean and deviation of its images.
        scale: initial value of the layer scale; DeiT III starts at 1e-4 for long trainings.

    Raises:
        UsageError: for fewer than 6 heads, of which none would look in a direction.
    """

    def __init__(
        self,
        size: ViTSize,
        patch: int = 16,
        view: View = 90,
        normalisation: Normalisation = IMAGENET,
        scale: float = 1e-4,
    ) -> None:
        super().__init__(size.width, normalisation)
        if not directed_heads(size.heads):
            raise UsageError(f"LookHere needs at least 4 heads, so that four of them look somewhere; got {size.heads}")
        self.patch = patch
        self.view: View = view
        self.heads = size.heads
        self.patch_embed = PatchEmbed(size.width, patch, bias=True)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, size.width))
        first, last = LAYER_SLOPES
        slopes = [first + (last - first) * k / max(1, size.depth - 1) for k in range(size.depth)]
        self.blocks = nn.ModuleList(Block(size, slope) for slope in slopes)
        self.norm = nn.LayerNorm(size.width, 1e-6)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.apply(lambda module: _initialise(module, scale))

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return whole_cells(height, width, self.patch)

    def symmetries(self) -> tuple[Symmetry, ...]:
        """None: the bias is the same at every place, but the class token and far tokens see the border."""
        return nothing_kept(self.patch)

    def encode(self, images: Tensor) -> Features:
        table = offset_table(self.view, self.heads, self.grid(*images.shape[2:])).to(images)
        patches = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        for block in self.blocks:
            x = block(x, table)
        x = self.norm(x)
        return Features(x[:, 1:], x[:, 0])


def _initialise(module: nn.Module, scale: float) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, LayerScale):
        nn.init.constant_(module.gamma, scale)
