"""CoIn, the convolution injector (Hwang et al., ICML 2024, arXiv 2406.06072).

A small convolutional network looks at the same image as the ViT; one deformable cross-attention adds what it
sees to the patch tokens just before block 1. The blocks themselves stay untouched. The paper gives the sizes
but no code; the layout follows ViT-Adapter's spatial prior module and injector (Chen et al., ICLR 2023), the
one that gives both of the paper's figures: 3,098,864 parameters at width 768 and 2.17 GMAC at 224 px.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision.encoders.names import ALIASFREE_STRIDE
from robovision.encoders.vit import Injector
from robovision.symmetry.aliasfree import FilteredActivation, KaiserDownsample
from robovision.symmetry.claims import Symmetry
from robovision.symmetry.data import Image
from robovision.symmetry.groups import shifts, turns

LEVELS = 3
CUTOFF = 0.8
"""Of the alias-free variant's filters: with SiLU a third of the plain stem's jitter (`bench claims jitter`)."""
POINTS = 4


class SpatialPrior(nn.Module):
    """Convolutional features of an image at 1/8, 1/16 and 1/32 of its size, each [B, D, H, W], channels last.

    `marks` [LEVELS, D], if given, are added to the maps, one to each. Alias-free, nonlinearities are SiLU, act on a
    grid twice as fine and are filtered, as is what is made coarser.
    """

    def __init__(self, width: int, stem: int, quarter_map: bool, aliasfree: bool = False) -> None:
        super().__init__()
        conv = _filtered_conv if aliasfree else _conv
        pool = KaiserDownsample(cutoff=CUTOFF) if aliasfree else nn.MaxPool2d(3, 2, 1)
        self.aliasfree = aliasfree
        self.stem = nn.Sequential(*conv(3, stem, stride=2), *conv(stem, stem), *conv(stem, stem), pool)
        channels = (stem, 2 * stem, 4 * stem, 4 * stem)
        self.down = nn.ModuleList(nn.Sequential(*conv(a, b, stride=2)) for a, b in itertools.pairwise(channels))
        self.project = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels[1:])
        if quarter_map:
            self.project_quarter = nn.Conv2d(stem, width, 1)

    def symmetries(self) -> tuple[Symmetry, ...]:
        """Shifts by whole cells move the finest map, but for the cells that see the border's zeros."""
        margin = 12 if self.aliasfree else 2
        return (
            Symmetry(shifts(8), "interior", outputs=Image(8), margin=margin, part=lambda maps: maps[0]),
            Symmetry(turns("C4"), "none", outputs=Image(8), part=lambda maps: maps[0]),
        )

    def forward(self, images: Tensor, marks: Tensor | None = None) -> list[Tensor]:
        height, width = images.shape[-2:]
        if self.aliasfree and (height % ALIASFREE_STRIDE or width % ALIASFREE_STRIDE):
            raise ValueError(
                f"image sides must be multiples of {ALIASFREE_STRIDE} px for coin-aliasfree, got {height} x {width}"
            )
        x = _convolve(self.stem, images.contiguous(memory_format=torch.channels_last))  # faster on a CPU
        maps = []
        for level, down in enumerate(self.down):
            x = _convolve(down, x)
            maps.append(_project(self.project[level], x, None if marks is None else marks[level]))
        return maps


