"""How data of each kind changes when a group's element acts: images, tokens, keypoints, points, boxes, flow, states."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from robovision.errors import UsageError
from robovision.symmetry.elements import Element
from robovision.symmetry.groups import Turn
from robovision.symmetry.plane import Motion
from robovision.symmetry.planegroup import PlaneGroup


class Kind(ABC):
    """A kind of data that groups act on."""

    @abstractmethod
    def act(self, element: Element, data: Tensor) -> Tensor:
        """The data after the element.

        Raises:
            UsageError: if the element does not act on this kind, or the data has not its shape.
        """

    def mask(self, element: Element, data: Tensor, margin: int = 0) -> Tensor:
        """1 where the moved data came from inside, at least `margin` cells from every border; broadcasts to it."""
        return torch.ones((), dtype=data.dtype, device=data.device)

    def side(self, data: Tensor) -> int:
        """Cells along its shorter side; 0 for what has no border."""
        return 0

    def centred(self, data: Tensor) -> Tensor:
        """The data without what is the same everywhere, which is no sign of symmetry."""
        return data

    def comparable(self, data: Tensor) -> Tensor:
        """The data as numbers whose differences mean something."""
        return data


@dataclass(frozen=True)
class Image(Kind):
    """Maps [B, C, H, W] that move with the image, of cells of so many pixels: 1 for the image itself."""

    cell: float = 1.0

    def act(self, element: Element, data: Tensor) -> Tensor:
        _check_maps(data)
        return element.maps(data, self.cell)[0]

    def mask(self, element: Element, data: Tensor, margin: int = 0) -> Tensor:
        ones = torch.ones_like(data[:1, :1])
        _, inside = element.maps(ones, self.cell)
        if margin == 0:
            return inside.to(data)
        inner = torch.zeros_like(ones)
        inner[..., margin:-margin, margin:-margin] = 1
        arrived = element.maps(inner, self.cell)[0] > 1 - 1e-6
        return (inside & arrived & (inner > 0)).to(data)

    def side(self, data: Tensor) -> int:
        return min(data.shape[2:])

    def centred(self, data: Tensor) -> Tensor:
        return data - data.mean((2, 3), keepdim=True)


@dataclass(frozen=True)
class Tokens(Kind):
    """Tokens [B, N, D] of an image's cells, row by row; `grid` is (rows, columns), by default a square.

    Raises:
        UsageError: from its methods, for a number of tokens that is no grid.
    """

    cell: float
    grid: tuple[int, int] | None = None

    def act(self, element: Element, data: Tensor) -> Tensor:
        return Image(self.cell).act(element, self._maps(data)).flatten(2).transpose(1, 2)

    def mask(self, element: Element, data: Tensor, margin: int = 0) -> Tensor:
        return Image(self.cell).mask(element, self._maps(data), margin).reshape(1, -1, 1)

    def side(self, data: Tensor) -> int:
        return min(self._maps(data).shape[2:])

    def centred(self, data: Tensor) -> Tensor:
        return data - data.mean(1, keepdim=True)

    def _maps(self, data: Tensor) -> Tensor:
        if data.ndim != 3:
            raise UsageError(f"tokens must be [B, N, D], got {list(data.shape)}")
        side = math.isqrt(data.shape[1])
        rows, columns = (side, side) if self.grid is None else self.grid
        if rows * columns != data.shape[1]:
            grid = "square grid" if self.grid is None else f"grid of {rows} x {columns}"
            raise UsageError(f"{data.shape[1]} tokens fill no {grid}: name the grid, and leave class tokens out")
        return data.transpose(1, 2).reshape(len(data), -1, rows, columns)


@dataclass(frozen=True)
class FlowField(Kind):
    """Vectors on the image [B, 2, H, W] (x to the right, y down) that move and turn with it, such as optical flow."""

    cell: float = 1.0

    def act(self, element: Element, data: Tensor) -> Tensor:
        _check_maps(data)
        if data.shape[1] != 2:
            raise UsageError(f"a field of vectors has 2 channels, got {list(data.shape)}")
        return element.directions(element.maps(data, self.cell)[0].movedim(1, -1)).movedim(-1, 1)

    def mask(self, element: Element, data: Tensor, margin: int = 0) -> Tensor:
        return Image(self.cell).mask(element, data, margin)


@dataclass(frozen=True)
class RegularMap(Kind):
    """Regular maps [B, fields * size, H, W] of C_N or D_N: they move and their channels change places.

    Shifts move all channels alike; a turn must be one of the group's.
    """

    group: PlaneGroup

    def act(self, element: Element, data: Tensor) -> Tensor:
        _check_maps(data)
        if data.shape[1] % self.group.size:
            raise UsageError(f"{data.shape[1]} channels are no fields of {self.group.size} elements")
        if not isinstance(element, Motion) or torch.equal(element.linear(), torch.eye(2).double()):
            return Image().act(element, data)
        return Turn(self.group, self._number(element)).regular(data)[0]

    def mask(self, element: Element, data: Tensor, margin: int = 0) -> Tensor:
        return Image().mask(element, data, margin)

    def _number(self, element: Motion) -> int:
        """The number that the motion has in this group."""
        for number in range(self.group.size):
            if torch.allclose(Turn(self.group, number).linear(), element.linear(), atol=1e-9):
                return number
        raise UsageError(f"{element} does not act on regular maps of {self.group}: it is none of its elements")


@dataclass(frozen=True)
class Keypoints(Kind):
    """Places [..., 2] in pixels (x, y) of an image of (width, height)."""

    size: tuple[int, int]

    def act(self, element: Element, data: Tensor) -> Tensor:
        _check_last("keypoints", data, 2)
        return element.keypoints(data, self.size)


@dataclass(frozen=True)
class Points(Kind):
    """Places [..., N, 3] in metres."""

    def act(self, element: Element, data: Tensor) -> Tensor:
        _check_last("points", data, 3)
        return element.points(data)

    def centred(self, data: Tensor) -> Tensor:
        return data - data.mean(-2, keepdim=True)


@dataclass(frozen=True)
class Vectors(Kind):
    """Scene flow, velocities or forces [..., N, 3]."""

    def act(self, element: Element, data: Tensor) -> Tensor:
        _check_last("vectors", data, 3)
        return element.vectors(data)


@dataclass(frozen=True)
class States(Kind):
    """Positions and velocities [..., N, 6] of bodies."""

    def act(self, element: Element, data: Tensor) -> Tensor:
        _check_last("states", data, 6)
        return torch.cat([element.points(data[..., :3]), element.vectors(data[..., 3:])], dim=-1)


@dataclass(frozen=True)
class Boxes(Kind):
    """Oriented boxes [N, 7]: centre, length, width, height, yaw. Headings are compared by their directions."""

    def act(self, element: Element, data: Tensor) -> Tensor:
        return element.boxes(data)

    def comparable(self, data: Tensor) -> Tensor:
        return torch.cat([data[:, :6], data[:, 6:].cos(), data[:, 6:].sin()], dim=1)


@dataclass(frozen=True)
class Items(Kind):
    """A set's items [..., N, D], whose channels mean nothing to the group."""

    def act(self, element: Element, data: Tensor) -> Tensor:
        return element.items(data)


@dataclass(frozen=True)
class Same(Kind):
    """What should stay as it is, [B, ...]: an invariant. It is compared to how different the inputs' are."""

    def act(self, element: Element, data: Tensor) -> Tensor:
        return data

    def centred(self, data: Tensor) -> Tensor:
        return data - data.mean(0, keepdim=True) if len(data) > 1 else data


def _check_maps(data: Tensor) -> None:
    if data.ndim != 4:
        raise UsageError(f"images and maps must be [B, C, H, W], got {list(data.shape)}")


def _check_last(what: str, data: Tensor, width: int) -> None:
    if data.ndim < 1 or data.shape[-1] != width:
        raise UsageError(f"{what} must be [..., {width}], got {list(data.shape)}")
