from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from robovision import Boxes3D, PointCloud
from robovision.errors import UsageError
from robovision.lidar import nuscenes_boxes
from robovision.lidar.argoverse import (
    pyarrow_part,
    read_annotations,
    read_feather,
    read_poses,
    write_annotations,
    write_feather,
)
from robovision.lidar.box_files import read_boxes, write_boxes
from robovision.lidar.boxes import points_in_boxes, to_tensor
from robovision.lidar.clouds import read_cloud
from robovision.lidar.kitti_calibration import (
    Calibration,
    boxes_to_objects,
    objects_to_boxes,
    read_calibration,
    write_calibration,
)
from robovision.lidar.kitti_labels import read_labels, write_objects
from robovision.lidar.kitti_metric import evaluate
from robovision.lidar.kitti_tracking import read_tracks, write_tracks
from robovision.lidar.nuscenes_boxes import from_boxes, read_nuscenes_boxes, to_boxes, write_nuscenes_boxes
from robovision.lidar.waymo_boxes import CLASSES as WAYMO
from robovision.lidar.waymo_boxes import WaymoBoxes, read_waymo_boxes, write_waymo_boxes
from robovision.types import Array
from tests.test_lidar_clouds import DATA, missing_data

AXES = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
CAMERA = Calibration(np.array([[700.0, 0, 600, 45], [0, 700, 180, 0], [0, 0, 1, 0]]), AXES)
"""A camera at the LiDAR's place that looks along its x axis."""


def random_boxes(classes: tuple[str, ...], scored: bool, frame: str = "lidar", count: int = 20) -> Boxes3D:
    generator = np.random.default_rng(1)
    return Boxes3D(
        generator.uniform([6, -5, -2], [50, 5, 2], (count, 3)),
        generator.uniform(0.5, 5, (count, 3)),
        generator.uniform(-3.1, 3.1, count),
        generator.integers(0, len(classes), count),
        classes,
        generator.uniform(0, 1, count) if scored else None,
        frame=frame,
    )


def close(a: Boxes3D, b: Boxes3D, at: float = 1e-5) -> bool:
    """The same boxes of the same class names, to rounding."""
    names = [tuple(x.classes[label] for label in x.labels) for x in (a, b)]
    turn = np.abs(np.exp(1j * a.yaw) - np.exp(1j * b.yaw)).max(initial=0)
    given = [x.scores for x in (a, b) if x.scores is not None]
    scores = len(given) == 0 or (len(given) == 2 and np.allclose(given[0], given[1]))
    same = np.allclose(a.centers, b.centers, atol=at) and np.allclose(a.sizes, b.sizes, atol=at)
    return bool(names[0] == names[1] and turn < at and scores and same)


def counts(cloud: PointCloud, boxes: Boxes3D) -> Array:
    found: Array = points_in_boxes(torch.from_numpy(cloud.xyz.copy()).double(), to_tensor(boxes)).sum(dim=1).numpy()
    return found


@pytest.mark.parametrize("scored", [False, True])
def test_npz_round_trip(tmp_path: Path, scored: bool) -> None:
    given = random_boxes(("a", "b"), scored, "world")
    write_boxes(tmp_path / "a.npz", given)
    back = read_boxes(tmp_path / "a.npz")
    assert back.frame == "world"
    assert back.classes == given.classes
    assert np.array_equal(back.centers, given.centers)
    assert np.array_equal(back.yaw, given.yaw)
    assert (back.scores is None) is not scored
    np.savez(tmp_path / "b.npz", centers=np.zeros((1, 3)))
    with pytest.raises(UsageError, match="arrays sizes, yaw, labels, classes are missing"):
        read_boxes(tmp_path / "b.npz")
    wrong = {"centers": np.zeros((1, 3)), "sizes": -np.ones((1, 3)), "yaw": [0.0], "labels": [0], "classes": ["a"]}
    np.savez(tmp_path / "b.npz", **wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"b\.npz: .*is negative"):
        read_boxes(tmp_path / "b.npz")


