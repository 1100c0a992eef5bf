"""Vision transformer (Dosovitskiy et al., 2021, section 3.1) with fused attention, for any image size.

Parameter names are those of timm, MAE and DINOv2 checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision.encoders.base import IMAGENET, Encoder, Features, Normalisation, whole_cells
from robovision.symmetry.claims import Symmetry, nothing_kept
from robovision.symmetry.data import Tokens
from robovision.symmetry.groups import shifts, turns


@dataclass(frozen=True)
class ViTSize:
    """Width (channels a token), number of blocks and of attention heads."""

    width: int
    depth: int
    heads: int


SIZES = {
    "micro": ViTSize(64, 2, 2),
    "tiny": ViTSize(192, 12, 3),
    "small": ViTSize(384, 12, 6),
    "base": ViTSize(768, 12, 12),
    "large": ViTSize(1024, 24, 16),
}


@dataclass(frozen=True)
class ViTStyle:
    """By what the published families differ."""

    eps: float = 1e-6
    """Added to the variance in every layer norm."""
    quick_gelu: bool = False
    """x * sigmoid(1.702 x) in place of GELU, as OpenAI's CLIP was trained."""
    pre_norm: bool = False
    """A layer norm between the position embedding and block 1, and patches projected without bias (CLIP)."""
    layer_scale: bool = False
    """A learned factor for each channel of what attention and MLP add (DINOv2)."""
    registers: int = 0
    """Extra tokens without position that collect global information (Darcet et al., ICLR 2024)."""
    antialias: bool = False
    """Smooth the position embedding when a smaller image makes it shrink (DINOv2 with registers)."""


PLAIN = ViTStyle()


class PatchEmbed(nn.Module):
    """Cuts an image into patches and projects each to a token: [B, 3, H, W] -> [B, N, D]."""

    def __init__(self, width: int, patch: int, bias: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch, bias=bias)
        self.patch = patch

    def symmetries(self) -> tuple[Symmetry, ...]:
        cells = Tokens(self.patch)
        return Symmetry(shifts(self.patch), "exact", outputs=cells), Symmetry(turns("C4"), "none", outputs=cells)

    def forward(self, images: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and self.proj.weight.requires_grad):
            return self.proj(images).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]
        p = self.patch  # the gradient of a product of matrices is far quicker on a CPU than a convolution's
        b, colours, height, width = images.shape
        cut = images.reshape(b, colours, height // p, p, width // p, p).permute(0, 2, 4, 1, 3, 5)
        return functional.linear(cut.flatten(3).flatten(1, 2), self.proj.weight.flatten(1), self.proj.bias)


class Attention(nn.Module):
    """Multi-head self-attention over tokens [B, N, D]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv: nn.Module = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        out = _attend(*self._heads(x))
        return self.proj(out.transpose(1, 2).reshape(x.shape))  # type: ignore[no-any-return]

    def weights(self, x: Tensor) -> Tensor:
        """How much each token [B, N, D] attends to each, [B, heads, N, N]; the rows sum to 1."""
        q, k, _ = self._heads(x)
        scores: Tensor = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        return scores.softmax(-1)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [B, heads, N, D / heads]."""
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        return q, k, v


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention. What learns on a CPU does so in float32: in bfloat16 the fused kernel's backward takes 5x."""
    if q.device.type != "cpu" or not (torch.is_grad_enabled() and q.requires_grad):
        return functional.scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", enabled=False):
        full = torch.float32 if q.dtype == torch.bfloat16 else q.dtype
        return functional.scaled_dot_product_attention(q.to(full), k.to(full), v.to(full)).to(q.dtype)


class MLP(nn.Module):
    """Two layers, four times as wide in between, GELU or QuickGELU."""

    def __init__(self, width: int, quick_gelu: bool) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.quick_gelu = quick_gelu

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        x = x * torch.sigmoid(1.702 * x) if self.quick_gelu else functional.gelu(x)
        return self.fc2(x)  # type: ignore[no-any-return]


class LayerScale(nn.Module):
    """A learned factor for each channel (Touvron et al., ICCV 2021, CaiT)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm transformer block: x + scale(attention(norm(x))), then x + scale(MLP(norm(x)))."""

    def __init__(self, size: ViTSize, style: ViTStyle) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(size.width, style.eps)
        self.attn = Attention(size.width, size.heads)
        self.ls1 = LayerScale(size.width) if style.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(size.width, style.eps)
        self.mlp = MLP(size.width, style.quick_gelu)
        self.ls2 = LayerScale(size.width) if style.layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


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
        style: by what the published families differ.
        normalisation: mean and deviation of its images.
    """

    def __init__(
        self,
        size: ViTSize,
        patch: int = 16,
        image_size: int = 224,
        injector: Injector | None = None,
        style: ViTStyle = PLAIN,
        normalisation: Normalisation = IMAGENET,
    ) -> None:
        super().__init__(size.width, normalisation)
        self.patch = patch
        self.side = image_size // patch
        self.style = style
        self.patch_embed = PatchEmbed(size.width, patch, bias=not style.pre_norm)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, size.width))
        if style.registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, style.registers, size.width))
        self.pos_embed = nn.Parameter(sincos_positions(self.side, size.width))
        self.norm_pre = nn.LayerNorm(size.width, style.eps) if style.pre_norm else nn.Identity()
        self.injector = injector
        self.blocks = nn.Sequential(*(Block(size, style) for _ in range(size.depth)))
        self.norm = nn.LayerNorm(size.width, style.eps)
        nn.init.normal_(self.cls_token, std=0.02)
        for part in (self.patch_embed, self.blocks):
            part.apply(_initialise)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return whole_cells(height, width, self.patch)

    def symmetries(self) -> tuple[Symmetry, ...]:
        """None: absolute positions break it, and so do the borders, to which every token attends."""
        return nothing_kept(self.patch)

    def encode(self, images: Tensor) -> Features:
        prefix = 1 + self.style.registers
        tokens = self.norm(self.blocks(self.embed(images)))
        return Features(tokens[:, prefix:], tokens[:, 0])

    def embed(self, images: Tensor) -> Tensor:
        """What block 1 gets, [B, 1 + registers + N, D]: class token, registers, patches."""
        grid = self.grid(images.shape[2], images.shape[3])
        positions = self.positions(grid)
        tokens = self.norm_pre(self.patch_embed(images) + positions[:, 1:])
        if self.injector is not None:
            tokens = self.injector(tokens, images, grid)
        prefix = [self.norm_pre(self.cls_token + positions[:, :1])]
        if self.style.registers:
            prefix.append(self.register_tokens)
        return torch.cat([*(token.expand(tokens.shape[0], -1, -1) for token in prefix), tokens], dim=1)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """The position embedding [1, 1 + N, D] for a grid of (rows, columns), class token first."""
        return resize_positions(self.pos_embed, (self.side, self.side), grid, self.style.antialias)


def resize_positions(
    positions: Tensor, grid: tuple[int, int], wanted: tuple[int, int], antialias: bool = False
) -> Tensor:
    """A position embedding [1, 1 + rows * columns, D] of one grid for another (bicubic); class token first."""
    if grid == wanted:
        return positions
    patches = positions[:, 1:].reshape(1, *grid, -1).permute(0, 3, 1, 2)
    resized = functional.interpolate(patches, wanted, mode="bicubic", align_corners=False, antialias=antialias)
    return torch.cat([positions[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)


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
