"""Hedges, fences and walls put into scenes: what simulated streets lack, and detectors take for cars.

A hedge is an upright strip, the deeper the more ragged its front and top, and perhaps another one begins at its end.
Rays that would pass through it end in it, some of them deep inside, and what stands behind it loses its points: the
sweep keeps the sensor's own pattern.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robovision.lidar.detectors.augmentation import Scene

NEAREST = 0.6
"""Least share of the way to a point, one by chance, at which a hedge stands."""
LENGTH, HEIGHT = (1.0, 40.0), (0.5, 5.0)
"""Metres between which they are long and high; short and low ones are as frequent as long and high ones."""
RAGGED = 2.0
"""How far the front goes in and out, over the depth."""
DEPTH = (0.02, 0.7)
"""Mean metres that rays get into a hedge, from walls to bushes; small depths are as frequent as great ones."""
GAPS = 0.5
"""Share of the rays that go through, at most."""
CORNERS = 0.3
"""Share of those that end in a corner, where another one begins."""
TRIES = 8
"""How often a place is looked for."""
ROOM, BESIDE, DISCS = 1.5, 0.3, 5
"""Half the metres between a hedge and the sensor; metres between it and the discs, so many, that cover an object."""


@dataclass(frozen=True, eq=False)
class _Hedge:
    """An upright strip: its middle and its direction, [2], and metres; `gaps` is a share."""

    middle: Tensor
    along: Tensor
    half: float
    height: float
    depth: float
    gaps: float

    def corner(self, half: float) -> _Hedge:
        """The one that begins where this one ends, at a right angle."""
        along = torch.stack([-self.along[1], self.along[0]])
        middle = self.middle + self.along * self.half + along * half
        return dataclasses.replace(self, middle=middle, along=along, half=half)


def add_hedges(scene: Scene, most: int, ground: float, generator: torch.Generator) -> Scene:
    """The scene, seen from the origin, with up to `most` hedges that stand on ground of this height, by chance."""
    count = int(torch.randint(most + 1, (), generator=generator))
    for _ in range(TRIES * count if len(scene.points) else 0):
        if count <= 0:
            break
        hedge = _draw(scene, generator)
        corner, share = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        hedges = [hedge] if corner > CORNERS else [hedge, hedge.corner(_between(LENGTH, share) / 2)]
        for strip in hedges:
            if not _blocked(scene.objects.boxes, strip):
                scene = _hide(scene, strip, ground, generator)
                count -= 1
    return scene


def _draw(scene: Scene, generator: torch.Generator) -> _Hedge:
    before, turn, long, high, deep, gaps = torch.rand(6, generator=generator, dtype=torch.float64).tolist()
    # Somewhere on the way to a point there is free sight.
    point = scene.points[int(torch.randint(len(scene.points), (), generator=generator)), :2]
    middle = point * (NEAREST + (1 - NEAREST) * before)
    along = torch.tensor([math.cos(math.pi * turn), math.sin(math.pi * turn)])
    depth, height = _between(DEPTH, deep), _between(HEIGHT, high)
    return _Hedge(middle, along, _between(LENGTH, long) / 2, height, depth, GAPS * gaps * deep)


def _hide(scene: Scene, hedge: _Hedge, ground: float, generator: torch.Generator) -> Scene:
    """The scene with a hedge: rays to points end in it, as far from it as they get into it."""
    xyz, along = scene.points[:, :3], hedge.along
    across = torch.stack([-along[1], along[0]])
    speed = xyz[:, :2] @ across
    share = float(hedge.middle @ across) / torch.where(speed.abs() < 1e-6, 1e-6, speed)
    place = share * (xyz[:, :2] @ along) - float(hedge.middle @ along)
    meets = (share > 0) & (share < 1) & (place.abs() < hedge.half) & (share * xyz[:, 2] > ground)
    ray = meets.nonzero()[:, 0]
    xyz, share, place = xyz[ray], share[ray], place[ray]
    phase = torch.rand(4, generator=generator) * 2 * math.pi
    uneven = min(1.0, 2 * hedge.depth)
    crest = uneven * (place * 1.1 + phase[2]).sin() * (place * 2.9 + phase[3]).cos()
    top = ground + hedge.height * (1 - 0.25 * uneven + 0.25 * crest)
    noise = torch.rand(2, len(ray), generator=generator)
    wave = ((place * 1.7 + phase[0]).sin() + (place * 4.1 + phase[1]).sin()) / 2
    metres = hedge.depth * (RAGGED * uneven * wave - noise[0].clamp(min=1e-6).log())
    share = share + torch.where(share * xyz[:, 2] < top, metres / xyz.norm(dim=1).clamp(min=1e-3), math.inf)
    ends = (share < 1) & (noise[1] >= hedge.gaps)
    points = scene.points.clone()
    points[ray[ends], :3] = xyz[ends] * share[ends, None].clamp(min=0.05)
    return Scene(points, scene.objects)


def _blocked(boxes: Tensor, hedge: _Hedge) -> bool:
    """Whether a strip passes through an object, or over the sensor."""
    # Discs along each box cover it: a car may stand close to a wall.
    ahead = torch.stack([boxes[:, 6].cos(), boxes[:, 6].sin()], dim=1)
    share = torch.linspace(-0.5, 0.5, DISCS)[:, None, None]
    along = share * (boxes[:, 3:4] - boxes[:, 4:5]).clamp(min=0) * ahead
    places = torch.cat([(boxes[:, :2] + along).reshape(-1, 2), boxes.new_zeros(1, 2)])
    room = BESIDE + 4 * hedge.depth  # within which nearly all of its ragged front is
    radius = torch.cat([(0.71 * boxes[:, 4] + room).repeat(DISCS), boxes.new_tensor([2 * ROOM])])
    offset = places - hedge.middle
    nearest = (offset @ hedge.along).clamp(-hedge.half, hedge.half)
    return bool(((offset - nearest[:, None] * hedge.along).norm(dim=1) < radius).any())


def _between(ends: tuple[float, float], share: float) -> float:
    """A number between two, evenly distributed in its logarithm."""
    return float(ends[0] * (ends[1] / ends[0]) ** share)
