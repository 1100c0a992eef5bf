"""Hedges and bushes put into scenes: what simulated streets lack, and detectors take for cars.

A hedge is an upright strip with a ragged front and top. Rays that would pass through it end in it, some of them deep
inside, and what stands behind it loses its points: the sweep keeps the sensor's own pattern.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robovision.lidar.detectors.augmentation import Scene

NEAREST = 0.6
"""Least share of the way to a point, one by chance, at which a hedge stands."""
LENGTH, HEIGHT = (1.0, 40.0), (0.5, 5.0)
"""Metres between which they are long and high; short and low ones are as frequent as long and high ones."""
RAGGED = 0.35
"""Metres by which the front goes in and out."""
DEPTH = (0.1, 0.7)
"""Mean metres that rays get into a hedge."""
GAPS = 0.15
"""Share of the rays that go through."""
TRIES = 8
"""How often a place is looked for."""
ROOM = 1.5
"""Metres between a hedge and the circle around an object."""


def add_hedges(scene: Scene, most: int, ground: float, generator: torch.Generator) -> Scene:
    """The scene, seen from the origin, with up to `most` hedges that stand on ground of this height, by chance."""
    count = int(torch.randint(most + 1, (), generator=generator))
    for _ in range(TRIES * count if len(scene.points) else 0):
        hedged = _add(scene, ground, generator)
        count -= hedged is not scene
        scene = hedged
        if count == 0:
            break
    return scene


def _add(scene: Scene, ground: float, generator: torch.Generator) -> Scene:
    """The scene with a hedge, or as it is if an object stands there."""
    before, turn, long, high, deep = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
    # Somewhere on the way to a point there is free sight.
    point = scene.points[int(torch.randint(len(scene.points), (), generator=generator)), :2]
    middle = point * (NEAREST + (1 - NEAREST) * before)
    half = _between(LENGTH, long) / 2
    along = torch.tensor([math.cos(math.pi * turn), math.sin(math.pi * turn)])
    if _blocked(scene.objects.boxes, middle, along, half):
        return scene
    points = scene.points
    reach = _hits(points[:, :3], middle, along, half, ground, _between(HEIGHT, high), _between(DEPTH, deep), generator)
    seen = reach < 1
    xyz = torch.where(seen[:, None], points[:, :3] * reach[:, None], points[:, :3])
    return Scene(torch.cat([xyz, points[:, 3:]], dim=1), scene.objects)


def _hits(
    xyz: Tensor, middle: Tensor, along: Tensor, half: float, ground: float, height: float, depth: float,
    generator: torch.Generator,
) -> Tensor:  # fmt: skip
    """Where on their way [P] the rays to points end in a hedge, as a share of it; infinite where they pass it."""
    across = torch.stack([-along[1], along[0]])
    speed = xyz[:, :2] @ across
    front = float(middle @ across)
    share = front / torch.where(speed.abs() < 1e-6, 1e-6, speed)
    place = share * (xyz[:, :2] @ along) - float(middle @ along)
    phase = torch.rand(4, generator=generator) * 2 * math.pi
    wave = (place * 1.7 + phase[0]).sin() * 0.5 + (place * 4.1 + phase[1]).sin() * 0.5
    top = ground + height * (0.75 + 0.25 * (place * 1.1 + phase[2]).sin() * (place * 2.9 + phase[3]).cos())
    noise = torch.rand(2, len(xyz), generator=generator)
    deeper = (wave * RAGGED - depth * noise[0].clamp(min=1e-6).log()) / xyz.norm(dim=1).clamp(min=1e-3)
    through = noise[1] < GAPS
    inside = (share > 0) & (place.abs() < half) & (share * xyz[:, 2] < top) & (share * xyz[:, 2] > ground) & ~through
    return torch.where(inside, (share + deeper).clamp(min=0.05), math.inf)


def _blocked(boxes: Tensor, middle: Tensor, along: Tensor, half: float) -> bool:
    """Whether a strip passes through an object, or over the sensor."""
    places = torch.cat([boxes[:, :2], boxes.new_zeros(1, 2)])
    radius = torch.cat([boxes[:, 3:5].norm(dim=1) / 2, boxes.new_tensor([ROOM])])
    offset = places - middle
    nearest = (offset @ along).clamp(-half, half)
    return bool(((offset - nearest[:, None] * along).norm(dim=1) < radius + ROOM).any())


def _between(ends: tuple[float, float], share: float) -> float:
    """A number between two, evenly distributed in its logarithm."""
    return float(ends[0] * (ends[1] / ends[0]) ** share)
