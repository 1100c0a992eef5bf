"""Convolutions that answer in kind when the image turns: C_N and D_N acting on maps of the plane.

A regular map has, for each field, one channel for each element of the group: [B, fields * size, H, W], fields first.
An element g turns the plane and permutes those channels: (g f)(h, x) = f(g^-1 h, g^-1 x). Kernels are sums of
circular harmonics, which turn exactly before they are sampled on the pixels (Weiler, Hamprecht and Storath,
"Learning steerable filters for rotation equivariant CNNs", CVPR 2018; Cohen and Welling, "Group equivariant
convolutional networks", ICML 2016).

Exact to rounding for whole pixels and quarter turns: kernels have odd sides, strides are 1, and nothing is padded, so
that every layer takes `kernel - 1` pixels off. Other turns are exact but for the sampling on the pixels.

Convention:
    Angles are counter-clockwise as one sees it, as in `robovision.symmetry.plane`. The reflection of D_N turns the
    image upside down (y to -y). Elements are numbered rotations first: k * 360 / N degrees, then the reflection
    followed by these.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision.errors import UsageError
from robovision.symmetry.claims import Symmetry
from robovision.symmetry.data import Image, Kind, RegularMap
from robovision.symmetry.groups import shifts, turns
from robovision.symmetry.planegroup import PlaneGroup as PlaneGroup
from robovision.symmetry.planegroup import split as split

RING_WIDTH = 0.6
"""Standard deviation in pixels of a ring of the kernels; the outermost has two thirds of it, to leave the corners."""


def harmonics(group: PlaneGroup, kernel: int) -> Tensor:
    """The basis of the kernels under each element, float64 [size, basis, kernel, kernel], of norm 1.

    Rings of radius 0, 1, ... pixels times the cosines and sines of the angle, frequencies up to the ring's radius + 1.
    Those of a frequency above 0 vanish in the middle, where the angle is not defined.
    """
    reach = kernel // 2
    axis = torch.arange(-reach, reach + 1, dtype=torch.float64)
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    radius = torch.hypot(x, y)
    angle = group.signs()[:, None, None] * (torch.atan2(y, x) - group.angles()[:, None, None])
    waves: list[Tensor] = []
    for ring in range(reach + 1):
        width = RING_WIDTH * (2 / 3 if ring == reach and ring > 0 else 1)
        profile = torch.exp(-((radius - ring) ** 2) / (2 * width**2))
        waves.append(profile.expand_as(angle))
        for frequency in range(1, ring + 2 if ring else 1):
            waves += [(profile * (radius > 0)) * wave(frequency * angle) for wave in (torch.cos, torch.sin)]
    basis = torch.stack(waves, dim=1)
    size: Tensor = basis[:1].square().sum((2, 3), keepdim=True).sqrt()
    return basis / size


def quarter_symmetries(group: PlaneGroup, inputs: Kind, outputs: Kind) -> tuple[Symmetry, ...]:
    """What the layers declare: shifts, and those of the group's elements that keep the pixels' grid, are exact."""
    common = math.gcd(group.order, 4)
    exact = [shifts()] + ([turns(f"{'D' if group.reflections else 'C'}{common}")] if group.size > 1 else [])
    return tuple(Symmetry(each, "exact", inputs, outputs) for each in exact if each.magnitudes)


class _HarmonicConv(nn.Module):
    """What both convolutions share: weights on the basis, and the plain kernel that they make."""

    basis: Tensor

    def __init__(self, group: PlaneGroup, shape: tuple[int, ...], kernel: int, bias: bool) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise UsageError(f"kernel must be odd, or quarter turns are not exact; got {kernel}")
        basis = harmonics(group, kernel).float()
        inputs = math.prod(shape[1:]) * basis.shape[1]
        self.group = group
        self.weight = nn.Parameter(torch.randn(*shape, basis.shape[1]) * math.sqrt(2 / inputs))
        self.bias = nn.Parameter(torch.zeros(shape[0])) if bias else None
        self.register_buffer("basis", basis, persistent=False)

    def kernel(self) -> Tensor:
        """The weight of the plain convolution, [outputs * size, inputs, k, k]."""
        raise NotImplementedError

    def channel_bias(self) -> Tensor | None:
        """The bias of the plain convolution, the same for all elements of the group."""
        return None if self.bias is None else self.bias.repeat_interleave(self.group.size)

    def forward(self, maps: Tensor) -> Tensor:
        with torch.autocast(maps.device.type, enabled=False):  # the kernels turn exactly, whatever the maps' precision
            kernel = self.kernel()
        return functional.conv2d(maps, kernel, self.channel_bias())


class LiftingConv(_HarmonicConv):
    """From channels that stay as they are when the plane turns [B, C, H, W] to a regular map.

    Args:
        group: the group.
        channels: C of the input.
        fields: of the output, [B, fields * group.size, H - kernel + 1, W - kernel + 1].
        kernel: side in pixels, odd.
        bias: one number a field.

    Raises:
        UsageError: for an even kernel.
    """

    def __init__(self, group: PlaneGroup, channels: int, fields: int, kernel: int, bias: bool = True) -> None:
        super().__init__(group, (fields, channels), kernel, bias)

    def symmetries(self) -> tuple[Symmetry, ...]:
        return quarter_symmetries(self.group, Image(), RegularMap(self.group))

    def kernel(self) -> Tensor:
        return torch.einsum("oib,gbyx->ogiyx", self.weight, self.basis).flatten(0, 1)


class RegularConv(_HarmonicConv):
    """From a regular map to a regular map, both of the same group.

    Args:
        group: the group.
        inputs: fields of the input [B, inputs * group.size, H, W].
        outputs: fields of the output, [B, outputs * group.size, H - kernel + 1, W - kernel + 1].
        kernel: side in pixels, odd.
        bias: one number a field.

    Raises:
        UsageError: for an even kernel.
    """

    quotients: Tensor

    def __init__(self, group: PlaneGroup, inputs: int, outputs: int, kernel: int, bias: bool = True) -> None:
        super().__init__(group, (outputs, inputs, group.size), kernel, bias)
        self.register_buffer("quotients", group.quotients(), persistent=False)

    def symmetries(self) -> tuple[Symmetry, ...]:
        return quarter_symmetries(self.group, RegularMap(self.group), RegularMap(self.group))

    def kernel(self) -> Tensor:
        turned = self.weight[:, :, self.quotients]  # [outputs, inputs, g, h, basis]
        return torch.einsum("oighb,gbyx->ogihyx", turned, self.basis).flatten(2, 3).flatten(0, 1)


class FieldNorm(nn.BatchNorm2d):
    """Batch normalisation of a regular map: one mean and variance a field, shared by the elements of the group."""

    def __init__(self, group: PlaneGroup, fields: int) -> None:
        super().__init__(fields)
        self.group = group

    def symmetries(self) -> tuple[Symmetry, ...]:
        return quarter_symmetries(self.group, RegularMap(self.group), RegularMap(self.group))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name of the base class)
        normed: Tensor = super().forward(split(input, self.group.size).flatten(2, 3))
        return normed.reshape(input.shape)


class GroupMax(nn.Module):
    """The maximum over the group: from a regular map to channels that only move when the plane turns."""

    def __init__(self, group: PlaneGroup) -> None:
        super().__init__()
        self.group = group

    def symmetries(self) -> tuple[Symmetry, ...]:
        return quarter_symmetries(self.group, RegularMap(self.group), Image())

    def forward(self, maps: Tensor) -> Tensor:
        return split(maps, self.group.size).amax(2)


def export(layers: nn.Sequential) -> nn.Sequential:
    """The same function in evaluation, of plain `Conv2d` only: kernels expanded, batch normalisation folded in.

    Other layers are taken as they are. A `FieldNorm` must follow a convolution.

    Raises:
        UsageError: for a `FieldNorm` that follows none.
    """
    plain: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, _HarmonicConv):
            plain.append(_plain(layer))
        elif isinstance(layer, FieldNorm):
            if not plain or not isinstance(plain[-1], nn.Conv2d):
                raise UsageError("a FieldNorm can be exported only after a LiftingConv or RegularConv")
            _fold(plain[-1], layer)
        else:
            plain.append(layer)
    return nn.Sequential(*plain).eval()


def _plain(layer: _HarmonicConv) -> nn.Conv2d:
    kernel, bias = layer.kernel().detach(), layer.channel_bias()
    outputs, inputs, side, _ = kernel.shape
    plain = nn.Conv2d(inputs, outputs, side, device=kernel.device, dtype=kernel.dtype)
    plain.weight = nn.Parameter(kernel.contiguous(memory_format=torch.channels_last))  # faster
    with torch.no_grad():
        plain.bias.copy_(torch.zeros_like(plain.bias) if bias is None else bias)  # type: ignore[union-attr,arg-type]
    return plain


def _fold(plain: nn.Conv2d, norm: FieldNorm) -> None:
    assert norm.running_mean is not None and norm.running_var is not None and plain.bias is not None
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).repeat_interleave(norm.group.size)
    mean, shift = (t.repeat_interleave(norm.group.size) for t in (norm.running_mean, norm.bias))
    with torch.no_grad():
        plain.weight.mul_(scale[:, None, None, None])
        plain.bias.copy_((plain.bias - mean) * scale + shift)
