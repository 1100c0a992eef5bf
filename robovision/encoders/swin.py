"""Swin Transformer (Liu et al., ICCV 2021) and CoSwin, which adds a convolution beside each window attention.

CoSwin's code is not public; built from its description: depthwise 3 x 3 convolution, batch norm and ReLU on the same
normalised maps, summed with the attention. With that branch at zero it is Swin exactly. Windows are fixed to the
grid, so neither is equivariant to shifts by less than a window of the last map; by whole ones both are, far from the
border.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision.encoders.base import IMAGENET, Encoder, Features, Normalisation, initialise_linear, whole_cells
from robovision.symmetry import claims
from robovision.symmetry.claims import Symmetry, nothing_kept
from robovision.symmetry.data import Tokens
from robovision.symmetry.groups import shifts

PATCH = 4
HIDDEN = float("-inf")


@dataclass(frozen=True)
class SwinSize:
    """Channels and heads of the first stage, which double at each; blocks of each stage; side of a window in tokens."""

    width: int
    heads: int
    depths: tuple[int, ...]
    window: int = 7


SIZES = {"tiny": SwinSize(96, 3, (2, 2, 6, 2)), "small": SwinSize(96, 3, (2, 2, 18, 2))}


class WindowAttention(nn.Module):
    """Multi-head attention within windows of maps [B, H, W, D], shifted or not, with a relative position bias."""

    offsets: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.qkv = nn.Linear(width, 3 * width)
        self.bias = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.proj = nn.Linear(width, width)
        nn.init.trunc_normal_(self.bias, std=0.02)
        self.register_buffer("offsets", _offsets(window), persistent=False)

    def forward(self, maps: Tensor, shift: int) -> Tensor:
        """What each token sees of its window; windows begin `shift` tokens before the corner."""
        rows, columns = maps.shape[1:3]
        padded = _pad(maps, -rows % self.window, -columns % self.window)
        height, width = padded.shape[1:3]
        shift = shift if min(rows, columns) > self.window else 0
        windows = self._cut(_roll(padded, -shift))
        seen = self._attend(windows, self._mask(height, width, shift, maps))
        whole = _roll(self._join(seen, height, width), shift)
        return whole[:, :rows, :columns]

    def _attend(self, windows: Tensor, mask: Tensor) -> Tensor:
        """Windows [B, windows, N, D] with a mask [windows or 1, 1, N, N] over which the bias comes."""
        b, count, n, d = windows.shape
        q, k, v = self.qkv(windows).view(b * count, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        whole = self.bias[self.offsets].permute(2, 0, 1) + mask
        if len(mask) > 1:
            whole = whole.expand(b, -1, -1, -1, -1).flatten(0, 1)
        seen = functional.scaled_dot_product_attention(q, k, v, whole)
        return self.proj(seen.transpose(1, 2).reshape(b, count, n, d))  # type: ignore[no-any-return]

    def _mask(self, height: int, width: int, shift: int, maps: Tensor) -> Tensor:
        """-inf between tokens that were brought together from opposite borders, [windows, 1, N, N]; 0 unshifted."""
        if shift == 0:
            return maps.new_zeros(1, 1, 1, 1)
        regions = [torch.zeros(side, dtype=torch.long, device=maps.device) for side in (height, width)]
        for region in regions:
            region[-self.window : -shift], region[-shift:] = 1, 2
        label = self._cut((3 * regions[0][:, None] + regions[1])[None, :, :, None])[0, :, :, 0]
        apart = label[:, None, :] != label[:, :, None]
        return maps.new_zeros(apart.shape).masked_fill_(apart, HIDDEN)[:, None]

    def _cut(self, maps: Tensor) -> Tensor:
        """Maps [B, H, W, D] as windows [B, windows, window^2, D]."""
        b, h, w, d = maps.shape
        side = self.window
        cut = maps.view(b, h // side, side, w // side, side, d).transpose(2, 3)
        return cut.reshape(b, -1, side * side, d)

    def _join(self, windows: Tensor, height: int, width: int) -> Tensor:
        b, _, _, d = windows.shape
        side = self.window
        return (
            windows.view(b, height // side, width // side, side, side, d).transpose(2, 3).reshape(b, height, width, d)
        )


class ConvBranch(nn.Module):
    """Depthwise 3 x 3 convolution, batch norm and ReLU on maps [B, H, W, D]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, maps: Tensor) -> Tensor:
        return functional.relu(self.norm(self.conv(maps.permute(0, 3, 1, 2)))).permute(0, 2, 3, 1)


