"""nuScenes' ground truth from the dataset's own tables, as the official evaluation loads it (Caesar et al., 2020).

Classes come from the annotations' categories, velocities from where an object was before and after, and bicycles and
motorcycles in racks are left out of truth and detections alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from robovision.errors import UsageError
from robovision.lidar.nuscenes_boxes import NuScenesBoxes, select
from robovision.lidar.nuscenes_tables import fitting, read_table
from robovision.lidar.rotations import quaternion_to_matrix
from robovision.types import Array

CATEGORIES = {
    "movable_object.barrier": "barrier",
    "movable_object.trafficcone": "traffic_cone",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
    **{
        f"human.pedestrian.{kind}": "pedestrian" for kind in ("adult", "child", "construction_worker", "police_officer")
    },
}
"""The class of each category that is evaluated."""

RACK = "static_object.bicycle_rack"
IN_RACKS = ("bicycle", "motorcycle")
LONGEST = 1.5
"""Seconds between two annotations beyond which no velocity is drawn from them; twice as much across three."""

LIDAR = "LIDAR_TOP"

Row = Mapping[str, Any]
Rows = dict[str, Row]


def has_tables(folder: Path) -> bool:
    """Whether a folder holds nuScenes' tables, such as `v1.0-trainval`."""
    return (folder / "sample_annotation.json").is_file()


def read_nuscenes_truth(folder: Path, detections: NuScenesBoxes) -> tuple[NuScenesBoxes, NuScenesBoxes]:
    """The ground truth of the samples with detections, and the detections; both without cycles in racks.

    Args:
        folder: the tables, such as `nuscenes/v1.0-trainval`.
        detections: of all samples of the scenes that count, such as the validation scenes.

    Raises:
        UsageError: if the tables don't know a sample, samples of a scene are without detections (empty lists are
            needed for those), or a table is missing or damaged, or they don't fit together.
    """
    with fitting(folder):
        return _read(folder, detections)


def _read(folder: Path, detections: NuScenesBoxes) -> tuple[NuScenesBoxes, NuScenesBoxes]:
    samples = _by_token(folder, "sample")
    _check_samples(folder, samples, detections)
    places = _places(folder, detections.samples)
    wanted = set(detections.samples)
    rows = read_table(folder, "sample_annotation")
    annotations: Rows = {row["token"]: row for row in rows}
    instances, categories = _by_token(folder, "instance"), _by_token(folder, "category")
    attributes = _by_token(folder, "attribute")
    kinds = {token: str(categories[row["category_token"]]["name"]) for token, row in instances.items()}
    order = {token: n for n, token in enumerate(detections.samples)}
    present = sorted((row for row in rows if row["sample_token"] in wanted), key=lambda row: order[row["sample_token"]])
    named = [(row, CATEGORIES[kind]) for row in present if (kind := kinds[row["instance_token"]]) in CATEGORIES]
    boxes = [row for row, _ in named]
    sample = np.array([order[row["sample_token"]] for row in boxes], np.int64)
    translation = _numbers(boxes, "translation", 3)
    truth = NuScenesBoxes(
        detections.samples,
        sample,
        np.array([name for _, name in named], np.str_),
        np.array([_attribute(row, attributes) for row in boxes], np.str_),
        translation,
        _numbers(boxes, "size", 3),
        _numbers(boxes, "rotation", 4),
        np.array([_velocity(row, annotations, samples) for row in boxes], np.float64).reshape(-1, 2),
        np.full(len(boxes), -1.0),
        translation - places[sample],
        np.array([row["num_lidar_pts"] + row["num_radar_pts"] for row in boxes], np.int64),
    )
    found = replace(detections, ego=detections.translation - places[detections.sample])
    racks = [row for row in present if kinds[row["instance_token"]] == RACK]
    return select(truth, ~_in_racks(truth, racks, order)), select(found, ~_in_racks(found, racks, order))


def _check_samples(folder: Path, samples: Rows, detections: NuScenesBoxes) -> None:
    """Refuse samples that the tables don't know, and scenes of which only a part was detected on."""
    strange = [token for token in detections.samples if token not in samples]
    if strange:
        raise UsageError(f"{folder} has no sample {strange[0]} (nor {len(strange) - 1} others); give its own tables")
    scenes = {samples[token]["scene_token"] for token in detections.samples}
    given = set(detections.samples)
    missing = [token for token, row in samples.items() if row["scene_token"] in scenes and token not in given]
    if missing:
        raise UsageError(
            f"{len(missing)} samples of the scenes with detections have none, such as {missing[0]}; "
            "write each, with an empty list if nothing is found"
        )


def _places(folder: Path, samples: Iterable[str]) -> Array:
    """Where the car is when the LiDAR takes each sample, float64 [S, 3]."""
    sensors = _by_token(folder, "sensor")
    mounts = {
        row["token"]
        for row in read_table(folder, "calibrated_sensor")
        if sensors[row["sensor_token"]]["channel"] == LIDAR
    }
    poses = {
        row["sample_token"]: row["ego_pose_token"]
        for row in read_table(folder, "sample_data")
        if row["is_key_frame"] and row["calibrated_sensor_token"] in mounts
    }
    egos = _by_token(folder, "ego_pose")
    try:
        return np.array([egos[poses[token]]["translation"] for token in samples], np.float64).reshape(-1, 3)
    except KeyError as error:
        raise UsageError(
            f"{folder} has no {LIDAR} key frame of sample or pose {error}; download the tables again"
        ) from None


def _velocity(row: Row, annotations: Rows, samples: Rows) -> tuple[float, float]:
    """Metres a second on the ground, from the annotations before and after; NaN if there is none near in time."""
    first, last = (annotations[row[side] or row["token"]] for side in ("prev", "next"))
    microseconds = samples[last["sample_token"]]["timestamp"] - samples[first["sample_token"]]["timestamp"]
    seconds = 1e-6 * microseconds
    if first is last or seconds > LONGEST * (2 if row["prev"] and row["next"] else 1):
        return np.nan, np.nan
    moved = (np.array(last["translation"], np.float64) - np.array(first["translation"], np.float64)) / seconds
    return float(moved[0]), float(moved[1])


def _attribute(row: Row, attributes: Rows) -> str:
    tokens = row["attribute_tokens"]
    if len(tokens) > 1:
        raise UsageError(f"annotation {row['token']} has {len(tokens)} attributes; nuScenes' have one at most")
    return str(attributes[tokens[0]]["name"]) if tokens else ""


def _in_racks(boxes: NuScenesBoxes, racks: Sequence[Row], order: Mapping[str, int]) -> Array:
    """Which boxes are cycles whose centre lies in a rack of their sample, bool [N]."""
    result = np.zeros(len(boxes), bool)
    cycles = np.isin(boxes.names, IN_RACKS)
    for rack in racks:
        near = np.flatnonzero(cycles & (boxes.sample == order[rack["sample_token"]]))
        turn = quaternion_to_matrix(np.array([rack["rotation"]], np.float64))[0]
        apart = (boxes.translation[near] - np.array(rack["translation"], np.float64)) @ turn
        width, length, height = rack["size"]
        result[near] |= (np.abs(apart) <= np.array([length, width, height]) / 2).all(axis=1)
    return result


def _numbers(rows: Sequence[Row], name: str, width: int) -> Array:
    return np.array([row[name] for row in rows], np.float64).reshape(-1, width)


def _by_token(folder: Path, name: str) -> Rows:
    return {row["token"]: row for row in read_table(folder, name)}
