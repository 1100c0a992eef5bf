"""Rulebooks of sparse convolutions: which input meets which output at which place of the kernel.

Source: Graham, Engelcke and van der Maaten, "3D Semantic Segmentation with Submanifold Sparse Convolutional Networks"
(2018). Voxels are kept in ascending order of z, y and x, so that neighbours along x lie side by side and one binary
search finds all three of a row.

On a street an output has 3 to 15 of the 27 inputs that it could have. The pairs of a place are multiplied by its
weights as one matrix product, and products are then summed by output: in blocks of outputs, so that what is not summed
yet stays in the processor's cache. Nothing is ever scattered.

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

BLOCK = 24_576
"""Pairs, about, whose products are computed before they are summed."""


@dataclass(frozen=True, eq=False)
class Block:
    """Outputs, one after the other, that are computed at once.

    Convention:
        rows: the outputs.
        inputs: of their P pairs, for each place of the kernel int64 [pairs at the place].
        order: int64 [P], the pairs, of which those of the first place come first, output by output.
        offsets: int64 [rows], where in that order the pairs of each output begin.
    """

    rows: slice
    inputs: tuple[Tensor, ...]
    order: Tensor
    offsets: Tensor


@dataclass(frozen=True, eq=False)
class Rulebook:
    """Which of N inputs meet which of M outputs.

    Convention:
        inputs, outputs: for each place of the kernel the pairs there, int64 [pairs], both ascending.
        sizes: N and M.
        symmetric: whether an input meets the outputs that meet it as outputs, with the kernel's places in reverse.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    sizes: tuple[int, int]
    symmetric: bool = False

    @cached_property
    def forward(self) -> list[Block]:
        """How outputs are computed from inputs."""
        return make_blocks(self.inputs, self.outputs, self.sizes[1])

    @cached_property
    def backward(self) -> list[Block]:
        """How inputs are computed from outputs, which is what gradients and inverse convolutions need."""
        return make_blocks(self.outputs, self.inputs, self.sizes[0])


def make_blocks(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], size: int) -> list[Block]:
    """The blocks of all `size` outputs; on a GPU it is one."""
    output = torch.cat(outputs)
    step = max(size if output.device.type != "cpu" else size * BLOCK // max(len(output), 1), 1)
    edges = torch.tensor([*range(0, size, step), size], device=output.device)
    spans = torch.stack([torch.searchsorted(mine, edges) for mine in outputs])
    lengths = spans.diff(dim=1)
    # Where a pair is among all, place by place, and where it is among those of its block.
    moved = (lengths.cumsum(0) - lengths) - (_starts([len(mine) for mine in outputs], spans) + spans[:, :-1])
    place = torch.repeat_interleave(torch.tensor([len(mine) for mine in outputs], device=output.device))
    within = output.int().argsort(stable=True)
    at = output.index_select(0, within).div_(step, rounding_mode="floor")
    at.add_(place.index_select(0, within), alpha=moved.shape[1])
    within.add_(moved.flatten().index_select(0, at))
    ends = torch.bincount(output, minlength=size).cumsum(0)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    cuts, blocks, first = spans.tolist(), [], 0
    for number, count in enumerate(lengths.sum(0).tolist()):
        rows = slice(number * step, min(number * step + step, size))
        mine = tuple(one[cut[number] : cut[number + 1]] for one, cut in zip(inputs, cuts, strict=True))
        blocks.append(Block(rows, mine, within[first : first + count], starts[rows] - first))
        first += count
    return blocks


def _starts(counts: list[int], like: Tensor) -> Tensor:
    """Where the pairs of each place begin, int64 [places, 1], when they lie one after the other."""
    ends = torch.tensor(counts, device=like.device).cumsum(0)
    return (ends - torch.tensor(counts, device=like.device))[:, None]


def submanifold(coordinates: Tensor, shape: Triple, kernel: Triple) -> Rulebook:
    """The rulebook of a convolution whose outputs are where its inputs are; the kernel's sides are odd."""
    z, y, x = (side // 2 for side in kernel)
    padded = (shape[0] + 2 * z, shape[1] + 2 * y, shape[2] + 2 * x)
    key = _short(_key(coordinates + coordinates.new_tensor([0, z, y, x]), padded), coordinates, padded)
    middle = math.prod(kernel) // 2
    ends = torch.cat([key, key.new_tensor([-1])])
    here, there = [], []
    for row in range(middle // kernel[2] + 1):
        dz, dy = row // kernel[1] - z, row % kernel[1] - y
        start = key + ((dz * padded[1] + dy) * padded[2] - x)
        at = torch.searchsorted(key, start)
        for _ in range(row * kernel[2], min(row * kernel[2] + kernel[2], middle)):
            hit = ends[at] == start
            here.append(hit.nonzero()[:, 0])
            there.append(at[here[-1]])
            at, start = at + hit, start + 1
    own = torch.arange(len(key), device=key.device)
    # What is before a voxel has it behind itself: the kernel's other half needs no search.
    return Rulebook((*there, own, *here[::-1]), (*here, own, *there[::-1]), (len(key), len(key)), symmetric=True)


def strided(
    coordinates: Tensor, shape: Triple, kernel: Triple, stride: Triple, padding: Triple
) -> tuple[Rulebook, Tensor, Triple]:
    """The rulebook of a convolution whose outputs are wherever a kernel meets any input.

    Returns:
        It; the coordinates int64 [M, 4] of the outputs, ascending; and the shape of their grid.
    """
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
    place = torch.cat(places).int()
    order = place.argsort(stable=True)
    counts = torch.bincount(place, minlength=math.prod(kernel)).tolist()
    one, other = (torch.split(pairs.index_select(0, order), counts) for pairs in (torch.cat(inputs), output))
    return Rulebook(one, other, (len(coordinates), len(found))), unravel(found.long(), out), out


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
