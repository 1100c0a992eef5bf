"""Sparse 3D convolutions in plain torch: submanifold, strided and inverse, equal to dense ones at the same sites.

Source: Graham, Engelcke and van der Maaten (2018), as in spconv; for how they are computed see
`robovision.lidar.rulebooks`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision.lidar.rulebooks import Block, Rulebook, Triple, strided, submanifold


@dataclass(frozen=True, eq=False)
class Sites:
    """Where features are, and the rulebooks of the convolutions there, each made once.

    Convention:
        coordinates: int64 [N, 4], sample, z, y, x, each row once, ascending.
        shape: voxels of the grid along z, y and x.
        size: samples in the batch.
        origin: the sites that a strided convolution came from, and its rulebook.
    """

    coordinates: Tensor
    shape: Triple
    size: int
    origin: tuple[Sites, Rulebook] | None = None
    _books: dict[tuple[Triple, ...], Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.coordinates)

    def submanifold(self, kernel: Triple) -> Rulebook:
        """The rulebook of a submanifold convolution here."""
        key = (kernel,)
        if key not in self._books:
            self._books[key] = submanifold(self.coordinates, self.shape, kernel)
        book: Rulebook = self._books[key]
        return book

    def strided(self, kernel: Triple, stride: Triple, padding: Triple) -> tuple[Rulebook, Sites]:
        """The rulebook of a strided convolution from here, and where it leads."""
        key = (kernel, stride, padding)
        if key not in self._books:
            book, coordinates, shape = strided(self.coordinates, self.shape, kernel, stride, padding)
            self._books[key] = book, Sites(coordinates, shape, self.size, (self, book))
        found: tuple[Rulebook, Sites] = self._books[key]
        return found


@dataclass(frozen=True, eq=False)
class SparseMap:
    """Features [N, C] at sites."""

    features: Tensor
    sites: Sites

    def dense(self) -> Tensor:
        """The features as a grid [size, C, D, H, W], 0 where there are none."""
        depth, height, width = self.sites.shape
        sample, z, y, x = self.sites.coordinates.unbind(dim=1)
        place = ((sample * depth + z) * height + y) * width + x
        grid = self.features.new_zeros(self.sites.size * depth * height * width, self.features.shape[1])
        grid = grid.index_copy(0, place, self.features)
        return grid.view(self.sites.size, depth, height, width, -1).permute(0, 4, 1, 2, 3)


class SparseConvolution(nn.Module):
    """What the three have in common: a kernel, float [places, width, channels], and perhaps a bias."""

    def __init__(self, width: int, channels: int, kernel: int | Triple = 3, bias: bool = True) -> None:
        super().__init__()
        self.kernel = triple(kernel)
        places = math.prod(self.kernel)
        self.weight = nn.Parameter(torch.empty(places, width, channels))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None
        bound = 1 / math.sqrt(places * width)  # as torch's own convolutions
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def apply_book(self, features: Tensor, book: Rulebook, inverse: bool = False) -> Tensor:
        """The outputs [M, channels] of features [N, width]."""
        weight: Tensor = self.weight
        if torch.is_autocast_enabled(features.device.type):
            kind = torch.get_autocast_dtype(features.device.type)
            features, weight = features.to(kind), weight.to(kind)
        result: Tensor = _Convolve.apply(features, weight, book, inverse)  # type: ignore[no-untyped-call]
        return result if self.bias is None else result.add_(self.bias.to(result.dtype))


class SubmanifoldConv3d(SparseConvolution):
    """A convolution whose outputs are where its inputs are; the kernel's sides are odd."""

    def __init__(self, width: int, channels: int, kernel: int | Triple = 3, bias: bool = True) -> None:
        super().__init__(width, channels, kernel, bias)
        if any(side % 2 == 0 for side in self.kernel):
            raise ValueError(f"a submanifold convolution needs a kernel of odd sides, got {self.kernel}")

    def forward(self, inputs: SparseMap) -> SparseMap:
        book = inputs.sites.submanifold(self.kernel)
        return SparseMap(self.apply_book(inputs.features, book), inputs.sites)