@pytest.mark.parametrize("scored", [False, True])
def test_kitti_objects_round_trip(scored: bool) -> None:
    given = random_boxes(("Car", "Pedestrian"), scored)
    objects = boxes_to_objects(given, CAMERA)
    assert close(objects_to_boxes(objects, CAMERA), given)
    assert (objects.rectangles[:, 2:] >= objects.rectangles[:, :2]).all()
    assert len(boxes_to_objects(objects_to_boxes(objects, CAMERA), CAMERA)) == len(given)
    with pytest.raises(UsageError, match="unknown KITTI class 'car'; nearest: Car"):
        boxes_to_objects(random_boxes(("car",), scored), CAMERA)


def test_kitti_objects_by_hand() -> None:
    ahead = Boxes3D([[10, 0, 0]], [[4, 2, 1.5]], [0.0], [0], ("Car",))  # type: ignore[arg-type]
    objects = boxes_to_objects(ahead, CAMERA)
    assert objects.locations[0].tolist() == [0, 0.75, 10]
    assert objects.rotation_y[0] == pytest.approx(-np.pi / 2)
    assert objects.alpha[0] == pytest.approx(-np.pi / 2)
    assert objects.sizes[0].tolist() == [1.5, 2, 4]
    left, top, right, bottom = objects.rectangles[0]
    assert (left, right) == pytest.approx((600 + (45 - 700) / 8, 600 + (45 + 700) / 8))
    assert (top, bottom) == pytest.approx((180 - 0.75 * 700 / 8, 180 + 0.75 * 700 / 8))
    assert objects.truncation[0] == 0


def test_kitti_objects_out_of_the_image_are_never_looked_for(tmp_path: Path) -> None:
    """Behind, beside and across the camera."""
    places = [[-10, 0, 0], [-3, 0.5, 0], [10, 60, 0], [0.27, 3, 0], [10, 0, 0]]
    boxes = Boxes3D(np.array(places), np.tile([4.0, 2, 1.5], (5, 1)), np.zeros(5), np.zeros(5, np.int64), ("Car",))
    objects = boxes_to_objects(boxes, CAMERA)
    assert close(objects_to_boxes(objects, CAMERA), boxes)
    assert objects.rectangles[:3].tolist() == [[-1, -1, -1, -1]] * 3
    assert objects.truncation[:3].tolist() == [1, 1, 1]
    # What passes the camera on the left is seen at the left edge, and cut off for the greater part.
    left, _, right, bottom = objects.rectangles[3]
    assert (left, bottom) == (0, 374)
    assert right == pytest.approx(600 + (45 - 2 * 700) / 2.27)
    assert objects.truncation[3] > 0.5
    found = Boxes3D(boxes.centers, boxes.sizes, boxes.yaw, boxes.labels, boxes.classes, np.linspace(0.9, 0.5, 5))
    for name, some in (("truth", boxes), ("found", found)):
        (tmp_path / name).mkdir()
        write_objects(tmp_path / name / "000000.txt", boxes_to_objects(some, CAMERA))
    values = {metric.name: metric for metric in evaluate(tmp_path / "truth", tmp_path / "found")}
    for kind in ("image", "bev", "3d"):
        for difficulty in ("easy", "moderate", "hard"):
            # One car is to be found, it is, and the others are neither missed nor wrong.
            assert values[f"Car_{kind}/{difficulty}_R40"].count == 1
            assert values[f"Car_{kind}/{difficulty}_R11"].value == pytest.approx(100 / 11)