class Block(nn.Module):
    """Pre-norm block: x + attention(norm(x)) + branch(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, width: int, heads: int, window: int, shift: int, branch: bool) -> None:
        super().__init__()
        self.shift = shift
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, window)
        self.branch = ConvBranch(width) if branch else None
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        mixed = self.attn(normed, self.shift)
        x = x + (mixed if self.branch is None else mixed + self.branch(normed))
        return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))  # type: ignore[no-any-return]


class Merge(nn.Module):
    """Four neighbours to one token of twice the width: maps [B, H, W, D] -> [B, H / 2, W / 2, 2 D]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = _pad(x, x.shape[1] % 2, x.shape[2] % 2)
        corners = [x[:, down::2, right::2] for right in (0, 1) for down in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))  # type: ignore[no-any-return]


class Swin(Encoder):
    """Tokens are the cells of the last map, 1/32 of the image with four stages; their mean is the pooled vector.

    Args:
        size: widths, heads, depths and window.
        branch: whether the convolution branch of CoSwin is there.
        normalisation: mean and deviation of its images.
    """

    def __init__(self, size: SwinSize, branch: bool = False, normalisation: Normalisation = IMAGENET) -> None:
        widths = [size.width << k for k in range(len(size.depths))]
        super().__init__(widths[-1], normalisation)
        self.size = size
        self.stride = PATCH << (len(size.depths) - 1)
        self.patch_embed = nn.Conv2d(3, size.width, PATCH, PATCH)
        self.patch_norm = nn.LayerNorm(size.width)
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(Block(w, size.heads << k, size.window, (n % 2) * (size.window // 2), branch) for n in range(depth))
            )
            for k, (w, depth) in enumerate(zip(widths, size.depths, strict=True))
        )
        self.merge = nn.ModuleList(Merge(a) for a, _ in itertools.pairwise(widths))
        self.norm = nn.LayerNorm(widths[-1])
        self.apply(initialise_linear)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return whole_cells(height, width, self.stride)

    def symmetries(self) -> tuple[Symmetry, ...]:
        """None by a cell of the last map, whose windows stay where they are; by whole windows, at inner cells."""
        windows, cells = shifts(self.stride * self.size.window), Tokens(self.stride)
        kept = Symmetry(windows, "interior", outputs=cells, margin=self._reach(), part=claims.tokens)
        return kept, *nothing_kept(self.stride)

    def encode(self, images: Tensor) -> Features:
        x = self.patch_norm(self.patch_embed(images).permute(0, 2, 3, 1))
        for number, stage in enumerate(self.stages):
            x = stage(x if number == 0 else self.merge[number - 1](x))
        tokens = self.norm(x).flatten(1, 2)
        return Features(tokens, tokens.mean(1))

    def _reach(self) -> int:
        """Cells of the last map that a cell sees to each side: in each block those of a window but one."""
        pixels = sum(depth * (self.size.window - 1) * (PATCH << k) for k, depth in enumerate(self.size.depths))
        return -(-pixels // self.stride)


def _pad(maps: Tensor, below: int, right: int) -> Tensor:
    """Maps [B, H, W, D] with so many rows and columns of zeros added; the same ones, not a copy, without any."""
    return functional.pad(maps, (0, 0, 0, right, 0, below)) if below or right else maps


def _roll(maps: Tensor, by: int) -> Tensor:
    """Maps [B, H, W, D] shifted around by so many rows and columns; the same ones, not a copy, by none."""
    return maps.roll((by, by), (1, 2)) if by else maps


def _offsets(window: int) -> Tensor:
    """The row of the bias table for each pair of tokens of a window, [window^2, window^2]."""
    axis = torch.arange(window)
    y, x = (grid.flatten() for grid in torch.meshgrid(axis, axis, indexing="ij"))
    down, right = (place[:, None] - place[None, :] + window - 1 for place in (y, x))
    return down * (2 * window - 1) + right
