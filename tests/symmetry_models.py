"""Modules as a user might have them, for `robovision symmetry tests.symmetry_models:NAME`."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def torus() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), nn.ReLU(), nn.Conv2d(4, 3, 1))


def grey() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.Flatten(), nn.LazyLinear(2))


class PointNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.each = nn.Linear(3, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, points: Tensor) -> Tensor:
        return self.head(self.each(points).relu().amax(1))  # type: ignore[no-any-return]


class Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("it wants 7 channels")


class Unsteady(nn.Module):
    """Returns another shape from the second call on."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x if self.calls == 1 else x[..., :-1]


class Words(nn.Module):
    def forward(self, x: Tensor) -> str:
        return "a cat"


class Numbers(nn.Module):
    """One number for everything, a mask, half precision."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return x.mean(), x > 0.5, x.half()


class Mask(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x > 0.5


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class Void(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:0]


class Undefined(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.nan


ready = nn.Conv2d(3, 3, 1)


def fails() -> nn.Module:
    raise KeyError("weights")


def number() -> int:
    return 3


def seven() -> nn.Module:
    return nn.Conv2d(7, 1, 1)
