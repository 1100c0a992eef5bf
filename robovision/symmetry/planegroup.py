"""The finite groups of the plane, C_N and D_N, and their action on maps and on regular maps.

Convention:
    Angles are counter-clockwise as one sees it, as in `robovision.symmetry.plane`. The reflection of D_N turns the
    image upside down (y to -y). Elements are numbered rotations first: k * 360 / N degrees, then the reflection
    followed by these.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from robovision.errors import UsageError
from robovision.symmetry.plane import Rotation, act


@dataclass(frozen=True)
class PlaneGroup:
    """The rotations of the plane by multiples of 360 / order degrees: C_N; with reflections: D_N.

    >>> PlaneGroup.parse("D4").size
    8

    Raises:
        UsageError: for an order below 1.
    """

    order: int
    reflections: bool = False

    def __post_init__(self) -> None:
        if self.order < 1:
            raise UsageError(f"the order of a group is at least 1, got {self.order}")

    @classmethod
    def parse(cls, name: str) -> PlaneGroup:
        """The group of a name such as C8 or D4.

        Raises:
            UsageError: for any other name.
        """
        found = re.fullmatch(r"([CD])([1-9]\d?)", name)
        if found is None:
            raise UsageError(
                f"{name!r} is no group of the plane: C1 to C99 (rotations) or D1 to D99 (with reflections)"
            )
        return cls(int(found[2]), found[1] == "D")

    @property
    def size(self) -> int:
        """How many elements it has."""
        return self.order * (2 if self.reflections else 1)

    def angles(self) -> Tensor:
        """The rotation of each element, radians, float64 [size]."""
        return self._turns().double() * (2 * math.pi / self.order)

    def signs(self) -> Tensor:
        """-1 for each element that reflects, else 1; float64 [size]."""
        return 1.0 - 2.0 * self._mirrored().double()

    def quotients(self) -> Tensor:
        """The number of g^-1 h for all elements g and h, int64 [size, size]."""
        turns, mirrored = self._turns(), self._mirrored()
        difference = turns[None, :] - turns[:, None]
        turned = torch.where(mirrored[:, None], -difference, difference) % self.order
        return turned + self.order * (mirrored[:, None] ^ mirrored[None, :]).long()

    def act_on_plane(self, element: int, maps: Tensor) -> Tensor:
        """The image [B, C, H, W] after this element; content from outside is 0. Exact for quarter turns."""
        if self._mirrored()[element]:
            maps = maps.flip(2)
        return act(Rotation(math.degrees(float(self.angles()[element]))), maps)[0]

    def act_on_regular(self, element: int, maps: Tensor) -> Tensor:
        """A regular map [B, fields * size, H, W] after this element."""
        fields = split(maps, self.size)
        return self.act_on_plane(element, fields[:, :, self.quotients()[element]].flatten(1, 2))

    def _turns(self) -> Tensor:
        return torch.arange(self.size) % self.order

    def _mirrored(self) -> Tensor:
        return torch.arange(self.size) >= self.order


def split(maps: Tensor, size: int) -> Tensor:
    """A regular map with an axis for the fields and one for the elements: [B, fields, size, H, W]."""
    batch, _, rows, columns = maps.shape
    return maps.reshape(batch, -1, size, rows, columns)
