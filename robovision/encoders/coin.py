"""CoIn, the convolution injector (Hwang et al., ICML 2024, arXiv 2406.06072).

A small convolutional network looks at the same image as the ViT; one deformable cross-attention adds what it
sees to the patch tokens just before block 1. The blocks themselves stay untouched. The paper gives the sizes
but no code; the layout follows ViT-Adapter's spatial prior module and injector (Chen et al., ICLR 2023), the
one that gives both of the paper's figures: 3,098,864 parameters at width 768 and 2.17 GMAC at 224 px.
"""

from __future__ import annotations

import itertools
import math

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
        offsets = self.offsets(query).view(b, q, self.heads, LEVELS, POINTS, 2)
        weights = self.weights(query).view(b, q, self.heads, LEVELS * POINTS).softmax(-1)
        extent = torch.tensor([(w, h) for h, w in sizes], device=query.device)
        place = reference[:, None, None, None] * extent[:, None] + offsets - 0.5
        cells, shares = _corners(place, extent)
        shares = shares * weights.view(*offsets.shape[:-1], 1)
        first = torch.tensor([0, *itertools.accumulate(h * w for h, w in sizes)][:-1], device=query.device)
        batch = torch.arange(b, device=query.device).view(b, 1, 1, 1, 1, 1) * values.shape[1]
        head = torch.arange(self.heads, device=query.device).view(-1, 1, 1, 1)
        rows = cells * self.heads + ((batch + first[:, None, None]) * self.heads + head).int()
        table = self.value(values).view(-1, d // self.heads).to(shares.dtype)
        seen = _weighted_sum(table, rows.view(b * q * self.heads, -1), shares.view(b * q * self.heads, -1))
        return self.output(seen.view(b, q, d).to(query.dtype))  # type: ignore[no-any-return]


def _weighted_sum(table: Tensor, rows: Tensor, shares: Tensor) -> Tensor:
    """The sums [B, D] of rows [B, N] of a table [R, D], each times its share [B, N]."""
    if torch.compiler.is_exporting():  # the fused operator has no counterpart in ONNX
        return (functional.embedding(rows.long(), table) * shares[..., None]).sum(1)
    return functional.embedding_bag(rows, table, per_sample_weights=shares, mode="sum")


def _corners(place: Tensor, extent: Tensor) -> tuple[Tensor, Tensor]:
    """The four cells around each place on its map, and the share of each in linear interpolation, 0 outside.

    Args:
        place: [..., LEVELS, POINTS, 2], x and y in cells, the first cell's centre at 0.
        extent: [LEVELS, 2], columns and rows of each map.

    Returns:
        Numbers of the cells, row by row, int32, and shares, both [..., LEVELS, POINTS, 4].
    """
    last = (extent[:, None, :, None] - 1).to(place.dtype)
    low = place.detach().floor()
    part = place - low
    near = torch.stack([low, low + 1], dim=-1)
    inside = near.clamp(torch.zeros_like(last), last).nan_to_num()  # NaN stays in the shares
    share = torch.stack([1 - part, part], dim=-1) * (near == inside)
    column, row = inside.int().unbind(-2)
    across, down = share.unbind(-2)
    cells = row[..., :, None] * extent[:, :1, None, None].int() + column[..., None, :]
    return cells.flatten(-2), (down[..., :, None] * across[..., None, :]).flatten(-2)


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
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def _filtered_conv(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    """As `_conv` without aliasing: SiLU makes less of it than ReLU, and the stride is taken by a filter after it."""
    convolution = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
    activation = FilteredActivation(functional.silu, filter="kaiser", cutoff=CUTOFF)
    layers: list[nn.Module] = [convolution, nn.BatchNorm2d(outputs), activation]
    return layers if stride == 1 else [*layers, KaiserDownsample(stride, cutoff=CUTOFF)]
