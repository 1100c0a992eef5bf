"""Scenes acted on by chance: flips, turns, scales and shifts, each told as the group element that it was."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robovision.lidar.detectors.augment_options import AugmentOptions
from robovision.lidar.detectors.heads import Objects
from robovision.lidar.transforms import Similarity


@dataclass(frozen=True, eq=False)
class Scene:
    """One sweep with its true objects: points float32 [P, 3 or 4] and boxes in one frame."""

    points: Tensor
    objects: Objects


def draw(options: AugmentOptions, generator: torch.Generator) -> Similarity:
    """A group element by chance."""
    flip, turn, grow = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    x, y, z = torch.randn(3, generator=generator, dtype=torch.float64).tolist()
    return Similarity(
        (2 * turn - 1) * options.turn,
        (x * options.shift[0], y * options.shift[1], z * options.shift[2]),
        1 + (2 * grow - 1) * options.scale,
        flip < options.flip,
    )


def act(element: Similarity, scene: Scene) -> Scene:
    """The scene after a group element: points, boxes and headings move together, intensity stays."""
    xyz = element.points(scene.points[:, :3])
    points = torch.cat([xyz, scene.points[:, 3:]], dim=1)
    return Scene(points, Objects(element.boxes(scene.objects.boxes), scene.objects.labels))


def thin(scene: Scene, share: float, generator: torch.Generator) -> Scene:
    """The scene without up to this share of its points; how many is chance too."""
    kept = 1 - share * float(torch.rand((), generator=generator))
    chosen = torch.rand(len(scene.points), generator=generator) < kept
    return Scene(scene.points[chosen], scene.objects)


def augment(scene: Scene, options: AugmentOptions, generator: torch.Generator) -> tuple[Scene, Similarity]:
    """The scene after a group element by chance, and that element, so that it can be undone."""
    if options.thin:
        scene = thin(scene, options.thin, generator)
    element = draw(options, generator)
    return act(element, scene), element
