"""Labelled sweeps to learn from: KITTI's layout, the simulator's sequences, nuScenes; split by sequence.

Uniformly drawn frames of one sequence are almost the same picture, so that a share of the labels is a share of whole
sequences (a folder with `velodyne`, or a log, is one).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robovision.errors import UsageError
from robovision.lidar.boxes import points_in_boxes
from robovision.lidar.clouds import FORMATS
from robovision.lidar.detectors.augmentation import Scene
from robovision.lidar.detectors.config import DetectorConfig, Grid
from robovision.lidar.detectors.detector import features
from robovision.lidar.detectors.heads import Objects
from robovision.lidar.detectors.nuscenes_data import find_root, find_scenes, is_nuscenes, read_truth
from robovision.lidar.frames import Frame, read_frame
from robovision.lidar.kitti_calibration import IMAGE, read_calibration
from robovision.lidar.kitti_labels import read_labels
from robovision.types import Array, Boxes3D, PointCloud

FEWEST = 2
"""Points of a batch that normalisations need."""


@dataclass(frozen=True)
class Drive:
    """The labelled sweeps of one drive, in order."""

    name: str
    clouds: tuple[Path, ...]


def find_sequences(folders: Sequence[Path], labelled: bool = True) -> list[Drive]:
    """The sequences in folders: one with `velodyne` in it is one, else those with it one level below; nuScenes' scenes.

    Raises:
        UsageError: for a folder without any, or, where they are asked for, sweeps without labels.
    """
    found = []
    for folder in folders:
        if is_nuscenes(folder):
            found += [Drive(name, clouds) for name, clouds in find_scenes(folder).items()]
            continue
        places = [folder] if (folder / "velodyne").is_dir() else sorted(p.parent for p in folder.glob("*/velodyne"))
        if not places:
            raise UsageError(
                f"{folder} holds no sequence: neither it nor a folder in it has a folder velodyne, and it is "
                "not nuScenes (samples/LIDAR_TOP and v1.0-*)"
            )
        found += [_sequence(place, labelled) for place in places]
    return found


def take_fraction(sequences: Sequence[Drive], fraction: float, seed: int) -> list[Drive]:
    """Whole sequences by chance, until they hold this share of the sweeps; at least one.

    Raises:
        UsageError: unless 0 < fraction <= 1.
    """
    if not 0 < fraction <= 1:
        raise UsageError(f"the fraction of labels must be above 0 and at most 1, got {fraction:g}")
    order = np.random.default_rng(seed).permutation(len(sequences)).tolist()
    wanted = fraction * sum(len(s.clouds) for s in sequences)
    chosen: list[int] = []
    count = 0
    for number in order:
        if chosen and count + len(sequences[number].clouds) / 2 > wanted:
            break
        chosen.append(number)
        count += len(sequences[number].clouds)
    return [sequences[number] for number in sorted(chosen)]


def check_classes(sequences: Sequence[Drive], config: DetectorConfig) -> Counter[str]:
    """How many objects of each class sequences hold.

    Raises:
        UsageError: if there is none of a class, naming it.
    """
    merged = dict(config.merged)
    counts: Counter[str] = Counter()
    for sequence in sequences:
        for cloud in sequence.clouds:
            counts.update(merged.get(name, name) for name in _names(cloud))
    empty = [name for name in config.classes if not counts[name]]
    if empty:
        drives = ", ".join(s.name for s in sequences[:5]) + (", ..." if len(sequences) > 5 else "")
        raise UsageError(
            f"no label of class {', '.join(empty)} in the {len(sequences)} sequences chosen ({drives}); "
            f"these hold {', '.join(sorted(counts)) or 'nothing'}; "
            "take a larger --fraction, another --seed, or name others with --classes"
        )
    return Counter({name: counts[name] for name in config.classes})


def _names(cloud: Path) -> list[str]:
    """The classes of a sweep's objects."""
    root = find_root(cloud)
    if root is not None:
        truth = read_truth(root, cloud)
        return [truth.classes[label] for label in truth.labels.tolist()]
    return list(read_labels(cloud.parent.parent / "label_2" / f"{cloud.stem}.txt").names)


