"""The groups by name, and the elements by which a model is tried: those of a magnitude, such as 45 degrees.

A group draws its elements for the data at hand, because some depend on it (a permutation on how many things there
are). The same call always draws the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robovision.errors import UsageError, unknown
from robovision.symmetry.elements import Element, Permutation, SceneFlow
from robovision.symmetry.plane import CyclicShift, Flip, Motion, Rotation, Translation, Zoom
from robovision.symmetry.planegroup import PlaneGroup
from robovision.symmetry.space import Isometry, Similarity

ANGLES = (5.0, 15.0, 45.0, 90.0, 180.0)
DRIFT = 0.1
"""Metres by which SE(3) shifts for each degree that it turns."""


@dataclass(frozen=True)
class Group:
    """A group that acts on data.

    Convention:
        name: such as `C4`.
        unit: of the magnitudes, such as px.
        magnitudes: how far its elements are from the identity, where it is tried.
        at: the elements of a magnitude, for inputs [..., N, D] or [B, C, H, W].
    """

    name: str
    unit: str
    magnitudes: tuple[float, ...]
    at: Callable[[float, Tensor], tuple[Element, ...]]

    def of(self, *magnitudes: float) -> Group:
        """The same group, tried at other magnitudes."""
        return replace(self, magnitudes=magnitudes)


@dataclass(frozen=True)
class Turn(Motion):
    """An element of C_N or D_N: a rotation by a multiple of 360 / N degrees, after a reflection or not."""

    group: PlaneGroup
    number: int

    def linear(self) -> Tensor:
        rotation = Rotation(math.degrees(float(self.group.angles()[self.number]))).linear()
        return rotation @ torch.diag(torch.tensor([float(self.group.signs()[self.number]), 1.0], dtype=torch.float64))

    def regular(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Regular maps [B, fields * size, H, W] of the group, moved, and a mask [H, W] of what came from inside."""
        return self.group.act_on_regular(self.number, maps), self.maps(maps)[1]


def shifts(step: int = 1) -> Group:
    """Translations by multiples of so many pixels, to the right and diagonally."""

    def at(size: float, inputs: Tensor) -> tuple[Element, ...]:
        return Translation(0.0, size), Translation(-size, -size)

    return Group(f"shifts by {step} px" if step > 1 else "shifts", "px", (float(step), 2.0 * step), at)


def cyclic_shifts(*sizes: float) -> Group:
    """Translations of the torus by these sizes in pixels, whole or fractional, to the right and diagonally."""

    def at(size: float, inputs: Tensor) -> tuple[Element, ...]:
        return CyclicShift(0.0, size), CyclicShift(size, -size)

    return Group("cyclic shifts", "px", sizes, at)


def turns(name: str) -> Group:
    """C_N (such as C8) or D_N (with reflections, such as D4): every element but the identity, at its angle.

    Raises:
        UsageError: for a name that is neither.
    """
    group = PlaneGroup.parse(name)
    angles = [round(math.degrees(float(angle)), 6) for angle in group.angles()]
    signs = group.signs().tolist()

    def at(size: float, inputs: Tensor) -> tuple[Element, ...]:
        chosen = [k for k in range(1, group.size) if angles[k] == size]
        return tuple(Turn(group, k) for k in chosen)

    moved = {a for a, sign in zip(angles[1:], signs[1:], strict=True) if a > 0 or sign < 0}
    return Group(name, "°", tuple(sorted(moved)), at)


def _both_ways(size: float, inputs: Tensor) -> tuple[Element, ...]:
    return Rotation(size), Rotation(-size)


def _axes() -> list[Tensor]:
    return list(torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))


def _space_turns(size: float, inputs: Tensor) -> tuple[Element, ...]:
    return tuple(Isometry.turn(axis, size) for axis in _axes())


def _rigid(size: float, inputs: Tensor) -> tuple[Element, ...]:
    first, second = _axes()
    drift = DRIFT * size
    return (
        Isometry(Isometry.turn(first, size).matrix, drift * second / second.norm()),
        Isometry(Isometry.turn(second, size).matrix, drift * first / first.norm()),
    )


def _improper(size: float, inputs: Tensor) -> tuple[Element, ...]:
    return tuple(Isometry(-Isometry.turn(axis, size).matrix, torch.zeros(3).double()) for axis in _axes())


def _yaws(size: float, inputs: Tensor) -> tuple[Element, ...]:
    return Similarity(yaw=math.radians(size)), Similarity(yaw=-math.radians(size))


def _ground_shifts(size: float, inputs: Tensor) -> tuple[Element, ...]:
    return Similarity(translation=(size, 0.0, 0.0)), Similarity(translation=(0.0, -size, 0.0))


def _exchanges(share: float, inputs: Tensor) -> tuple[Element, ...]:
    count = inputs.shape[-2]
    generator = torch.Generator().manual_seed(0)
    moved = torch.randperm(count, generator=generator)[: max(2, round(share * count))]
    order = torch.arange(count)
    order[moved] = moved.roll(1)
    return (Permutation(tuple(order.tolist())),)


def _flows(seconds: float, inputs: Tensor) -> tuple[Element, ...]:
    velocities = torch.randn(inputs.shape[-2], 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return SceneFlow(velocities, seconds), SceneFlow(velocities, -seconds)


SO2 = Group("SO(2)", "°", ANGLES, _both_ways)
FLIP = Group("flip", "", (1.0,), lambda size, inputs: (Flip(),))
SCALE = Group("scale", "x", (1.1, 1.5, 2.0), lambda size, inputs: (Zoom(size), Zoom(1 / size)))
SO3 = Group("SO(3)", "°", ANGLES, _space_turns)
SE3 = Group("SE(3)", "°", ANGLES, _rigid)
O3 = Group("O(3)", "°", (0.0, *ANGLES), _improper)
YAW = Group("yaw", "°", ANGLES, _yaws)
GROUND = Group("ground shifts", "m", (0.1, 1.0, 10.0), _ground_shifts)
CLOUD_SCALE = Group("scale of space", "x", (1.1, 2.0), lambda size, inputs: (Similarity(scale=size),))
MIRROR = Group("mirror", "", (1.0,), lambda size, inputs: (Similarity(mirror=True),))
PERMUTATION = Group("permutation", "of all", (0.1, 1.0), _exchanges)
SCENE_FLOW = Group("scene flow", "s", (0.1, 1.0), _flows)

GROUPS = {group.name: group for group in (SO2, FLIP, SCALE, SO3, SE3, O3, YAW, GROUND, CLOUD_SCALE, MIRROR)}
GROUPS |= {group.name: group for group in (PERMUTATION, SCENE_FLOW, shifts(), cyclic_shifts(0.125, 0.25, 0.5, 1, 4))}


def find_group(name: str) -> Group:
    """The group of this name: one of `GROUPS`, or C1 to C99 and D1 to D99.

    Raises:
        UsageError: for an unknown name, with the nearest ones.
    """
    if name in GROUPS:
        return GROUPS[name]
    try:
        return turns(name)
    except UsageError:
        raise unknown("group", name, [*GROUPS, "C4", "D4"]) from None
