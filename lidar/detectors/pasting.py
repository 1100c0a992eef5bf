"""Ground-truth sampling: labelled objects of other sweeps put into a sweep where there is room.

Source: SECOND (Yan et al., 2018), section 3.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robovision.lidar.boxes import bev_iou, points_in_boxes
from robovision.lidar.detectors.augmentation import Scene
from robovision.lidar.detectors.data import read_scene
from robovision.lidar.detectors.heads import Objects
from robovision.lidar.detectors.train_options import TrainOptions
from robovision.seeding import derive

SWEEPS, MOST = 200, 1000
"""Sweeps that objects are cut out of at most, and objects that are kept of each class."""


@dataclass(frozen=True, eq=False)
class Cutout:
    """One object: its box [7] and the points [P, F] in it, where they were."""

    box: Tensor
    points: Tensor


@dataclass(frozen=True, eq=False)
class Pasting:
    """Puts up to `most` objects of each class into scenes.

    Convention:
        cutouts: of each class, in the detector's order.
    """

    cutouts: tuple[tuple[Cutout, ...], ...]
    most: int

    def __call__(self, scene: Scene, generator: torch.Generator) -> Scene:
        """The scene with objects where they were in their own sweep, the points inside their boxes replaced."""
        boxes, labels = scene.objects.boxes, scene.objects.labels
        added: list[Cutout] = []
        for label, known in enumerate(self.cutouts):
            wanted = torch.randperm(len(known), generator=generator)[: self.most].tolist()
            for cutout in (known[number] for number in wanted):
                if not (bev_iou(cutout.box[None], boxes) > 0).any():
                    added.append(cutout)
                    boxes = torch.cat([boxes, cutout.box[None]])
                    labels = torch.cat([labels, labels.new_tensor([label])])
        if not added:
            return scene
        inside = points_in_boxes(scene.points[:, :3], torch.stack([cutout.box for cutout in added])).any(dim=0)
        points = torch.cat([scene.points[~inside], *(cutout.points for cutout in added)])
        return Scene(points, Objects(boxes, labels))


def collect(clouds: list[Path], options: TrainOptions) -> Pasting:
    """Objects with enough points out of labelled sweeps, which are chosen by chance if there are many."""
    order = np.random.default_rng(derive(options.seed, "cutouts")).permutation(len(clouds))[:SWEEPS]
    config = options.detector()
    found: list[list[Cutout]] = [[] for _ in config.classes]
    for number in order.tolist():
        scene = read_scene(clouds[number], config, options.view)
        inside = points_in_boxes(scene.points[:, :3], scene.objects.boxes)
        for box, label, mine in zip(scene.objects.boxes, scene.objects.labels.tolist(), inside, strict=True):
            if len(found[label]) < MOST and mine.sum() >= options.least:
                found[label].append(Cutout(box, scene.points[mine].clone()))
    return Pasting(tuple(map(tuple, found)), options.paste)
