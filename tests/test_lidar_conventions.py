"""Whether another convention is suspected where it fits better, and only there."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from robovision.bench import lidar_memory
from robovision.lidar import nuscenes_metric, waymo_metric
from robovision.lidar.checks import warn_of_far_boxes
from robovision.lidar.conventions import camera_readings, some_frames, upright_readings, warn_of_other_convention
from robovision.lidar.kitti_labels import DETECTION, LABEL, KittiObjects, write_objects
from robovision.lidar.kitti_metric import evaluate
from robovision.types import Array, Boxes3D, PointCloud

FRAMES, EACH = 6, 5


def truths(rng: np.random.Generator) -> Array:
    """Cars all around, z up: centre, length, width, height, yaw [N, 7]."""
    count = FRAMES * EACH
    place = np.column_stack([rng.uniform(-45, 45, (count, 2)), rng.normal(-0.8, 0.15, count)])
    return np.column_stack([place, rng.normal([4.2, 1.7, 1.5], 0.1, (count, 3)), rng.uniform(-3, 3, count)])


def noisy(rng: np.random.Generator, boxes: Array, by: float = 0.1) -> Array:
    found: Array = boxes + rng.normal(0, by, boxes.shape) * [1, 1, 1, 1, 0.5, 0.5, 0.3]
    return found


def moved(boxes: Array, x: float = 0, y: float = 0, z: float = 0, yaw: float = 0) -> Array:
    found: Array = boxes + np.array([x, y, z, 0, 0, 0, yaw])
    return found


def sunk(boxes: Array) -> Array:
    """With the middles of the bottoms in place of the centres."""
    return np.column_stack([boxes[:, :2], boxes[:, 2] - boxes[:, 5] / 2, boxes[:, 3:]])


FRAME = np.repeat(np.arange(FRAMES), EACH)
WRONG: dict[str, Callable[[Array], Array]] = {
    "the middles of their bottoms": sunk,
    "length and width swapped": lambda b: b[:, [0, 1, 2, 4, 3, 5, 6]],
    "angles in degrees": lambda b: np.column_stack([b[:, :6], np.degrees(b[:, 6])]),
    "a camera's axes": lambda b: np.column_stack([-b[:, 1], -b[:, 2], b[:, 0], b[:, 3:6], -b[:, 6] - np.pi / 2]),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_fits_clearly_better_in_another_convention_is_suspected(wrong: str) -> None:
    rng = np.random.default_rng(0)
    known = truths(rng)
    found = WRONG[wrong](noisy(rng, known))
    with pytest.warns(UserWarning, match=f"are read with .*{wrong}.* Expected: here"):
        warn_of_other_convention((known, FRAME), upright_readings(found), FRAME, "here")
    # Among many false detections too.
    strange = np.concatenate([found, np.tile(truths(rng), (8, 1))])
    frame = np.concatenate([FRAME, np.tile(FRAME, 8)])
    order = np.argsort(frame, kind="stable")
    with pytest.warns(UserWarning, match=wrong):
        warn_of_other_convention((known, FRAME), upright_readings(strange[order]), frame[order], "here")


def ordinary(rng: np.random.Generator, known: Array) -> dict[str, tuple[Array, Array]]:
    """Detections, with their frames, that are bad but in the right convention."""
    good, far = noisy(rng, known), known.copy()
    far[:, :2] += np.sign(far[:, :2]) * 40
    order = np.argsort(np.tile(FRAME, 20), kind="stable")
    many, frames = np.tile(truths(rng), (20, 1))[order], np.tile(FRAME, 20)[order]
    spread = rng.uniform(-9, 9, many.shape) * [1, 1, 0, 0, 0, 0, 1]
    return {
        "good": (good, FRAME),
        "few": (good[:2], FRAME[:2]),
        "far": (far, FRAME),
        "none": (good[:0], FRAME[:0]),
        "false": (many + spread, frames),
        "many false": (np.concatenate([good[:10], many]), np.concatenate([FRAME[:10], frames])),
        "coarse": (noisy(rng, known, 0.7), FRAME),
        "too low": (moved(good, z=-0.3), FRAME),
        "heading aside": (moved(good, yaw=0.6), FRAME),
        "another place": (moved(known, y=30), FRAME),
    }


def test_what_is_only_bad_is_not_suspected() -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        known = truths(rng)
        for name, (found, frame) in ordinary(rng, known).items():
            order = np.argsort(frame, kind="stable")
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                warn_of_other_convention((known, FRAME), upright_readings(found[order]), frame[order], "here")
            assert not said, f"{name}, seed {seed}: {said[0].message}"


def test_what_lies_where_no_sensor_sees_is_suspected() -> None:
    rng = np.random.default_rng(0)
    known = truths(rng)
    for away in (moved(known, x=900), moved(known, z=60)):
        with pytest.warns(UserWarning, match="30 of 30 detections lie over 100 m, or 20 m in height, from all ground"):
            warn_of_other_convention((known, FRAME), upright_readings(away), FRAME, "another")


def test_frames_that_hold_both_are_looked_at_only() -> None:
    truth, found = np.array([0, 0, 2, 5, 5, 9]), np.array([9, 1, 2, 2])
    wanted, chosen = some_frames(truth, found)
    assert wanted.tolist() == [2, 5]
    assert chosen.tolist() == [2, 3, 0]
    many = np.repeat(np.arange(1000), 30)
    wanted, chosen = some_frames(many, many)
    assert len(np.unique(many[wanted])) == 4
    assert all(len(part) == 0 for part in some_frames(truth, found[:0]))


def in_lidar(values: Array) -> Array:
    """KITTI's numbers with centres and headings in the frame of the LiDAR, which sits behind and above the camera."""
    x, y, z = values[:, 10:13].T
    places = [z + 0.27, -x, -y + values[:, 7] / 2 - 0.08, -values[:, 13] - np.pi / 2]
    return np.column_stack([values[:, :10], *places])