class Rectify(nn.Module):
    """ReLU: in place in full precision; in half precision a CPU is three times as quick with a fresh tensor."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x, inplace=x.dtype == torch.float32)


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention (Zhu et al., ICLR 2021, equation 3) in plain PyTorch.

    Each query looks at `POINTS` learned positions around its reference point on each of `LEVELS` maps.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not divisible by {heads} heads")
        self.heads = heads
        self.offsets = nn.Linear(width, heads * LEVELS * POINTS * 2)
        self.weights = nn.Linear(width, heads * LEVELS * POINTS)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self._initialise()

    def _initialise(self) -> None:
        """Offsets start as a radial star, one direction a head, and attention starts uniform."""
        nn.init.zeros_(self.offsets.weight)
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        star = torch.stack([angle.cos(), angle.sin()], dim=1)
        star = star / star.abs().amax(dim=1, keepdim=True)
        reach = torch.arange(1, POINTS + 1).view(1, 1, POINTS, 1)
        bias = star[:, None, None] * reach.expand(self.heads, LEVELS, POINTS, 1)
        with torch.no_grad():
            self.offsets.bias.copy_(bias.flatten())
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, reference: Tensor, values: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
        """What the queries see, [B, Q, D].

        Args:
            query: [B, Q, D].
            reference: [Q, 2], x and y in 0..1 of the image, shared by all levels; in full precision, in which the
                positions are then computed.
            values: [B, sum of H * W, D], the levels' maps flattened row by row, one after the other.
            sizes: (H, W) of each level.
        """
        b, q, d = query.shape
        per_head = LEVELS * POINTS
        offsets = self.offsets(query).view(b, q, self.heads * per_head, 2)
        weights = self.weights(query).view(b, q, self.heads, per_head).softmax(-1)
        extent = _spread(torch.tensor([(w, h) for h, w in sizes]), self.heads).to(query.device)
        place = torch.addcmul(torch.tensor(-0.5), reference[:, None], extent) + offsets
        cells, shares = _corners(place, extent, weights.flatten(2))
        first = torch.tensor([0, *itertools.accumulate(h * w for h, w in sizes)][:-1])
        head = torch.arange(self.heads * per_head).div(per_head, rounding_mode="floor")
        start = (_spread(first, self.heads) * self.heads + head).int().to(query.device)
        batch = torch.arange(b, device=query.device, dtype=torch.int32).view(b, 1, 1) * (values.shape[1] * self.heads)
        start = start + batch
        rows = torch.stack([(cell * self.heads + start).view(weights.shape) for cell in cells], dim=3)
        table = self.value(values).view(-1, d // self.heads)
        share = torch.stack([share.view(weights.shape) for share in shares], dim=3).to(table.dtype)
        seen = _weighted_sum(table, rows.view(b * q * self.heads, -1), share.view(b * q * self.heads, -1))
        return self.output(seen.view(b, q, d).to(query.dtype))  # type: ignore[no-any-return]


def _spread(levels: Tensor, heads: int) -> Tensor:
    """What belongs to the levels [LEVELS, ...], for each point of each head, [heads * LEVELS * POINTS, ...]."""
    return levels.repeat_interleave(POINTS, 0).repeat(heads, *[1] * (levels.ndim - 1))


def _weighted_sum(table: Tensor, rows: Tensor, shares: Tensor) -> Tensor:
    """The sums [B, D] of rows [B, N] of a table [R, D], each times its share [B, N]."""
    if torch.compiler.is_exporting():  # the fused operator has no counterpart in ONNX
        return (functional.embedding(rows.long(), table) * shares[..., None]).sum(1)
    if table.device.type != "cpu" or not table.requires_grad:
        return functional.embedding_bag(rows, table, per_sample_weights=shares, mode="sum")
    seen = functional.embedding_bag(rows, table.detach(), per_sample_weights=shares, mode="sum")
    return _TableGradient.apply(seen, table, rows, shares)  # type: ignore[no-any-return, no-untyped-call]


class _TableGradient(torch.autograd.Function):
    """Hands on what was seen, and the gradient of that to the table: on a CPU far quicker than PyTorch's own."""

    @staticmethod
    def forward(ctx: Any, seen: Tensor, table: Tensor, rows: Tensor, shares: Tensor) -> Tensor:
        ctx.save_for_backward(rows, shares.detach())
        ctx.size = table.shape[0]
        return seen.view_as(seen)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """A row gets the sum of the gradients of all that looked at it, each times its share."""
        (gradient,) = grad_outputs
        rows, shares = ctx.saved_tensors
        order = rows.flatten().sort()[1]
        count = torch.bincount(rows.flatten(), minlength=ctx.size)
        lookers = order.div(rows.shape[1], rounding_mode="floor")
        weights = shares.flatten()[order]
        first = count.cumsum(0) - count
        seen_by = functional.embedding_bag(lookers, gradient, first, per_sample_weights=weights, mode="sum")
        return gradient, seen_by, None, None


