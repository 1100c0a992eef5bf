"""Neighbourhood attention (Hassani et al., "Neighborhood attention transformer", CVPR 2023, section 3) in plain torch.

Each token attends to the k x k tokens around it; next to a border the window stays whole and shifts inwards. Time and
memory are linear in the number of tokens: queries are taken in square tiles, and each tile attends, by fused
attention with a mask, to the tokens that its windows cover.

On an NVIDIA GPU natten's kernels are used if it is installed and there is no relative position bias, which natten has
none of since 0.20. Everything else is computed here.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision.errors import UsageError

TILE = 4
"""Queries on each side of a tile."""


class NeighborhoodAttention(nn.Module):
    """Multi-head attention of each cell of maps [B, H, W, D] to its neighbourhood, with a relative position bias.

    Args:
        width: channels D.
        heads: attention heads.
        kernel: side k of the neighbourhood in cells, odd.
        relative_bias: whether offsets have a learned bias; without it natten can be used.

    Raises:
        UsageError: for an even kernel, or a width that the heads don't divide; in use, for maps smaller than k x k.
    """

    def __init__(self, width: int, heads: int, kernel: int = 7, relative_bias: bool = True) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise UsageError(f"the kernel of a neighbourhood must be odd, got {kernel}")
        if width % heads:
            raise UsageError(f"width {width} is not divisible by {heads} heads")
        self.heads = heads
        self.kernel = kernel
        self.qkv = nn.Linear(width, 3 * width)
        self.rpb = nn.Parameter(torch.zeros(heads, 2 * kernel - 1, 2 * kernel - 1)) if relative_bias else None
        self.proj = nn.Linear(width, width)
        if self.rpb is not None:
            nn.init.trunc_normal_(self.rpb, std=0.02)

    def forward(self, maps: Tensor) -> Tensor:
        batch, rows, columns, width = maps.shape
        check_window(self.kernel, rows, columns)
        q, k, v = self.qkv(maps).view(batch, rows, columns, 3, self.heads, -1).permute(3, 0, 4, 1, 2, 5)
        seen = neighborhood_attention(q, k, v, self.rpb, self.kernel)
        return self.proj(seen.permute(0, 2, 3, 1, 4).reshape(batch, rows, columns, width))  # type: ignore[no-any-return]


def check_window(kernel: int, rows: int, columns: int) -> None:
    """Raise UsageError for a grid smaller than the neighbourhood."""
    if rows < kernel or columns < kernel:
        raise UsageError(
            f"a grid of {rows} x {columns} tokens is smaller than the neighbourhood of {kernel} x {kernel}: "
            "use larger images or a smaller kernel"
        )


def neighborhood_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, kernel: int) -> Tensor:
    """What each query sees of its neighbourhood: softmax(q k / sqrt(d) + bias) v.

    Args:
        q: queries [B, heads, H, W, d]; k and v alike.
        bias: [heads, 2 kernel - 1, 2 kernel - 1], by the key's row and column less the query's; the middle is the
            query itself. None: no bias.
        kernel: side of the neighbourhood.
    """
    if bias is None and _on_gpu(q) and importlib.util.find_spec("natten") is not None:
        return by_natten(q, k, v, kernel)
    table = q.new_zeros(q.shape[1], 2 * kernel - 1, 2 * kernel - 1) if bias is None else bias
    return _in_tiles(q, k, v, table, kernel)


def by_natten(q: Tensor, k: Tensor, v: Tensor, kernel: int) -> Tensor:
    """`neighborhood_attention` without bias by natten, which must be installed; its layout is [B, H, W, heads, d]."""
    from natten import na2d  # type: ignore[import-not-found]  # optional

    seen: Tensor = na2d(*(x.permute(0, 2, 3, 1, 4).contiguous() for x in (q, k, v)), kernel_size=kernel)
    return seen.permute(0, 3, 1, 2, 4)


def _on_gpu(maps: Tensor) -> bool:
    return maps.is_cuda


def _in_tiles(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, kernel: int) -> Tensor:
    """The same in plain torch."""
    batch, heads, rows, columns, width = q.shape
    down, right = (_Axis(side, kernel, q.device) for side in (rows, columns))
    tiles = len(down.queries) * len(right.queries)
    queries = _tiles(q, down.queries, right.queries).reshape(batch, heads * tiles, -1, width)
    keys, values = (_tiles(x, down.keys, right.keys).reshape(batch, heads * tiles, -1, width) for x in (k, v))
    mask = _mask(bias, down, right).reshape(1, heads * tiles, queries.shape[2], keys.shape[2])
    seen = functional.scaled_dot_product_attention(queries, keys, values, mask.to(q.dtype))
    seen = seen.view(batch, heads, len(down.queries), len(right.queries), down.tile, right.tile, width)
    whole = seen.transpose(3, 4).reshape(batch, heads, len(down.queries) * down.tile, -1, width)
    return whole[:, :, :rows, :columns]


class _Axis:
    """Tiles along one axis: which queries, which keys, and their offset, or 2 k - 1 where it is outside the window."""

    def __init__(self, length: int, kernel: int, device: torch.device) -> None:
        self.tile = min(TILE, length)
        first = torch.arange(0, length, self.tile, device=device)[:, None]
        span = min(length, self.tile + kernel - 1)
        self.queries = (first + torch.arange(self.tile, device=device)).clamp(max=length - 1)
        self.keys = (first - kernel // 2).clamp(0, length - span) + torch.arange(span, device=device)
        start = (self.queries - kernel // 2).clamp(0, length - kernel)
        within = self.keys[:, None, :] - start[:, :, None]
        offset = self.keys[:, None, :] - self.queries[:, :, None] + kernel - 1
        self.offsets = torch.where((within >= 0) & (within < kernel), offset, 2 * kernel - 1)


def _tiles(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Maps [B, heads, H, W, d] cut into tiles [B, heads, down, right, rows, columns, d], which may overlap."""
    batch, heads, _, across, width = maps.shape
    strips = maps.index_select(2, rows.flatten()).view(batch, heads, *rows.shape, across, width)
    cut = strips.index_select(4, columns.flatten()).view(batch, heads, *rows.shape, *columns.shape, width)
    return cut.transpose(3, 4)


def _mask(bias: Tensor, down: _Axis, right: _Axis) -> Tensor:
    """What is added to each tile's logits, [heads, down, right, queries, keys]: the bias, or -inf outside.

    Most tiles are alike, so that each kind is made once and copied.
    """
    padded = functional.pad(bias, (0, 1, 0, 1), value=float("-inf"))
    rows, row_kind = torch.unique(down.offsets, dim=0, return_inverse=True)
    columns, column_kind = torch.unique(right.offsets, dim=0, return_inverse=True)
    kinds = padded[:, rows][..., columns]  # [heads, rows, tile, span, columns, tile, span]
    kinds = kinds.permute(0, 1, 4, 2, 5, 3, 6).flatten(5).flatten(3, 4)
    return kinds[:, row_kind][:, :, column_kind]
