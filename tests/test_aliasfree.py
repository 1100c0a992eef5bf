"""Alias-free layers: the gates in decibel under fractional shifts, and what the filters are."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision.errors import UsageError
from robovision.symmetry.aliasfree import (
    TAPS,
    FilteredActivation,
    IdealDownsample,
    IdealUpsample,
    KaiserDownsample,
    KaiserUpsample,
    kaiser_kernel,
)
from robovision.symmetry.plane import fourier_shift

SHIFT = 0.37


def leaky(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, 0.2)


def noise(channels: int = 1, side: int = 64) -> Tensor:
    """White noise but for the highest frequency, whose phase pixels don't hold."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(1, channels, side, side, generator=generator, dtype=torch.float64)
    filtered: Tensor = IdealDownsample(2)(IdealUpsample(2)(maps))
    return filtered


def decibels(function: Callable[[Tensor], Tensor], maps: Tensor, cell: float = 1.0) -> float:
    """PSNR of g(T x) against T g(x), T a shift by a fraction of a pixel on the torus."""
    with torch.no_grad():
        found = function(fourier_shift(maps, SHIFT, SHIFT))
        expected = fourier_shift(function(maps), SHIFT / cell, SHIFT / cell)
    peak = float(expected.max() - expected.min())
    return 10 * math.log10(peak**2 / float((found - expected).square().mean()))