def read_scene(path: Path, config: DetectorConfig, view: bool = False, check: bool = True) -> Scene:
    """A labelled sweep as a detector is taught it; `view`: only what the camera sees, where alone KITTI has labels.

    `check`: it is warned of labels that lie where the sweep can't be.

    Raises:
        UsageError: if there are no labels, or a file is wrong.
    """
    frame = read_frame(path, check=check)
    root = find_root(path)
    if root is not None:
        frame = dataclasses.replace(frame, truth=read_truth(root, path))
    if frame.truth is None:
        raise UsageError(f"{path} has no labels beside it; training needs KITTI's label_2 and calib beside velodyne")
    cloud = in_view(frame, path) if view else frame.cloud
    try:
        points = features(cloud, config.intensity)
    except ValueError as error:
        raise UsageError(f"{path}: {error}; train with --no-intensity") from error
    return Scene(points, to_objects(frame.truth, config))


def to_objects(boxes: Boxes3D, config: DetectorConfig) -> Objects:
    """The boxes of a detector's classes, those that are merged into one of them included."""
    merged = dict(config.merged)
    names = [merged.get(boxes.classes[label], boxes.classes[label]) for label in boxes.labels.tolist()]
    mine = [k for k, name in enumerate(names) if name in config.classes]
    table = np.concatenate([boxes.centers, boxes.sizes, boxes.yaw[:, None]], axis=1)[mine]
    labels = torch.tensor([config.classes.index(names[k]) for k in mine], dtype=torch.int64)
    return Objects(torch.from_numpy(table.astype(np.float32).reshape(-1, 7)), labels)


def drop_unseen(scene: Scene, least: int) -> Scene:
    """The scene without objects that fewer points than this are in: they can't be learnt."""
    objects = scene.objects
    seen = points_in_boxes(scene.points[:, :3], objects.boxes).count_nonzero(dim=1) >= least
    return Scene(scene.points, Objects(objects.boxes[seen], objects.labels[seen]))


def check_within(points: Tensor, grid: Grid, clouds: Sequence[Path]) -> None:
    """Raise UsageError, naming clouds, if hardly any of their points [P, 3 or 4] lies in a grid."""
    low, high = points.new_tensor(grid.low), points.new_tensor(grid.high)
    count = int(((points[:, :3] >= low) & (points[:, :3] < high)).all(dim=1).count_nonzero())
    if count < FEWEST:
        named = ", ".join(str(cloud) for cloud in clouds)
        raise UsageError(
            f"{count} of {len(points)} points of {named} lie where this model looks, {grid.low} to {grid.high} m "
            "around the sensor; are they in metres, in the LiDAR's frame? Leave such sweeps out or take another --model"
        )


def in_view(frame: Frame, path: Path) -> PointCloud:
    """The points of a KITTI frame that its left colour camera sees."""
    calibration = read_calibration(path.parent.parent / "calib" / f"{path.stem}.txt")
    cloud = frame.cloud
    place = np.c_[cloud.xyz, np.ones(len(cloud))] @ calibration.to_camera.T @ _square(calibration.projection).T
    depth = place[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        pixel = place[:, :2] / depth[:, None]
    seen = (depth > 0) & (pixel >= 0).all(axis=1) & (pixel < np.array(IMAGE)).all(axis=1)
    intensity, time, ring = (None if a is None else a[seen] for a in (cloud.intensity, cloud.time, cloud.ring))
    return PointCloud(cloud.xyz[seen], intensity, time, ring, cloud.frame)


def _square(projection: Array) -> Array:
    return np.concatenate([projection, [[0.0, 0, 0, 1]]])


def _sequence(folder: Path, labelled: bool) -> Drive:
    clouds = tuple(sorted(p for p in (folder / "velodyne").iterdir() if p.name.lower().endswith(tuple(FORMATS))))
    if not clouds:
        raise UsageError(f"{folder / 'velodyne'} holds no point clouds; their names end with {', '.join(FORMATS)}")
    if labelled and not (folder / "label_2").is_dir():
        raise UsageError(f"{folder} has no folder label_2 with the labels of its sweeps")
    return Drive(folder.name, clouds)
