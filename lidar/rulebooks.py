"""Rulebooks of sparse convolutions: which inputs meet which outputs at which place of the kernel.

Source: Graham, Engelcke and van der Maaten, "3D Semantic Segmentation with Submanifold Sparse Convolutional Networks"
(2018). Voxels are kept in ascending order of z, y and x, so that neighbours along x lie side by side and one binary
search finds all three of a row.

A rulebook is used as one matrix product a part: the features that a part's outputs need are gathered into rows, and
multiplied by the kernel. Outputs are put into parts by which of their neighbours exist, so that few gathered places
are empty; nothing is ever scattered.

Convention:
    coordinates: int64 [N, 4], sample, z, y, x, each row once, ascending.
    place k of a kernel [D, H, W]: (z * H + y) * W + x.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from robovision.lidar.voxels import unravel

Triple = tuple[int, int, int]

PART = 512
"""Outputs of one matrix product."""


@dataclass(frozen=True, eq=False)
class Part:
    """Outputs that are computed at once.

    Convention:
        rows: where they are in the plan's order.
        places: int64 [P], those of the kernel at which any of them has a neighbour, ascending.
        inputs: int32 [rows * P], the input of each output at each place; one past the last where there is none.
    """

    rows: slice
    places: Tensor
    inputs: Tensor


@dataclass(frozen=True, eq=False)
class Plan:
    """The parts of M outputs.

    Convention:
        order: int64 [M], the outputs in the order in which the parts have them.
        position: int64 [M], where each output is in that order.
    """

    parts: tuple[Part, ...]
    order: Tensor
    position: Tensor


@dataclass(frozen=True, eq=False)
class Rulebook:
    """Which of N inputs meet which of M outputs.

    Convention:
        inputs: N.
        table: int32 [M, K], the input that each output meets at each place of the kernel, or N.
        coordinates: int64 [M, 4], those of the outputs.
        shape: of the grid of the outputs.
        symmetric: whether an input meets the outputs that meet it as outputs, with the kernel's places in reverse.
    """

    inputs: int
    table: Tensor
    coordinates: Tensor
    shape: Triple
    symmetric: bool = False

    @cached_property
    def forward(self) -> Plan:
        """How outputs are computed from inputs."""
        return make_plan(self.table, self.inputs)

    @cached_property
    def backward(self) -> Plan:
        """How inputs are computed from outputs, which is what gradients and inverse convolutions need."""
        return make_plan(self.back(), len(self.table))

    def back(self) -> Tensor:
        """The output that each input meets at each place of the kernel, or M, int32 [N, K]."""
        count = len(self.table)
        result = self.table.new_full((self.inputs, self.table.shape[1]), count)
        output, place = (self.table != self.inputs).nonzero().unbind(dim=1)
        result[self.table[output, place].long(), place] = output.int()
        return result


def make_plan(table: Tensor, empty: int) -> Plan:
    """The plan of a table [M, K] whose entries are `empty` where there is nothing."""
    count, places = table.shape
    # Whatever the rounding: equal rows get equal numbers, and near ones mostly near ones.
    weights = torch.pow(2.0, torch.arange(places, dtype=torch.float32, device=table.device))
    order = ((table != empty).float() @ weights).argsort(stable=True)
    position = torch.empty_like(order)
    position[order] = torch.arange(count, device=table.device)
    ordered = table.index_select(0, order)
    whole = torch.nn.functional.pad(ordered, (0, 0, 0, -count % PART), value=empty).view(-1, PART, places)
    # `empty` is the largest number of all.
    number, place = (whole.amin(dim=1) < empty).nonzero().unbind(dim=1)
    used = torch.split(place, torch.bincount(number, minlength=len(whole)).tolist())
    parts = []
    for first, mine in zip(range(0, count, PART), used, strict=True):
        rows = slice(first, min(first + PART, count))
        parts.append(Part(rows, mine, ordered[rows].index_select(1, mine).flatten()))
    return Plan(tuple(parts), order, position)


def submanifold(coordinates: Tensor, shape: Triple, kernel: Triple) -> Rulebook:
    """The rulebook of a convolution whose outputs are where its inputs are; the kernel's sides are odd."""
    z, y, x = (side // 2 for side in kernel)
    padded = (shape[0] + 2 * z, shape[1] + 2 * y, shape[2] + 2 * x)
    key = _short(_key(coordinates + coordinates.new_tensor([0, z, y, x]), padded), coordinates, padded)
    count, places = len(key), kernel[0] * kernel[1] * kernel[2]
    middle = places // 2
    table = torch.full((places, count), count, dtype=torch.int32, device=key.device)
    own = torch.arange(count, dtype=torch.int32, device=key.device)
    table[middle] = own
    ends = torch.cat([key, key.new_tensor([-1])])
    for row in range(middle // kernel[2] + 1):
        dz, dy = row // kernel[1] - z, row % kernel[1] - y
        start = key + ((dz * padded[1] + dy) * padded[2] - x)
        at = torch.searchsorted(key, start)
        for place in range(row * kernel[2], min(row * kernel[2] + kernel[2], middle)):
            hit = ends[at] == start
            here = hit.nonzero()[:, 0]
            there = at[here]
            # What is before a voxel has it behind itself: the kernel's other half needs no search.
            table[place, here] = there.int()
            table[places - 1 - place, there] = own[here]
            at, start = at + hit, start + 1
    return Rulebook(count, table.T.contiguous(), coordinates, shape, symmetric=True)


def strided(coordinates: Tensor, shape: Triple, kernel: Triple, stride: Triple, padding: Triple) -> Rulebook:
    """The rulebook of a convolution whose outputs are wherever a kernel meets any input."""
    out = output_shape(shape, kernel, stride, padding)
    z, y, x = (
        _outputs(coordinates[:, axis + 1] + padding[axis], kernel[axis], stride[axis], out[axis]) for axis in range(3)
    )
    keys, inputs, places = [], [], []
    sample = coordinates[:, 0] * out[0]
    for at_z, place_z, in_z in z:
        for at_y, place_y, in_y in y:
            key = ((sample + at_z) * out[1] + at_y) * out[2]
            row, in_row = (place_z * kernel[1] + place_y) * kernel[2], in_z & in_y
            for at_x, place_x, in_x in x:
                mine = (in_row & in_x).nonzero()[:, 0]
                keys.append((key + at_x)[mine])
                inputs.append(mine)
                places.append((row + place_x)[mine])
    found, output = torch.unique(_short(torch.cat(keys), coordinates, out), return_inverse=True)
    table = coordinates.new_full((len(found), math.prod(kernel)), len(coordinates), dtype=torch.int32)
    table[output, torch.cat(places)] = torch.cat(inputs).int()
    return Rulebook(len(coordinates), table, unravel(found.long(), out), out)


def output_shape(shape: Triple, kernel: Triple, stride: Triple, padding: Triple) -> Triple:
    """The grid of a convolution's outputs.

    >>> output_shape((41, 1600, 1408), (3, 3, 3), (2, 2, 2), (1, 1, 1))
    (21, 800, 704)
    """
    z, y, x = ((shape[k] + 2 * padding[k] - kernel[k]) // stride[k] + 1 for k in range(3))
    return z, y, x


def _outputs(place: Tensor, kernel: int, stride: int, size: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Along one axis, the outputs [N] that inputs meet, at which place of the kernel, and whether there are such.

    An input at `place` of the padded axis meets output o at place - o * stride of the kernel, so that there are at
    most kernel / stride outputs, and one follows from the other.
    """
    last = place.div(stride, rounding_mode="floor")
    first = place - last * stride
    found = []
    for back in range(-(-kernel // stride)):
        at, within = last - back, first + back * stride
        found.append((at, within, (within < kernel) & (at >= 0) & (at < size)))
    return found


def _key(coordinates: Tensor, shape: Triple) -> Tensor:
    sample, z, y, x = coordinates.unbind(dim=1)
    return ((sample * shape[0] + z) * shape[1] + y) * shape[2] + x


def _short(key: Tensor, coordinates: Tensor, shape: Triple) -> Tensor:
    """Keys of places in grids of a shape, int32 if all such are small enough, which are sorted and searched sooner."""
    samples = int(coordinates[-1, 0]) + 1 if len(coordinates) else 0
    return key.int() if samples * math.prod(shape) < 2**31 else key
