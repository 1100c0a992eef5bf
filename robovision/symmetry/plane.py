"""Motions of the image plane, and their action on images, token grids, keypoints and directions.

Convention:
    Points are (y, x) in pixels from the centre of the image, y down and x to the right.
    A map [B, C, H, W] has cells of `cell` pixels: 1 for an image, the patch for a token grid. The centre of the
    map is the centre of the image, so that one element acts on both in kind.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from robovision.errors import UsageError
from robovision.symmetry.elements import Element

ROUNDING = 1e-6
"""Share of a cell by which a point may lie outside."""


class Motion(Element):
    """An element of a group that moves the plane: x -> linear x + shift."""

    @abstractmethod
    def linear(self) -> Tensor:
        """The linear part, acting on (y, x), float64 [2, 2]."""

    def shift(self) -> Tensor:
        """Where the centre goes, (y, x) in pixels, float64 [2]."""
        return torch.zeros(2, dtype=torch.float64)

    def move(self, points: Tensor) -> Tensor:
        """Where the points [..., 2] go."""
        return points @ self.linear().to(points).T + self.shift().to(points)

    def source(self, points: Tensor) -> Tensor:
        """Where the points [..., 2] came from: the inverse element, acting on them."""
        return (points - self.shift().to(points)) @ self.linear().inverse().to(points).T

    def inverse(self) -> Motion:
        back = self.linear().inverse()
        return Affine(back, -back @ self.shift())

    def __matmul__(self, first: Motion) -> Motion:
        return Affine(self.linear() @ first.linear(), self.move(first.shift()))

    def maps(self, maps: Tensor, cell: float = 1.0) -> tuple[Tensor, Tensor]:
        return act(self, maps, cell)

    def directions(self, xy: Tensor) -> Tensor:
        return (xy.flip(-1) @ self.linear().to(xy).T).flip(-1)

    def keypoints(self, xy: Tensor, size: tuple[int, int]) -> Tensor:
        centre = xy.new_tensor([size[0] - 1, size[1] - 1]) / 2
        return self.move((xy - centre).flip(-1)).flip(-1) + centre


@dataclass(frozen=True, eq=False)
class Affine(Motion):
    """What motions compose to."""

    matrix: Tensor
    offset: Tensor

    def linear(self) -> Tensor:
        return self.matrix

    def shift(self) -> Tensor:
        return self.offset


@dataclass(frozen=True)
class Translation(Motion):
    """A shift by so many pixels, whole or not; between pixels maps are interpolated linearly."""

    down: float
    right: float

    def linear(self) -> Tensor:
        return torch.eye(2, dtype=torch.float64)

    def shift(self) -> Tensor:
        return torch.tensor([self.down, self.right], dtype=torch.float64)


@dataclass(frozen=True)
class Rotation(Motion):
    """A turn about the centre, in degrees, counter-clockwise as one sees it."""

    degrees: float

    def linear(self) -> Tensor:
        angle = math.radians(self.degrees)
        cos, sin = math.cos(angle), math.sin(angle)
        return torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)


@dataclass(frozen=True)
class Flip(Motion):
    """Left and right swapped, as in a mirror."""

    def linear(self) -> Tensor:
        return torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))


@dataclass(frozen=True)
class Zoom(Motion):
    """Larger by this factor about the centre; smaller below 1, without smoothing.

    Raises:
        UsageError: for a factor that is not positive.
    """

    factor: float

    def __post_init__(self) -> None:
        if not 0 < self.factor < math.inf:
            raise UsageError(f"a zoom needs a positive factor, got {self.factor}")

    def linear(self) -> Tensor:
        return self.factor * torch.eye(2, dtype=torch.float64)


@dataclass(frozen=True)
class CyclicShift(Element):
    """A shift in pixels on the torus: what leaves on one side enters on the other.

    By a fraction of a cell it is the shift of the band-limited picture through the cells: the Fourier coefficients
    turn, and shifts compose exactly but for the highest frequency of an even side.
    """

    down: float
    right: float

    def inverse(self) -> CyclicShift:
        return CyclicShift(-self.down, -self.right)

    def __matmul__(self, first: CyclicShift) -> CyclicShift:
        return CyclicShift(self.down + first.down, self.right + first.right)

    def maps(self, maps: Tensor, cell: float = 1.0) -> tuple[Tensor, Tensor]:
        steps = self.down / cell, self.right / cell
        whole = [round(step) for step in steps]
        everywhere = torch.ones(maps.shape[-2:], dtype=torch.bool, device=maps.device)
        if max(abs(step - near) for step, near in zip(steps, whole, strict=True)) < ROUNDING:
            return maps.roll(whole, (-2, -1)), everywhere
        return fourier_shift(maps, *steps), everywhere


def fourier_shift(maps: Tensor, down: float, right: float) -> Tensor:
    """Maps [..., H, W] shifted on the torus by any number of cells, band-limited between them."""
    rows, columns = maps.shape[-2:]
    y = torch.fft.fftfreq(rows, device=maps.device, dtype=maps.dtype)[:, None]
    x = torch.fft.rfftfreq(columns, device=maps.device, dtype=maps.dtype)
    turned = torch.fft.rfft2(maps) * torch.exp(-2j * math.pi * (y * down + x * right))
    shifted: Tensor = torch.fft.irfft2(turned, s=(rows, columns))
    return shifted


def act(motion: Motion, maps: Tensor, cell: float = 1.0) -> tuple[Tensor, Tensor]:
    """The moved maps [B, C, H, W], and a mask [H, W] of the cells whose content came from inside.

    Between cells the map is interpolated linearly; outside it is 0. Whole cells and quarter turns are exact to
    rounding.
    """
    where, inside = sources(motion, maps.shape[-2], maps.shape[-1], cell)
    moved = functional.grid_sample(maps, where.to(maps).expand(len(maps), -1, -1, -1), align_corners=False)
    return moved * inside.to(maps), inside.to(maps.device)


def sources(motion: Motion, rows: int, columns: int, cell: float) -> tuple[Tensor, Tensor]:
    """Where each cell's content comes from, (x, y) [H, W, 2] with the map's edges at -1 and 1; whether from inside."""
    reach = torch.tensor([rows - 1, columns - 1], dtype=torch.float64) / 2
    y, x = (torch.arange(n, dtype=torch.float64) for n in (rows, columns))
    points = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1) - reach
    source = motion.source(points * cell) / cell
    inside = (source.abs() <= reach + ROUNDING).all(-1)
    source = source.round(decimals=9).clamp(-reach, reach)
    return source.flip(-1) * 2 / torch.tensor([columns, rows]), inside
