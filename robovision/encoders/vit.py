"""Vision transformer (Dosovitskiy et al., 2021, section 3.1) with fused attention, for any image size.

Parameter names are those of timm and MAE checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision.encoders.base import Encoder, Features


@dataclass(frozen=True)
class ViTSize:
    """Width (channels a token), number of blocks and of attention heads."""

    width: int
    depth: int
    heads: int


SIZES = {
    "tiny": ViTSize(192, 12, 3),
    "small": ViTSize(384, 12, 6),
    "base": ViTSize(768, 12, 12),
    "large": ViTSize(1024, 24, 16),
}


class PatchEmbed(nn.Module):
    """Cuts an image into patches and projects each to a token: [B, 3, H, W] -> [B, N, D]."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Multi-head self-attention over tokens [B, N, D]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        out = _attend(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(b, n, d))  # type: ignore[no-any-return]


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention. On the CPU always in float32: the fused kernel's backward is 5x slower in bfloat16."""
    if q.device.type != "cpu":
        return functional.scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", enabled=False):
        full = torch.float32 if q.dtype == torch.bfloat16 else q.dtype
        return functional.scaled_dot_product_attention(q.to(full), k.to(full), v.to(full))


class MLP(nn.Module):
    """Two layers, four times as wide in between, GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, 1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, 1e-6)
        self.mlp = MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class Injector(nn.Module):
    """Changes the patch tokens [B, N, D] of `images` just before block 1; see `robovision.encoders.coin`."""

    def forward(self, tokens: Tensor, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """The changed tokens, same shape; `grid` is the tokens' (rows, columns)."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it changes the tokens")


class ViT(Encoder):
    """A vision transformer whose pooled vector is the class token after the last norm.

    Args:
        size: width, depth and heads.
        patch: side of a patch in pixels.
        image_size: side of the image in pixels that the position embedding is made for; it is resized
            (bicubic) for any other.
        injector: changes the patch tokens just before block 1, or nothing.
    """

    def __init__(self, size: ViTSize, patch: int = 16, image_size: int = 224, injector: Injector | None = None) -> None:
        super().__init__(size.width)
        self.patch = patch
        self.side = image_size // patch
        self.patch_embed = PatchEmbed(size.width, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, size.width))
        self.pos_embed = nn.Parameter(sincos_positions(self.side, size.width))
        self.injector = injector
        self.blocks = nn.Sequential(*(Block(size.width, size.heads) for _ in range(size.depth)))
        self.norm = nn.LayerNorm(size.width, 1e-6)
        nn.init.normal_(self.cls_token, std=0.02)
        for part in (self.patch_embed, self.blocks):
            part.apply(_initialise)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        if height % self.patch or width % self.patch:
            raise ValueError(f"image sides must be multiples of the patch, {self.patch} px, got {height} x {width}")
        return height // self.patch, width // self.patch

    def encode(self, images: Tensor) -> Features:
        grid = self.grid(images.shape[2], images.shape[3])
        positions = self.positions(grid)
        tokens = self.patch_embed(images) + positions[:, 1:]
        if self.injector is not None:
            tokens = self.injector(tokens, images, grid)
        cls = (self.cls_token + positions[:, :1]).expand(len(tokens), -1, -1)
        tokens = self.norm(self.blocks(torch.cat([cls, tokens], dim=1)))
        return Features(tokens[:, 1:], tokens[:, 0])

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """The position embedding [1, 1 + N, D] for a grid of (rows, columns), class token first."""
        if grid == (self.side, self.side):
            return self.pos_embed
        square = self.pos_embed[:, 1:].reshape(1, self.side, self.side, -1).permute(0, 3, 1, 2)
        resized = functional.interpolate(square, grid, mode="bicubic", align_corners=False)
        return torch.cat([self.pos_embed[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)


def sincos_positions(side: int, width: int) -> Tensor:
    """Sine-cosine embedding [1, 1 + side * side, width] of grid positions; the class token's is 0.

    Half of the channels encode the column, half the row (He et al., 2022, MAE, appendix A.1).
    """
    frequency = 10000.0 ** (-torch.arange(width // 4) / (width / 4))
    angle = torch.arange(side)[:, None] * frequency
    axis = torch.cat([angle.sin(), angle.cos()], dim=1)
    columns = axis[None].expand(side, -1, -1)
    rows = axis[:, None].expand(-1, side, -1)
    embedding = torch.cat([columns, rows], dim=2).flatten(0, 1)
    return torch.cat([torch.zeros(1, width), embedding])[None]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