def _corners(place: Tensor, extent: Tensor, weights: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The four cells around each place on its map, and what each adds in linear interpolation, 0 outside.

    Args:
        place: [..., N, 2], x and y in cells, the first cell's centre at 0.
        extent: [N, 2], columns and rows of each map.
        weights: [..., N], of each place.

    Returns:
        Numbers of the cells, row by row, int32, and shares of the weights, four of each, [..., N].
    """
    columns, rows = extent.unbind(-1)
    x, y = place.unbind(-1)
    across = _neighbours(x, columns)
    down = [(row * columns.int(), share * weights) for row, share in _neighbours(y, rows)]
    pairs = list(itertools.product(down, across))
    return [row + column for (row, _), (column, _) in pairs], [a * b for (_, a), (_, b) in pairs]


def _neighbours(place: Tensor, size: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The two cells, int32, on either side of places along one side of a map, and the share of each, 0 outside."""
    last = (size - 1).to(place.dtype)
    low = place.detach().floor()
    part = place - low
    both = []
    for near, share in ((low, 1 - part), (low + 1, part)):
        inside = near.clamp_min(0).minimum(last)
        both.append((inside.nan_to_num().int(), share * (near == inside)))  # NaN stays in the shares
    return both


class CoIn(Injector):
    """The convolution injector: tokens + gamma * attention(norm(tokens), norm(convolutional features)).

    Args:
        width: channels of the ViT's tokens.
        stem: channels of the convolution stem; by default a twelfth of the width, which gives the paper's 64
            at width 768 and keeps the injector's share of the cost in smaller ViTs.
        gamma: initial value of the gate. With 0, the paper's choice, the ViT starts exactly as it was
            pretrained; a ViT that starts from random weights learns faster with the gate open.
        quarter_map: also hold the projection of the 1/4 map, which nothing uses but the paper's parameter
            count includes.
        aliasfree: filter what the convolutions would alias; slower, steadier under shifts by parts of a pixel.
    """

    def __init__(
        self,
        width: int,
        stem: int | None = None,
        gamma: float = 0.0,
        quarter_map: bool = False,
        aliasfree: bool = False,
    ) -> None:
        super().__init__()
        self.prior = SpatialPrior(width, width // 12 if stem is None else stem, quarter_map, aliasfree)
        self.level_embed = nn.Parameter(torch.empty(LEVELS, width).normal_())
        self.query_norm = nn.LayerNorm(width, 1e-6)
        self.value_norm = nn.LayerNorm(width, 1e-6)
        self.attention = DeformableAttention(width, heads=max(1, width // 64))
        self.gamma = nn.Parameter(torch.full((width,), gamma))

    def forward(self, tokens: Tensor, images: Tensor, grid: tuple[int, int]) -> Tensor:
        maps = self.prior(images, self.level_embed)
        sizes = [(m.shape[2], m.shape[3]) for m in maps]
        values = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)
        centres = patch_centres(grid).to(tokens.device, torch.promote_types(tokens.dtype, torch.float32))
        seen = self.attention(self.query_norm(tokens), centres, _normalise(self.value_norm, values), sizes)
        return tokens + self.gamma * seen  # type: ignore[no-any-return]


def patch_centres(grid: tuple[int, int]) -> Tensor:
    """Centres [rows * columns, 2] of a grid's cells as x, y in 0..1 of the image, row by row."""
    rows, columns = grid
    y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


def _project(layer: nn.Module, x: Tensor, mark: Tensor | None) -> Tensor:
    """A 1 x 1 convolution and a mark [D] on its result, as one product of matrices: far quicker on a CPU."""
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    bias = layer.bias if mark is None else layer.bias + mark
    return functional.linear(x.permute(0, 2, 3, 1), layer.weight.flatten(1), bias).permute(0, 3, 1, 2)


def _normalise(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """A layer norm that under autocast stays in bfloat16, with sums in float32, instead of being rounded later."""
    if x.device.type != "cpu" or x.dtype != torch.bfloat16:
        return norm(x)  # type: ignore[no-any-return]
    with torch.autocast("cpu", enabled=False):
        return norm(x)  # type: ignore[no-any-return]


def _convolve(layers: nn.Module, x: Tensor) -> Tensor:
    """What the layers of `_conv` make of x; in evaluation, a batch norm is part of the convolution before it."""
    if layers.training:
        return layers(x)  # type: ignore[no-any-return]
    each = list(layers.children())
    for layer, after in itertools.zip_longest(each, each[1:]):
        if isinstance(layer, nn.Conv2d) and isinstance(after, nn.BatchNorm2d):
            assert after.running_mean is not None
            assert after.running_var is not None
            scale = after.weight * (after.running_var + after.eps).rsqrt()
            kernels = layer.weight * scale[:, None, None, None]
            x = functional.conv2d(x, kernels, after.bias - after.running_mean * scale, layer.stride, layer.padding)
        elif not isinstance(layer, nn.BatchNorm2d):
            x = layer(x)
    return x


def _conv(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), Rectify()]


def _filtered_conv(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    """As `_conv` without aliasing: SiLU makes less of it than ReLU, and the stride is taken by a filter after it."""
    convolution = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
    activation = FilteredActivation(functional.silu, filter="kaiser", cutoff=CUTOFF)
    layers: list[nn.Module] = [convolution, nn.BatchNorm2d(outputs), activation]
    return layers if stride == 1 else [*layers, KaiserDownsample(stride, cutoff=CUTOFF)]