def stack(finer: int, cutoff: float = 1.0, seed: int = 0, channels: int = 4) -> nn.Sequential:
    """Eight convolutions with SiLU on the torus, of He's gain; `finer` is the nonlinearity's grid, 1: plain."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for _ in range(8):
        convolution = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="circular")
        nn.init.kaiming_normal_(convolution.weight)
        layers += [convolution, nn.SiLU() if finer == 1 else FilteredActivation(functional.silu, finer, cutoff=cutoff)]
    return nn.Sequential(*layers).double()


def test_the_gates() -> None:
    assert decibels(leaky, noise()) < 30
    assert decibels(FilteredActivation(leaky), noise()) > 45
    assert decibels(FilteredActivation(leaky, 4), noise()) > 55
    assert decibels(stack(1), noise(4)) < 25
    assert decibels(stack(2), noise(4)) > 50
    assert decibels(stack(4), noise(4)) > 85
    assert decibels(lambda x: x[..., ::2, ::2], noise(), 2) < 20
    for factor in (2, 3, 4):
        side = noise(side=60)
        assert decibels(IdealDownsample(factor), side, factor) > 100
        assert decibels(IdealUpsample(factor), side, 1 / factor) > 100


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_stack_on_twice_the_grid_passes_with_a_lower_cutoff(seed: int) -> None:
    plain, filtered = (decibels(stack(2, cutoff, seed, channels=16), noise(16)) for cutoff in (1.0, 0.8))
    assert filtered > 57 > plain


def test_a_cutoff_leaves_out_what_lies_above() -> None:
    x = torch.arange(40).double()
    low, high = ((2 * math.pi * k * (x + 0.5) / 40).cos().expand(1, 1, 40, 40) for k in (7, 9))
    down = IdealDownsample(2, 0.8)  # of 10, the limit of 20 pixels
    assert torch.allclose(down(low), IdealDownsample(2)(low), atol=1e-12)
    assert float(down(high).abs().max()) < 1e-12 < float(IdealDownsample(2)(high).abs().max())


def test_ideal_resampling_keeps_waves_and_their_places() -> None:
    """A wave of the coarse grid, sampled at the middles of finer and of coarser cells."""
    x = torch.arange(24).double()
    wave = (2 * math.pi * 3 * (x + 0.5) / 24).cos().expand(1, 1, 24, 24)
    fine, coarse = torch.arange(48).double(), torch.arange(12).double()
    expected = (2 * math.pi * 3 * (fine + 0.5) / 48).cos()
    assert torch.allclose(IdealUpsample(2)(wave)[0, 0, 5], expected, atol=1e-12)
    assert torch.allclose(IdealDownsample(2)(wave)[0, 0, 5], (2 * math.pi * 3 * (coarse + 0.5) / 12).cos(), atol=1e-12)
    high = (2 * math.pi * 9 * (x + 0.5) / 24).cos().expand(1, 1, 24, 24)
    assert float(IdealDownsample(2)(high).abs().max()) < 1e-12


@pytest.mark.parametrize("border", ["zeros", "circular"])
def test_kaiser_filters_keep_low_waves_and_their_places(border: str) -> None:
    x = torch.arange(24).double()
    wave = (2 * math.pi * 2 * (x + 0.5) / 24).cos().expand(1, 1, 24, 24)
    up, down = KaiserUpsample(2, border), KaiserDownsample(2, border)  # type: ignore[arg-type]
    middle = slice(16, 32)
    fine = (2 * math.pi * 2 * (torch.arange(48).double() + 0.5) / 48).cos()
    assert torch.allclose(up(wave)[0, 0, 24, middle], fine[middle], atol=0.02)
    assert torch.allclose(down(up(wave))[..., 8:16, 8:16], wave[..., 8:16, 8:16], atol=0.03)
    assert up(wave).shape == (1, 1, 48, 48) and down(wave).shape == (1, 1, 12, 12)


@pytest.mark.parametrize("border", ["zeros", "circular"])
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_kaiser_filters_are_convolutions(factor: int, border: str) -> None:
    """Also by odd factors, whose cells keep their centres too, and by 1, which is nothing."""
    maps = torch.rand(2, 3, 12, 18, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kernel = torch.from_numpy(kaiser_kernel(factor))
    taps = (kernel[:, None] * kernel)[None, None].expand(3, 1, -1, -1)
    reach = (len(kernel) - factor) // 2
    padded = functional.pad(maps, [reach] * 4, "circular" if border == "circular" else "constant")
    coarse = KaiserDownsample(factor, border)(maps)  # type: ignore[arg-type]
    assert torch.allclose(coarse, functional.conv2d(padded, taps, stride=factor, groups=3), atol=1e-12)
    around = functional.pad(coarse, [TAPS // 2] * 4, "circular" if border == "circular" else "constant")
    first = reach + TAPS // 2 * factor
    spread = functional.conv_transpose2d(around, factor**2 * taps, stride=factor, groups=3)
    fine = KaiserUpsample(factor, border)(coarse)  # type: ignore[arg-type]
    assert torch.allclose(fine, spread[..., first : first + 12, first : first + 18], atol=1e-12)
    assert factor > 1 or torch.allclose(fine, maps, atol=1e-12)


def test_a_filter_first_used_in_inference_can_be_trained_through() -> None:
    layer = KaiserDownsample(2, cutoff=0.77)
    maps = torch.rand(1, 1, 10, 10)
    with torch.inference_mode():
        layer(maps)
    maps.requires_grad_()
    layer(maps).sum().backward()
    assert maps.grad is not None and float(maps.grad.sum()) > 0


def test_a_kaiser_kernel_is_symmetric_and_stops_what_the_coarse_grid_cannot_hold() -> None:
    kernel = torch.from_numpy(kaiser_kernel(2))
    assert torch.allclose(kernel, kernel.flip(0))
    assert float(kernel.sum()) == pytest.approx(1)
    response = torch.fft.rfft(kernel, 256).abs()
    assert float(response[:20].min()) > 0.95
    assert float(response[105:].max()) < 0.02
    lower = torch.fft.rfft(torch.from_numpy(kaiser_kernel(2, 0.7)), 256).abs()
    assert float(lower[64]) < 0.15 < 0.4 < float(response[64])  # at the coarse grid's limit


def test_wrong_factors_and_sides_are_told() -> None:
    with pytest.raises(UsageError, match=r"above 0 and at most 1, got 1\.5"):
        IdealDownsample(2, 1.5)
    with pytest.raises(UsageError, match="above 0 and at most 1, got 0"):
        FilteredActivation(leaky, filter="kaiser", cutoff=0.0)
    with pytest.raises(UsageError, match="at least 1, got 0"):
        IdealUpsample(0)
    with pytest.raises(UsageError, match="maps of 9 x 8 can't be made 2 times as coarse"):
        IdealDownsample()(torch.zeros(1, 1, 9, 8))
    with pytest.raises(UsageError, match="can't be made 2 times as coarse"):
        KaiserDownsample()(torch.zeros(1, 1, 8, 9))