KITTI_WRONG: dict[str, Callable[[Array], Array]] = {
    "": lambda v: v,
    "the LiDAR's axes": in_lidar,
    "geometric centres": lambda v: v - np.eye(14)[11] * v[:, 7:8] / 2,
    "length and width swapped": lambda v: v[:, [*range(8), 9, 8, *range(10, 14)]],
    "length and height swapped": lambda v: v[:, [*range(7), 9, 8, 7, *range(10, 14)]],
    "angles in degrees": lambda v: np.column_stack([v[:, :13], np.degrees(v[:, 13])]),
}


@pytest.mark.parametrize("wrong", KITTI_WRONG)
def test_kitti_detections_in_another_convention(wrong: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for frame in range(5):
        place = rng.uniform([-9, 1.5, 6], [9, 1.8, 45], (6, 3))
        known = np.column_stack([np.tile([0, 0, 0, 0, 0, 90, 90, 1.5, 1.7, 4.1], (6, 1)), place, rng.uniform(-3, 3, 6)])
        found = KITTI_WRONG[wrong](known + rng.normal(0, 0.05, known.shape) * (np.arange(14) > 6))
        for name, values in (("truth", known), ("found", np.column_stack([found, rng.random(6)]))):
            (tmp_path / name).mkdir(exist_ok=True)
            assert values.shape[1] == (LABEL if name == "truth" else DETECTION)
            write_objects(tmp_path / name / f"{frame:06d}.txt", KittiObjects(("Car",) * 6, values))
    if not wrong:
        evaluate(tmp_path / "truth", tmp_path / "found")  # warnings are errors
        return
    with pytest.warns(UserWarning, match=f"are read with .*{wrong}"):
        evaluate(tmp_path / "truth", tmp_path / "found")


def test_camera_readings_as_they_are_stand_on_their_bottoms() -> None:
    read = camera_readings(np.array([[2.0, 1.5, 20]]), np.array([[1.5, 1.7, 4.0]]), np.array([-np.pi / 2]))
    np.testing.assert_allclose(read[""], [[20, -2, -0.75, 4, 1.7, 1.5, 0]], atol=1e-12)


def test_boxes_of_another_frame_are_suspected() -> None:
    truth, found = lidar_memory.nuscenes(3)
    with pytest.warns(UserWarning, match="120 of 120 detections lie over 100 m.* in the global frame"):
        nuscenes_metric.score(
            truth, dataclasses.replace(found, translation=found.ego, ego=np.full_like(found.ego, np.nan))
        )
    with pytest.warns(UserWarning, match="length and width swapped"):
        long = [dataclasses.replace(each, size=each.size * [0.7, 2.5, 1]) for each in (truth, found)]
        nuscenes_metric.score(long[0], dataclasses.replace(long[1], size=long[1].size[:, [1, 0, 2]]))
    places, boxes = lidar_memory.waymo(3)
    raised = dataclasses.replace(boxes.boxes, centers=boxes.boxes.centers + np.array([0, 0, 90]))
    with pytest.warns(UserWarning, match="from all ground truth .* in the vehicle's frame"):
        waymo_metric.score(places, dataclasses.replace(boxes, boxes=raised))
    nuscenes_metric.score(truth, found)
    waymo_metric.score(places, boxes)


def test_boxes_beside_a_cloud() -> None:
    rng = np.random.default_rng(0)
    known = truths(rng)[:20]
    points = [b[:3] + rng.uniform(-0.4, 0.4, (30, 3)) * b[5] for b in known]
    ground = rng.uniform([-50, -50, -1.8], [50, 50, -1.7], (2000, 3))
    cloud = PointCloud(np.concatenate([*points, ground]))

    def boxes(rows: Array) -> Boxes3D:
        return Boxes3D(rows[:, :3], rows[:, 3:6], rows[:, 6], np.zeros(len(rows), np.int64), ("Car",))

    warn_of_far_boxes(boxes(known), cloud, "frame 7")
    warn_of_far_boxes(boxes(known), PointCloud(np.zeros((0, 3))), "frame 7")
    # A cloud that was cut to what the camera sees, with boxes all around; few boxes; false ones.
    warn_of_far_boxes(boxes(known), PointCloud(cloud.xyz[cloud.xyz[:, 0] > 30]), "frame 7")
    warn_of_far_boxes(boxes(WRONG["a camera's axes"](known[:2])), cloud, "frame 7")
    warn_of_far_boxes(boxes(moved(known, y=9)), cloud, "frame 7")
    with pytest.warns(UserWarning, match=r"frame 7: \d of 20 boxes hold points, but 20 if they are read with a camera"):
        warn_of_far_boxes(boxes(WRONG["a camera's axes"](sunk(known))), cloud, "frame 7")
    with pytest.warns(UserWarning, match="frame 7: 20 of 20 box centres lie 100 m"):
        warn_of_far_boxes(boxes(moved(known, x=500)), cloud, "frame 7")