class StridedConv3d(SparseConvolution):
    """A convolution whose outputs are wherever its kernel meets an input, on a coarser grid."""

    def __init__(
        self,
        width: int,
        channels: int,
        kernel: int | Triple = 3,
        stride: int | Triple = 2,
        padding: int | Triple = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(width, channels, kernel, bias)
        self.stride, self.padding = triple(stride), triple(padding)

    def forward(self, inputs: SparseMap) -> SparseMap:
        book, sites = inputs.sites.strided(self.kernel, self.stride, self.padding)
        return SparseMap(self.apply_book(inputs.features, book), sites)


class InverseConv3d(SparseConvolution):
    """The way back from the last strided convolution to where its inputs were; the kernel is of the same size."""

    def forward(self, inputs: SparseMap) -> SparseMap:
        if inputs.sites.origin is None:
            raise ValueError("an inverse convolution undoes a strided one, and these features come from none")
        sites, book = inputs.sites.origin
        if math.prod(self.kernel) != len(book.inputs):
            raise ValueError(f"the kernel {self.kernel} is not of the size of the strided convolution's")
        return SparseMap(self.apply_book(inputs.features, book, inverse=True), sites)


class SparseSequential(nn.Sequential):
    """Layers one after the other; normalisations and rectifiers act on the features alone."""

    def forward(self, inputs: SparseMap) -> SparseMap:
        for layer in self:
            on_features = isinstance(layer, nn.BatchNorm1d | nn.ReLU)
            inputs = SparseMap(layer(inputs.features), inputs.sites) if on_features else layer(inputs)
        return inputs


def triple(value: int | Triple) -> Triple:
    """The same number along z, y and x, unless there are three."""
    return (value, value, value) if isinstance(value, int) else value


class _Convolve(torch.autograd.Function):
    """Sums over a rulebook; `inverse` swaps inputs and outputs."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, book: Rulebook, inverse: bool) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.book, ctx.inverse = book, inverse
        return _sum(features, weight, book.backward if inverse else book.forward)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (gradient,) = grad_outputs
        features, weight = ctx.saved_tensors
        book: Rulebook = ctx.book
        to_features = to_weight = None
        if ctx.needs_input_grad[0]:
            turned = weight.transpose(1, 2)
            if book.symmetric:
                to_features = _sum(gradient, turned.flip(0).contiguous(), book.forward)
            else:
                to_features = _sum(gradient, turned.contiguous(), book.forward if ctx.inverse else book.backward)
        if ctx.needs_input_grad[1]:
            one, other = (book.outputs, book.inputs) if ctx.inverse else (book.inputs, book.outputs)
            to_weight = _correlate(features, gradient, weight, one, other)
        return to_features, to_weight, None, None


def _sum(features: Tensor, weight: Tensor, blocks: list[Block]) -> Tensor:
    """Outputs [M, C]: of each the sum over its pairs of the input times the weight of their place."""
    channels = weight.shape[2]
    result = features.new_empty(blocks[-1].rows.stop if blocks else 0, channels)
    products = features.new_empty(max((len(block.order) for block in blocks), default=0), channels)
    for block in blocks:
        mine = products[: len(block.order)]
        into = torch.split(mine, [len(inputs) for inputs in block.inputs])
        for kernel, inputs, rows in zip(weight, block.inputs, into, strict=True):
            torch.mm(features.index_select(0, inputs), kernel, out=rows)
        result[block.rows] = functional.embedding_bag(block.order, mine, block.offsets, mode="sum")
    return result


def _correlate(
    features: Tensor, gradient: Tensor, weight: Tensor, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]
) -> Tensor:
    """The gradient of the weights [K, F, C]."""
    result = torch.empty_like(weight)
    for place, (one, other) in enumerate(zip(inputs, outputs, strict=True)):
        torch.mm(features.index_select(0, one).T, gradient.index_select(0, other), out=result[place])
    return result