def test_real_kitti_boxes_hold_the_points(tmp_path: Path) -> None:
    folder = DATA / "kitti" / "training"
    missing_data(folder)
    for frame in ("000000", "000001", "000002"):
        calibration = read_calibration(folder / "calib" / f"{frame}.txt")
        cloud = read_cloud(folder / "velodyne" / f"{frame}.bin")
        labels = read_labels(folder / "label_2" / f"{frame}.txt")
        boxes = objects_to_boxes(labels, calibration)
        inside = counts(cloud, boxes)
        distance = np.hypot(*boxes.centers[:, :2].T)
        assert (inside[distance < 40] > 30).all()
        moved = Boxes3D(boxes.centers + np.array([0, 0, 10]), boxes.sizes, boxes.yaw, boxes.labels, boxes.classes)
        assert not counts(cloud, moved).any()
        back = boxes_to_objects(boxes, calibration)
        chosen = labels.values[labels.boxed]
        np.testing.assert_allclose(back.values[:, 7:14], chosen[:, 7:14], atol=2e-5)
        np.testing.assert_allclose(back.alpha, chosen[:, 2], atol=0.03)
        np.testing.assert_allclose(back.rectangles, chosen[:, 3:7], atol=10)  # drawn by hand there
        write_calibration(tmp_path / "c.txt", calibration)
        again = read_calibration(tmp_path / "c.txt")
        assert np.array_equal(again.to_camera, calibration.to_camera)
        assert np.array_equal(again.projection, calibration.projection)
        assert np.array_equal(counts(cloud, objects_to_boxes(back, again)), inside)


def test_wrong_calibrations_are_named(tmp_path: Path) -> None:
    text = f"P2: {'1 ' * 12}\nR0_rect: {'1 ' * 9}\nTr_velo_to_cam: {'1 ' * 12}\n"
    for wrong, message in (
        (text.replace("R0_rect", "R"), "R0_rect is missing"),
        (text.replace("1 1", "1", 1), "P2 must be 12 numbers"),
        (text.replace("1 1", "1 nan", 1), "P2 has a number that is not finite"),
    ):
        (tmp_path / "c.txt").write_text(wrong)
        with pytest.raises(UsageError, match=message):
            read_calibration(tmp_path / "c.txt")
    (tmp_path / "c.txt").write_text(text.replace("R0_rect:", "R_rect").replace("Tr_velo_to_cam:", "Tr_velo_cam"))
    assert read_calibration(tmp_path / "c.txt").projection.shape == (3, 4)


