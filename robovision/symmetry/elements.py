"""What an element of a group can act on, and the groups that act on sets: permutations and the scene's own flow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robovision.errors import UsageError


class Element(ABC):
    """An element of a group. It acts on the data that it has a method for; the rest is refused.

    Raises:
        UsageError: from the methods for data that the group does not act on, naming both.
    """

    @abstractmethod
    def inverse(self) -> Element:
        """The element that undoes this one."""

    @abstractmethod
    def __matmul__(self, first: Any) -> Element:
        """The element that acts as `first`, of the same class, and then as this one."""

    def maps(self, maps: Tensor, cell: float = 1.0) -> tuple[Tensor, Tensor]:
        """Maps [B, C, H, W] of cells of so many pixels, moved, and a mask [H, W] of what came from inside."""
        raise self.refuses("images and maps")

    def directions(self, xy: Tensor) -> Tensor:
        """Vectors [..., 2] in the image plane (x to the right, y down), such as optical flow at one place."""
        raise self.refuses("directions in the image")

    def keypoints(self, xy: Tensor, size: tuple[int, int]) -> Tensor:
        """Places [..., 2] in pixels (x, y) of an image of (width, height); the first pixel's centre is (0, 0)."""
        raise self.refuses("keypoints")

    def points(self, points: Tensor) -> Tensor:
        """Places [..., N, 3] in metres."""
        raise self.refuses("points")

    def vectors(self, vectors: Tensor) -> Tensor:
        """Flow, velocities or forces [..., N, 3]: as points, but not shifted."""
        raise self.refuses("vectors")

    def boxes(self, boxes: Tensor) -> Tensor:
        """Oriented boxes [N, 7]: centre, length, width, height, yaw."""
        raise self.refuses("boxes")

    def items(self, items: Tensor) -> Tensor:
        """A set's items [..., N, D], whatever their channels mean."""
        raise self.refuses("sets of items")

    def refuses(self, data: str) -> UsageError:
        """The error for data that the group does not act on."""
        return UsageError(f"{type(self).__name__} does not act on {data}")


@dataclass(frozen=True)
class Permutation(Element):
    """Another order of N things: what was at `order[k]` comes to k.

    Raises:
        UsageError: if the order is no permutation of 0..N-1; from its methods, for another number of things.
    """

    order: tuple[int, ...]

    def __post_init__(self) -> None:
        if sorted(self.order) != list(range(len(self.order))):
            raise UsageError(f"a permutation names each of 0..{len(self.order) - 1} once, got {self.order}")

    def inverse(self) -> Permutation:
        return Permutation(tuple(torch.tensor(self.order).argsort().tolist()))

    def __matmul__(self, first: Permutation) -> Permutation:
        if len(first.order) != len(self.order):
            raise UsageError(f"permutations of {len(self.order)} and of {len(first.order)} things don't compose")
        return Permutation(tuple(first.order[k] for k in self.order))

    def items(self, items: Tensor) -> Tensor:
        if items.shape[-2] != len(self.order):
            raise UsageError(f"a permutation of {len(self.order)} things does not act on {items.shape[-2]}")
        return items[..., list(self.order), :]

    def points(self, points: Tensor) -> Tensor:
        return self.items(points)

    def vectors(self, vectors: Tensor) -> Tensor:
        return self.items(vectors)

    def boxes(self, boxes: Tensor) -> Tensor:
        return self.items(boxes)


@dataclass(frozen=True, eq=False)
class SceneFlow(Element):
    """Time that passes: each of N points moves with its own velocity, which stays as it is.

    Convention:
        velocities: [N, 3], metres a second.
        seconds: how long, negative for back in time.
    """

    velocities: Tensor
    seconds: float

    def inverse(self) -> SceneFlow:
        return SceneFlow(self.velocities, -self.seconds)

    def __matmul__(self, first: SceneFlow) -> SceneFlow:
        return SceneFlow(self.velocities, self.seconds + first.seconds)

    def points(self, points: Tensor) -> Tensor:
        if points.shape[-2:] != self.velocities.shape:
            raise UsageError(
                f"a flow of {list(self.velocities.shape)} does not act on points of {list(points.shape)}: "
                "each point needs its velocity"
            )
        return points + self.seconds * self.velocities.to(points)

    def vectors(self, vectors: Tensor) -> Tensor:
        return vectors
