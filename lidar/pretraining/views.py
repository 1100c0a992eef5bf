"""Sweeps moved by chance, as the objectives look at them; each view tells the group element that it was moved by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robovision.lidar.pretraining.options import MotionOptions
from robovision.lidar.pretraining.sweeps import Moment
from robovision.lidar.transforms import Similarity


@dataclass(frozen=True)
class Kind:
    """How a view is made."""

    earlier: bool = False
    """Of the sweep before."""
    moved: bool = True
    """Whether it is shifted, scaled and perhaps flipped."""
    turned: bool = False
    """Whether it is turned."""
    like: str | None = None
    """Moved by the same element as this view."""


VIEWS: dict[str, Kind] = {
    "here": Kind(),
    "there": Kind(),
    "turned": Kind(moved=False, turned=True),
    "still": Kind(moved=False),
    "spun": Kind(turned=True),
    "spun again": Kind(turned=True),
    "before": Kind(earlier=True, like="here"),
    "spun before": Kind(earlier=True, turned=True),
}
"""Every view that an objective may ask for; those of one sweep have its points in the same order."""


@dataclass(frozen=True, eq=False)
class View:
    """The sweeps of a batch, each after a group element.

    Convention:
        points: float32 [P, 3 or 4], end to end.
        sample: int64 [P], the sweep of each.
        elements: of each sweep.
    """

    points: Tensor
    sample: Tensor
    elements: tuple[Similarity, ...]

    def __len__(self) -> int:
        return len(self.elements)

    def to(self, device: torch.device) -> View:
        """The same on a device."""
        return View(self.points.to(device), self.sample.to(device), self.elements)


@dataclass(frozen=True, eq=False)
class Batch:
    """What the objectives get.

    Convention:
        views: by name.
        flow: float32 [Q, 3], of the points of the view `before`, moved as they were.
        seed: of whatever else is left to chance.
    """

    views: dict[str, View]
    flow: Tensor
    seed: int

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch({name: view.to(device) for name, view in self.views.items()}, self.flow.to(device), self.seed)

    def generator(self) -> torch.Generator:
        """Random numbers, the same at each call."""
        return torch.Generator().manual_seed(self.seed)


def draw(kind: Kind, options: MotionOptions, generator: torch.Generator) -> Similarity:
    """A group element by chance."""
    turn, grow, flip, *shift = torch.rand(6, generator=generator, dtype=torch.float64).tolist()
    yaw = (2 * turn - 1) * options.turn if kind.turned else 0.0
    if not kind.moved:
        return Similarity(yaw)
    x, y, z = ((2 * part - 1) * options.shift for part in shift)
    return Similarity(yaw, (x, y, z), 1 + (2 * grow - 1) * options.scale, flip < options.flip)


def make_batch(
    moments: Sequence[Moment], names: Iterable[str], options: MotionOptions, generator: torch.Generator
) -> Batch:
    """The named views of moments."""
    elements: dict[str, tuple[Similarity, ...]] = {}
    views = {}
    for name in _leaders_first(names):
        kind = VIEWS[name]
        drawn = None if kind.like is None else elements.get(kind.like)
        elements[name] = drawn or tuple(draw(kind, options, generator) for _ in moments)
        views[name] = _view([m.before if kind.earlier else m.now for m in moments], elements[name])
    carried = elements.get("before", tuple(Similarity() for _ in moments))
    flow = torch.cat([element.vectors(m.flow) for element, m in zip(carried, moments, strict=True)])
    return Batch(views, flow, int(torch.randint(2**62, (), generator=generator)))


def _leaders_first(names: Iterable[str]) -> list[str]:
    """The names, those that others are like before these, in an order that does not depend on the given one."""
    return sorted(names, key=lambda name: (VIEWS[name].like is not None, name))


def _view(clouds: Sequence[Tensor], elements: tuple[Similarity, ...]) -> View:
    moved = [torch.cat([g.points(c[:, :3]), c[:, 3:]], dim=1) for g, c in zip(elements, clouds, strict=True)]
    sample = torch.arange(len(clouds)).repeat_interleave(torch.tensor([len(cloud) for cloud in clouds]))
    return View(torch.cat(moved), sample, elements)