def test_tracking_labels_round_trip(tmp_path: Path) -> None:
    line = "0 0 0.1 100.0 101.0 200.0 201.0 1.5 1.6 4.0 2.0 1.5 20.0 0.2"
    text = f"0 7 Car {line}\n0 -1 DontCare {line}\n3 7 Person {line}\n"
    (tmp_path / "a.txt").write_text(text)
    tracks = read_tracks(tmp_path / "a.txt")
    assert tracks.frames.tolist() == [0, 0, 3]
    assert tracks.tracks.tolist() == [7, -1, 7]
    assert tracks.objects.names == ("Car", "DontCare", "Person_sitting")
    assert len(tracks.at(0)) == 2
    assert len(tracks.at(1)) == 0
    write_tracks(tmp_path / "b.txt", tracks)
    back = read_tracks(tmp_path / "b.txt")
    assert back.objects.names == tracks.objects.names
    assert np.array_equal(back.objects.values, tracks.objects.values)
    assert " Person " in (tmp_path / "b.txt").read_text()
    (tmp_path / "a.txt").write_text(f"{text}1\n")
    with pytest.raises(UsageError, match="whole numbers"):
        read_tracks(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text(f"{text}1 2\n")
    with pytest.raises(UsageError, match="line 4: there is no class"):
        read_tracks(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text(f"0 7 Car {line} 0.5\n")
    with pytest.raises(UsageError, match="swapped"):
        read_tracks(tmp_path / "a.txt")
    assert read_tracks(tmp_path / "a.txt", scored=True).objects.scores is not None


@pytest.mark.parametrize("scored", [False, True])
def test_nuscenes_round_trip(tmp_path: Path, scored: bool) -> None:
    given = random_boxes(nuscenes_boxes.CLASSES, scored, "global")
    write_nuscenes_boxes(tmp_path / "a.json", from_boxes({"one": given, "none": random_boxes((), False, "global", 0)}))
    back = read_nuscenes_boxes(tmp_path / "a.json")
    assert back.samples == ("one", "none")
    assert close(to_boxes(back, "one"), given)
    assert len(to_boxes(back, "none")) == 0
    write_nuscenes_boxes(tmp_path / "b.json", back, {"use_lidar": True})
    assert json.loads((tmp_path / "b.json").read_text())["meta"]["use_lidar"] is True
    again = read_nuscenes_boxes(tmp_path / "b.json")
    for name in ("translation", "size", "rotation", "scores", "ego", "points"):
        np.testing.assert_array_equal(getattr(again, name), getattr(back, name))
    with pytest.raises(UsageError, match="unknown sample 'on'"):
        to_boxes(back, "on")
    with pytest.raises(UsageError, match="frame 'global', not 'lidar'"):
        from_boxes({"one": random_boxes(("car",), scored)})


ENTRY = {
    "translation": [1, 2, 3],
    "size": [2, 4, 1.5],
    "rotation": [1, 0, 0, 0],
    "velocity": [0, 0],
    "detection_name": "car",
    "detection_score": 0.5,
    "attribute_name": "",
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": [2, -4, 1]}, "size must be positive"),
        ({"size": [2, 4]}, "size must be 3 numbers"),
        ({"translation": [1, float("nan"), 3]}, "translation must be finite"),
        ({"rotation": [0, 0, 0, 0]}, "no quaternion"),
        ({"detection_name": "cart"}, "unknown detection_name 'cart'; nearest: car"),
        ({"attribute_name": "parked"}, "unknown attribute_name"),
        ({"detection_score": float("nan")}, "detection_score must be finite"),
        ({"num_pts": None}, "num_pts must be a whole number"),
    ],
)
def test_wrong_nuscenes_boxes_are_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"results": {"s": [ENTRY, {**ENTRY, **change}]}}))
    with pytest.raises(UsageError, match=f"sample s, box 1: .*{message}"):
        read_nuscenes_boxes(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"results": {')
    with pytest.raises(UsageError, match="cut off"):
        read_nuscenes_boxes(tmp_path / "a.json")
    for content in (
        "[]",
        "{}",
        '{"results": []}',
        '{"results": {}} {}',
        '{"results" {}}',
        '{"results": {,}}',
        "{1: 2}",
        "",
    ):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(UsageError, match="must hold"):
            read_nuscenes_boxes(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"results": {"s": [1]}}')
    with pytest.raises(UsageError, match="sample s: its boxes must be a list of objects"):
        read_nuscenes_boxes(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"results": {"s": [], "t": [], "s": []}}')
    with pytest.raises(UsageError, match="sample s is there twice"):
        read_nuscenes_boxes(tmp_path / "a.json")


@pytest.mark.parametrize("scored", [False, True])
def test_waymo_round_trip(tmp_path: Path, scored: bool) -> None:
    boxes = random_boxes(WAYMO, scored, "vehicle", 4)
    given = WaymoBoxes(("a/1", "a/1", "b/c/2", "b/c/2"), boxes, tuple("wxyz"), np.arange(4), np.array([0, 1, 2, 0]))
    write_waymo_boxes(tmp_path / "a.parquet", given)
    back = read_waymo_boxes(tmp_path / "a.parquet")
    assert back.frames == given.frames
    assert back.tracks == given.tracks
    assert back.points.tolist() == given.points.tolist()
    assert back.difficulty.tolist() == given.difficulty.tolist()
    assert close(back.boxes, boxes)
    assert len(back.at("b/c/2")) == 2
    none = WaymoBoxes((), random_boxes(WAYMO, scored, "vehicle", 0), (), np.zeros(0, int), np.zeros(0, int))
    write_waymo_boxes(tmp_path / "b.parquet", none)
    assert len(read_waymo_boxes(tmp_path / "b.parquet").boxes) == 0
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="cut off"):
        read_waymo_boxes(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("[LiDARBoxComponent].type", None, "row 0: type 0 is none of 1..4"),
        ("[LiDARBoxComponent].num_lidar_points_in_box", "many", "num_lidar_points_in_box must hold whole numbers"),
        ("[LiDARBoxComponent].box.heading", "left", "Boxes3D.yaw must be numbers"),
        ("score", float("nan"), "Boxes3D.scores must be finite"),
    ],
)
def test_wrong_waymo_boxes_are_named(tmp_path: Path, column: str, value: object, message: str) -> None:
    arrow, parquet = pyarrow_part("pyarrow"), pyarrow_part("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    boxes = random_boxes(WAYMO, True, "vehicle", 2)
    write_waymo_boxes(path, WaymoBoxes(("a/1", "a/1"), boxes, ("x", "y"), np.arange(2), np.array([1, 2])))
    columns = {**parquet.read_table(path).to_pydict(), column: [value] * 2}
    parquet.write_table(arrow.table(columns), path)
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        read_waymo_boxes(path)
    assert str(path) in str(caught.value)


def test_argoverse_annotations_round_trip(tmp_path: Path) -> None:
    path = DATA / "av2" / "annotations.feather"
    missing_data(path)
    given = read_annotations(path)
    assert len(given.boxes) == 11364
    write_annotations(tmp_path / "a.feather", given)
    back = read_annotations(tmp_path / "a.feather")
    assert close(back.boxes, given.boxes)
    assert back.tracks == given.tracks
    assert np.array_equal(back.timestamps, given.timestamps)
    assert np.array_equal(back.points, given.points)


def test_real_argoverse_boxes_hold_the_points_that_they_say() -> None:
    folder = DATA / "av2"
    missing_data(folder)
    annotations = read_annotations(folder / "annotations.feather")
    for path in sorted((folder / "sensors" / "lidar").glob("*.feather")):
        found = counts(read_cloud(path), annotations.at(int(path.stem)))
        said = annotations.points[annotations.timestamps == int(path.stem)]
        assert len(found) > 50
        # The sweeps are kept in half precision: single points at the faces fall to the other side.
        assert np.abs(found - said).max() <= 0.06 * said.max()
        assert np.corrcoef(found, said)[0, 1] > 0.999


def test_argoverse_poses_tell_the_ego_motion() -> None:
    folder = DATA / "av2"
    missing_data(folder)
    timestamps, poses = read_poses(folder / "city_SE3_egovehicle.feather")
    first, second = (int(path.stem) for path in sorted((folder / "sensors" / "lidar").glob("*.feather")))
    now, then = (poses[np.flatnonzero(timestamps == t)[0]] for t in (first, second))
    said = np.load(folder / "ego_motion.npz")["ego_motion"][0]
    np.testing.assert_allclose(np.linalg.inv(then) @ now, said, atol=5e-3)


def test_damaged_feather_files_are_named(tmp_path: Path) -> None:
    write_feather(tmp_path / "a.feather", {"x": np.arange(3.0)})
    with pytest.raises(UsageError, match="columns y are missing; there are x"):
        read_feather(tmp_path / "a.feather", ("x", "y"))
    write_feather(tmp_path / "a.feather", {"x": np.arange(2.0), "y": np.array(["a", "b"])})
    with pytest.raises(UsageError, match="columns y must hold numbers"):
        read_feather(tmp_path / "a.feather", ("x", "y"))
    assert read_feather(tmp_path / "a.feather", ("x", "y"), ("y",))["y"].tolist() == ["a", "b"]
