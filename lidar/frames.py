"""One frame of any supported format: its point cloud, and the boxes that belong to it, found by where files lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robovision.errors import UsageError, unknown
from robovision.lidar.argoverse import read_annotations, select
from robovision.lidar.box_files import read_boxes
from robovision.lidar.checks import warn_of_far_boxes
from robovision.lidar.clouds import FORMATS, read_cloud
from robovision.lidar.kitti_calibration import objects_to_boxes, read_calibration
from robovision.lidar.kitti_labels import read_detections, read_labels
from robovision.lidar.nuscenes_boxes import read_nuscenes_boxes, to_boxes
from robovision.lidar.nuscenes_tables import find_sensor_pose, to_sensor
from robovision.lidar.view_options import ViewOptions
from robovision.lidar.waymo_boxes import read_waymo_boxes
from robovision.types import Boxes3D, PointCloud

BOX_FORMATS = (".txt", ".npz", ".feather", ".parquet", ".json")


@dataclass(frozen=True, eq=False)
class Frame:
    """A cloud, its true boxes and what was detected in it, all in the cloud's frame; None where there are none."""

    name: str
    cloud: PointCloud
    truth: Boxes3D | None = None
    detections: Boxes3D | None = None


def find_clouds(paths: Sequence[Path]) -> list[Path]:
    """The point clouds that are meant: files as they are; of folders, all clouds in them or in their `velodyne`.

    Raises:
        UsageError: for a folder without point clouds, and for a file that does not exist.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            if not path.exists():
                raise UsageError(f"there is no point cloud {path}")
            found.append(path)
            continue
        folder = path / "velodyne" if (path / "velodyne").is_dir() else path
        inside = sorted(p for p in folder.iterdir() if p.name.lower().endswith(tuple(FORMATS)))
        if not inside:
            raise UsageError(f"{folder} holds no point clouds; their names end with {', '.join(FORMATS)}")
        found += inside
    return found


def read_frame(path: Path, options: ViewOptions | None = None, check: bool = True) -> Frame:
    """A point cloud with its boxes; `check`: it is warned of boxes that lie where the cloud can't be.

    Without options, truth is looked for where the dataset has it: KITTI's `label_2` beside `velodyne` with `calib`
    (the simulator's too), Argoverse 2's `annotations.feather` above `sensors/lidar`.

    Raises:
        UsageError: naming the file, if one can't be read, an explicitly named source has nothing for this cloud, or
            KITTI's boxes have no calibration.
    """
    options = options or ViewOptions()
    cloud = read_cloud(path)
    beside = _truth_beside(path)
    source = options.truth or beside
    truth = None if source is None else _boxes(source, path, options, scored=False)
    detections = None if options.detections is None else _boxes(options.detections, path, options, scored=True)
    if detections is not None and detections.scores is not None:
        detections = select(detections, detections.scores >= options.score)
    for boxes, what in ((truth, "truth"), (detections, "detections")):
        if boxes is not None and check:
            warn_of_far_boxes(boxes, cloud, f"{path.name}, {what}")
    return Frame(stem(path), cloud, truth, detections)


def stem(path: Path) -> str:
    """The name of a cloud's file without what its format adds: `000007` of `000007.pcd.bin`."""
    ending = next((e for e in FORMATS if path.name.lower().endswith(e)), "")
    return path.name.removesuffix(path.name[len(path.name) - len(ending) :])


def _truth_beside(path: Path) -> Path | None:
    labels = path.parent.parent / "label_2" / f"{stem(path)}.txt"
    if path.parent.name == "velodyne" and labels.is_file():
        return labels
    log = path.parent.parent.parent / "annotations.feather"
    return log if path.parent.name == "lidar" and path.suffix == ".feather" and log.is_file() else None


def _boxes(source: Path, cloud: Path, options: ViewOptions, scored: bool) -> Boxes3D:
    path = _of_cloud(source, cloud)
    if path.suffix == ".txt":
        objects = read_detections(path) if scored else read_labels(path)
        return objects_to_boxes(objects, read_calibration(_calibration(path, cloud, options)))
    if path.suffix == ".npz":
        return read_boxes(path)
    if path.suffix == ".feather":
        return read_annotations(path).at(_timestamp(cloud))
    if path.suffix == ".parquet":
        waymo = read_waymo_boxes(path)
        mine = np.array([frame.split("/")[-1] == stem(cloud) for frame in waymo.frames], bool)
        return select(waymo.boxes, mine)
    sensor = find_sensor_pose(cloud)
    return to_sensor(to_boxes(read_nuscenes_boxes(path), sensor.sample), sensor)


def _of_cloud(source: Path, cloud: Path) -> Path:
    """The file with the boxes of a cloud: the source itself, or that of the cloud's name in a folder."""
    if source.is_dir():
        files = [source / f"{stem(cloud)}{ending}" for ending in BOX_FORMATS]
        found = next((path for path in files if path.is_file()), None)
        if found is None:
            raise UsageError(f"{source} has no boxes for {cloud.name}; expected {files[0].name}, or another ending")
        return found
    if not source.is_file():
        raise UsageError(f"there is no file or folder {source}")
    if source.suffix not in BOX_FORMATS:
        raise unknown("format of boxes", source.suffix, BOX_FORMATS)
    return source


def _calibration(labels: Path, cloud: Path, options: ViewOptions) -> Path:
    name = f"{stem(cloud)}.txt"
    given = options.calibration
    if given is not None:
        return given / name if given.is_dir() else given
    places = [folder.parent / "calib" / name for folder in (cloud.parent, labels.parent)]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise UsageError(f"{labels} needs KITTI's calibration, and there is no {places[0]}; give it by --calibration")
    return found


def _timestamp(cloud: Path) -> int:
    try:
        return int(stem(cloud))
    except ValueError:
        raise UsageError(
            f"{cloud}: Argoverse 2 names its sweeps by their timestamps, such as 315966265259836000.feather"
        ) from None
