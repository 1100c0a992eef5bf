"""What the features of a LiDAR backbone tell before any detector is trained on it: a linear probe under the points.

    python benchmarks/lidar_probe.py lidar-pretraining/pretrain-* --data lidar-pretraining/test

Of points on objects and of others, a ridge regression from the features under them tells the class, judged by the
average precision of each, and where they lie, judged by R^2. It is fitted on the first half of the sweeps and judged on
the second. Features that tell where a point lies and not what it is have learnt a shortcut. Random weights are the
first row.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from robovision.bench.timing import markdown
from robovision.lidar.boxes import points_in_boxes
from robovision.lidar.detectors.augmentation import Scene
from robovision.lidar.detectors.data import find_sequences, read_scene
from robovision.lidar.detectors.detector import Detector
from robovision.lidar.detectors.files import load_detector
from robovision.lidar.pretraining.files import load_backbone
from robovision.lidar.pretraining.network import at_points, inside

OTHERS, EACH = 400, 60
"""Points a sweep on nothing, and on objects of each class."""
RIDGE = 1.0
"""Penalty of the squared weights, of standardised features."""


def label(scene: Scene) -> Tensor:
    """The class of the object that each point is on, from 1; 0 for none; int64 [P]."""
    found = torch.zeros(len(scene.points), dtype=torch.int64)
    for held, name in zip(points_in_boxes(scene.points, scene.objects.boxes[:, :7]), scene.objects.labels, strict=True):
        found[held] = name + 1
    return found


def choose(scene: Scene, detector: Detector) -> tuple[Tensor, Tensor]:
    """Points by chance and their classes: int64 [N] each; only points in the detector's grid."""
    generator, classes = torch.Generator().manual_seed(0), label(scene)
    seen = inside(scene.points[:, :3], detector.config.grid)
    chosen = []
    for number in range(len(detector.config.classes) + 1):
        mine = (seen & (classes == number)).nonzero()[:, 0]
        chosen.append(mine[torch.randperm(len(mine), generator=generator)[: EACH if number else OTHERS]])
    rows = torch.cat(chosen)
    return rows, classes[rows]


@torch.no_grad()
def read(scene: Scene, detector: Detector) -> tuple[Tensor, Tensor, Tensor]:
    """Features [N, C] under chosen points of a sweep, their classes [N], and where they lie [N, 3], metres."""
    rows, classes = choose(scene, detector)
    maps = detector.backbone(detector.encoder(scene.points, torch.zeros(len(scene.points), dtype=torch.int64), 1))
    places = scene.points[rows, :3]
    return at_points(maps, places, torch.zeros(len(rows), dtype=torch.int64), detector.config.grid), classes, places


def ridge(features: Tensor, targets: Tensor, others: Tensor) -> Tensor:
    """What a ridge regression from features [N, C] to targets [N, T] says of other features [M, C]: [M, T]."""
    mean, deviation = features.mean(dim=0), features.std(dim=0) + 1e-6
    known, asked = ((values - mean) / deviation for values in (features, others))
    middle = targets.mean(dim=0)
    square = known.T @ known + RIDGE * torch.eye(known.shape[1])
    return asked @ torch.linalg.solve(square, known.T @ (targets - middle)) + middle


def average_precision(scores: Tensor, true: Tensor) -> float:
    """The mean of the precisions at each that is true, bool [N], by falling scores [N]."""
    hits = true[scores.argsort(descending=True, stable=True)].double()
    precision = hits.cumsum(dim=0) / torch.arange(1, len(hits) + 1)
    return float((precision * hits).sum() / hits.sum())


def probe(scenes: list[Scene], detector: Detector) -> list[float]:
    """The average precision of each class, then R^2 of x and y."""
    half = len(scenes) // 2
    known, asked = (
        [torch.cat(values) for values in zip(*(read(scene, detector) for scene in part), strict=True)]
        for part in (scenes[:half], scenes[half:])
    )
    count = len(detector.config.classes) + 1
    scores = ridge(known[0], torch.nn.functional.one_hot(known[1], count).float(), asked[0])
    precisions = [average_precision(scores[:, number], asked[1] == number) for number in range(1, count)]
    places, true = ridge(known[0], known[2], asked[0]), asked[2]
    explained = 1 - (places - true).square().sum(dim=0) / (true - true.mean(dim=0)).square().sum(dim=0)
    return [*precisions, *explained[:2].tolist()]


def load(path: Path) -> Detector:
    """A detector, or a pretrained backbone with a head of random weights."""
    return load_detector(path) if path.name == "detector.safetensors" else load_backbone(path)


def main() -> None:
    """Print a row for random weights and one for each backbone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "backbones", nargs="+", type=Path, help="runs of `robovision pretrain lidar` or detector.safetensors, one model"
    )
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="labelled sequences; their first sweeps")
    options = parser.parse_args()
    detectors = {str(path): load(path) for path in options.backbones}
    config = next(iter(detectors.values())).config
    torch.manual_seed(0)
    scenes = [read_scene(drive.clouds[0], config) for drive in find_sequences(options.data)]
    rows = [
        [name, *(f"{value:.2f}" for value in probe(scenes, detector))]
        for name, detector in {"random weights": Detector(config).eval(), **detectors}.items()
    ]
    print(markdown(("backbone", *config.classes, "x", "y"), rows))


if __name__ == "__main__":
    main()
