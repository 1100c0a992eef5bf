"""Layers without aliasing: what they make of an image moves with it by fractions of a pixel too.

A pointwise nonlinearity makes frequencies that the pixels can't hold, and a stride drops pixels whose frequencies
then fold back; both depend on where the pixels lie. Here each nonlinearity acts on a finer grid, and everything
above the coarser grid's limit is filtered out before pixels are dropped (Karras et al., "Alias-free generative
adversarial networks", NeurIPS 2021, section 2; Zhou et al., "Alias-free latent diffusion models", CVPR 2025).

`ideal` filters by the Fourier transform: exact on the torus, where what leaves on one side enters on the other.
`kaiser` filters with a windowed sinc of a few pixels: local, and good to its stopband.

Convention:
    Maps are [B, C, H, W]; cells keep their centres: cell i of a map that becomes `factor` times finer has its centre
    between cells factor * i and factor * i + factor - 1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from robovision.errors import UsageError
from robovision.symmetry.claims import Symmetry
from robovision.symmetry.data import Image
from robovision.symmetry.groups import cyclic_shifts, shifts
from robovision.symmetry.plane import fourier_shift
from robovision.types import Array

Filter = Literal["ideal", "kaiser"]
Border = Literal["zeros", "circular"]
TAPS = 6
"""Cells of the coarse grid that a Kaiser filter reaches over (StyleGAN3's `filter_size`)."""
TRANSITION = 0.6
"""Width of a Kaiser filter's transition band over the coarse grid's limit."""


class IdealUpsample(nn.Module):
    """Maps `factor` times as fine, band-limited: [B, C, H, W] -> [B, C, factor * H, factor * W].

    The highest frequency of an even side, whose phase the pixels don't hold, is left out.

    Raises:
        UsageError: for a factor below 1.
    """

    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        self.factor = _check_factor(factor)

    def symmetries(self) -> tuple[Symmetry, ...]:
        return (Symmetry(cyclic_shifts(0.125, 1.0, 3.3), "exact", outputs=Image(1 / self.factor)),)

    def forward(self, maps: Tensor) -> Tensor:
        finer = _resample(_resample(maps, -2, self.factor * maps.shape[-2]), -1, self.factor * maps.shape[-1])
        offset = (self.factor - 1) / 2  # from the cell's corner to its middle
        return fourier_shift(finer, offset, offset) if offset else finer


class IdealDownsample(nn.Module):
    """Maps `factor` times as coarse, everything above the coarse grid's limit left out before.

    Args:
        factor: how many times coarser.
        cutoff: share of the coarse grid's limit that is kept; below 1, what the next nonlinearity makes of the highest
            frequencies is not there to fold back.

    Raises:
        UsageError: for a factor below 1 or a cutoff outside 0..1; in use, for sides that the factor does not divide.
    """

    def __init__(self, factor: int = 2, cutoff: float = 1.0) -> None:
        super().__init__()
        self.factor = _check_factor(factor)
        self.cutoff = _check_cutoff(cutoff)

    def symmetries(self) -> tuple[Symmetry, ...]:
        return (Symmetry(cyclic_shifts(0.125, 1.0, 3.3), "exact", outputs=Image(self.factor)),)

    def forward(self, maps: Tensor) -> Tensor:
        _check_sides(maps, self.factor)
        offset = (self.factor - 1) / 2
        centred = fourier_shift(maps, -offset, -offset) if offset else maps
        rows, columns = (side // self.factor for side in maps.shape[-2:])
        return _resample(_resample(centred, -2, rows, self.cutoff), -1, columns, self.cutoff)


class KaiserUpsample(nn.Module):
    """As `IdealUpsample`, with a local filter; what it reaches beyond the border is 0 or comes from the other side.

    Args:
        factor: how many times finer.
        border: `zeros` or `circular`.

    Raises:
        UsageError: for a factor below 1.
    """

    def __init__(self, factor: int = 2, border: Border = "zeros") -> None:
        super().__init__()
        self.factor = _check_factor(factor)
        self.border: Border = border

    def symmetries(self) -> tuple[Symmetry, ...]:
        return _kaiser_symmetries(self.border, 1 / self.factor, self.factor, TAPS * self.factor // 2)

    def forward(self, maps: Tensor) -> Tensor:
        rows, columns = (self.factor * _matrix(side, self.factor, self.border, 1.0, maps) for side in maps.shape[-2:])
        return rows @ maps @ columns.T


class KaiserDownsample(nn.Module):
    """As `IdealDownsample`, with a local filter; see `KaiserUpsample`."""

    def __init__(self, factor: int = 2, border: Border = "zeros", cutoff: float = 1.0) -> None:
        super().__init__()
        self.factor = _check_factor(factor)
        self.border: Border = border
        self.cutoff = _check_cutoff(cutoff)

    def symmetries(self) -> tuple[Symmetry, ...]:
        return _kaiser_symmetries(self.border, self.factor, self.factor, TAPS // 2)

    def forward(self, maps: Tensor) -> Tensor:
        _check_sides(maps, self.factor)
        rows, columns = (
            _matrix(side // self.factor, self.factor, self.border, self.cutoff, maps) for side in maps.shape[-2:]
        )
        return rows.T @ maps @ columns


class FilteredActivation(nn.Module):
    """A nonlinearity between twofold (or finer) upsampling and downsampling: its new high frequencies are filtered.

    Args:
        activation: acts on each number.
        factor: how much finer the grid is that it acts on.
        filter: `ideal` or `kaiser`.
        border: of the Kaiser filter.
        cutoff: share of the frequencies that are kept, by an ideal filter sharply. All by default: one layer loses
            nothing then and keeps 58 dB (SiLU). Eight in a row keep 54 to 56 dB, and for more want 0.8 (57 to 61 dB,
            without the highest fifth) or a grid four times as fine (95 dB, four times the work).

    Raises:
        UsageError: for a factor below 1, or a cutoff that is not in 0..1.
    """

    def __init__(
        self,
        activation: Callable[[Tensor], Tensor],
        factor: int = 2,
        filter: Filter = "ideal",  # noqa: A002 (the field's word)
        border: Border = "zeros",
        cutoff: float = 1.0,
    ) -> None:
        super().__init__()
        self.activation = activation
        ideal = filter == "ideal"
        self.up = IdealUpsample(factor) if ideal else KaiserUpsample(factor, border)
        self.down = IdealDownsample(factor, cutoff) if ideal else KaiserDownsample(factor, border, cutoff)

    def symmetries(self) -> tuple[Symmetry, ...]:
        """Exact for whole pixels, away from zeros at a border; fractions on the torus as good as the grid is fine."""
        if isinstance(self.up, KaiserUpsample) and self.up.border == "zeros":
            return (Symmetry(shifts(), "interior", margin=TAPS),)
        tolerance = 0.01 if isinstance(self.up, IdealUpsample) else 0.1
        fractions = Symmetry(cyclic_shifts(0.125, 0.5), "approximate", tolerance=tolerance)
        return Symmetry(cyclic_shifts(1.0, 3.0), "exact"), fractions

    def forward(self, maps: Tensor) -> Tensor:
        return self.down(self.activation(self.up(maps)))  # type: ignore[no-any-return]


def kaiser_kernel(factor: int, cutoff: float = 1.0) -> Array:
    """A low-pass filter for `cutoff` times the limit of a grid `factor` times as coarse, float64, of sum 1.

    The sinc of that frequency times a Kaiser window whose attenuation follows from its length and transition band
    (StyleGAN3, appendix C). It has TAPS * factor taps, for an odd factor one less, so that its middle is that of a
    coarse cell.
    """
    length = TAPS * factor - factor % 2
    width = TRANSITION / factor * 2
    attenuation = 2.285 * (length - 1) * math.pi * width + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    else:
        beta = 0.5842 * max(0.0, attenuation - 21) ** 0.4 + 0.07886 * max(0.0, attenuation - 21)
    places = np.arange(length) - (length - 1) / 2
    kernel = np.sinc(cutoff * places / factor) * np.kaiser(length, beta)
    normed: Array = kernel / kernel.sum()
    return normed


def _resample(maps: Tensor, axis: int, wanted: int, cutoff: float = 1.0) -> Tensor:
    """Maps of another length along an axis, by its Fourier coefficients; what neither grid holds is 0."""
    length = maps.shape[axis]
    if length == wanted and cutoff == 1:
        return maps
    coefficients = torch.fft.rfft(maps, dim=axis)
    kept = min((min(length, wanted) + 1) // 2, 1 + int(cutoff * min(length, wanted) / 2))
    coefficients = coefficients.narrow(axis, 0, kept)
    resampled: Tensor = torch.fft.irfft(coefficients, n=wanted, dim=axis) * (wanted / length)
    return resampled


@functools.lru_cache(maxsize=128)
def kaiser_matrix(coarse: int, factor: int, border: Border, cutoff: float) -> Array:
    """The filter of `kaiser_kernel` between a grid of so many cells and one `factor` times as fine, [fine, coarse].

    Its transpose makes lines coarser, it and `factor` make them finer. As a product of matrices that is faster on a
    core than a convolution, though most of it is 0. No tensor, so that none made while a graph is traced is kept.
    """
    kernel = kaiser_kernel(factor, cutoff)
    reach, fine = (len(kernel) - factor) // 2, coarse * factor
    taps = np.zeros((coarse, fine))
    for cell in range(coarse):
        places = factor * cell - reach + np.arange(len(kernel))
        inside = (places >= 0) & (places < fine) | (border == "circular")
        np.add.at(taps[cell], places[inside] % fine, kernel[inside])
    return np.ascontiguousarray(taps.T)


def _matrix(coarse: int, factor: int, border: Border, cutoff: float, like: Tensor) -> Tensor:
    return torch.from_numpy(kaiser_matrix(coarse, factor, border, cutoff)).to(like)


def _kaiser_symmetries(border: str, cell: float, factor: int, reach: int) -> tuple[Symmetry, ...]:
    """On the torus exact, else so many cells of the output away from the border; by whole cells of both grids."""
    if border == "circular":
        return (Symmetry(cyclic_shifts(float(factor), 2.0 * factor), "exact", outputs=Image(cell)),)
    return (Symmetry(shifts(factor), "interior", outputs=Image(cell), margin=reach),)


def _check_factor(factor: int) -> int:
    if factor < 1:
        raise UsageError(f"the factor must be at least 1, got {factor}")
    return factor


def _check_cutoff(cutoff: float) -> float:
    if not 0 < cutoff <= 1:
        raise UsageError(f"the cutoff must be above 0 and at most 1, got {cutoff:g}")
    return cutoff


def _check_sides(maps: Tensor, factor: int) -> None:
    if maps.shape[-2] % factor or maps.shape[-1] % factor:
        raise UsageError(f"maps of {maps.shape[-2]} x {maps.shape[-1]} can't be made {factor} times as coarse")
