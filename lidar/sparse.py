"""Sparse 3D convolutions in plain torch: submanifold, strided and inverse, equal to dense ones at the same sites.

Source: Graham, Engelcke and van der Maaten (2018), as in spconv; sums run over gathered rows, see
`robovision.lidar.rulebooks`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from robovision.lidar.rulebooks import Part, Plan, Rulebook, Triple, strided, submanifold


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
            book = strided(self.coordinates, self.shape, kernel, stride, padding)
            self._books[key] = book, Sites(book.coordinates, book.shape, self.size, (self, book))
        pair: tuple[Rulebook, Sites] = self._books[key]
        return pair


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
        if not torch.is_grad_enabled():
            bias = None if self.bias is None else self.bias.to(features.dtype)
            return _multiply(features, weight, book.backward if inverse else book.forward, bias)
        result: Tensor = _Convolve.apply(features, weight, book, inverse)  # type: ignore[no-untyped-call]
        return result if self.bias is None else result + self.bias.to(result.dtype)


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
        if math.prod(self.kernel) != book.table.shape[1]:
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
        return _multiply(features, weight, book.backward if inverse else book.forward)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (gradient,) = gradients
        features, weight = ctx.saved_tensors
        book: Rulebook = ctx.book
        there, back = (book.backward, book.forward) if ctx.inverse else (book.forward, None)
        to_features = to_weight = None
        if ctx.needs_input_grad[0]:
            turned = weight.transpose(1, 2)
            if book.symmetric:
                to_features = _multiply(gradient, turned.flip(0).contiguous(), book.forward)
            else:
                to_features = _multiply(gradient, turned.contiguous(), back or book.backward)
        if ctx.needs_input_grad[1]:
            to_weight = _correlate(features, gradient, weight, there)
        return to_features, to_weight, None, None


def _multiply(features: Tensor, weight: Tensor, plan: Plan, bias: Tensor | None = None) -> Tensor:
    """Outputs [M, C]: of each a bias and the sum over the kernel's places of its input there times the weight there."""
    ordered = features.new_empty(len(plan.order), weight.shape[2])
    for part, rows in _gather(features, plan):
        kernel = weight if len(part.places) == len(weight) else weight.index_select(0, part.places)
        kernel = kernel.reshape(-1, weight.shape[2])
        if bias is None:
            torch.mm(rows, kernel, out=ordered[part.rows])
        else:
            torch.addmm(bias, rows, kernel, out=ordered[part.rows])
    return ordered.index_select(0, plan.position)


def _correlate(features: Tensor, gradient: Tensor, weight: Tensor, plan: Plan) -> Tensor:
    """The gradient of the weights [K, F, C]; summed in float32 also where the features are of half precision."""
    ordered = gradient.index_select(0, plan.order)
    result = weight.new_zeros(weight.shape, dtype=torch.promote_types(weight.dtype, torch.float32))
    for part, rows in _gather(features, plan):
        product = torch.mm(rows.T, ordered[part.rows]).view(len(part.places), *weight.shape[1:])
        result.index_add_(0, part.places, product.to(result.dtype))
    return result.to(weight.dtype)


def _gather(features: Tensor, plan: Plan) -> Iterator[tuple[Part, Tensor]]:
    """Each part with the inputs [rows, P * F] of its outputs, side by side, 0 where there is none; till the next."""
    width = features.shape[1]
    padded = torch.cat([features, features.new_zeros(1, width)])
    buffer = features.new_empty(max((len(part.inputs) for part in plan.parts), default=0), width)
    for part in plan.parts:
        torch.index_select(padded, 0, part.inputs, out=buffer[: len(part.inputs)])
        yield part, buffer[: len(part.inputs)].view(part.rows.stop - part.rows.start, -1)
