"""`robovision lidar view`: boxes are found, points and boxes land where they should, other viewers get them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from robovision.cli import main
from robovision.errors import UsageError
from robovision.lidar.argoverse import Annotations, select, write_annotations
from robovision.lidar.birdseye import (
    BACKGROUND,
    KINDS,
    Window,
    choose_window,
    colors_of,
    ground_height,
    rasterise,
    write_picture,
)
from robovision.lidar.box_files import write_boxes
from robovision.lidar.clouds import write_cloud
from robovision.lidar.frames import Frame, find_clouds, read_frame
from robovision.lidar.kitti_calibration import boxes_to_objects, write_calibration
from robovision.lidar.kitti_labels import write_objects
from robovision.lidar.nuscenes_boxes import from_boxes, write_nuscenes_boxes
from robovision.lidar.simulate import CALIBRATION
from robovision.lidar.view_options import ViewOptions
from robovision.lidar.waymo_boxes import WaymoBoxes, write_waymo_boxes
from robovision.types import Array, Boxes3D, PointCloud

A = np.array
CAR = Boxes3D(A([[10.0, 4, -0.8]]), A([[4.0, 1.8, 1.6]]), A([0.3]), A([0]), ("Car",))
SEEN = replace(CAR, scores=np.array([0.7]))


def make_cloud() -> PointCloud:
    """Ground around the sensor, and a wall 2 m high on its left."""
    x, y = np.meshgrid(np.arange(-20, 30, 0.5), np.arange(-20, 20, 0.5))
    ground = np.stack([x.ravel(), y.ravel(), np.full(x.size, -1.7)], axis=1)
    along, up = np.meshgrid(np.arange(-20, 30, 0.2), np.arange(-1.7, 0.3, 0.2))
    wall = np.stack([along.ravel(), np.full(along.size, 12.0), up.ravel()], axis=1)
    xyz = np.concatenate([ground, wall])
    return PointCloud(xyz, np.linspace(0, 1, len(xyz)))


@pytest.fixture
def kitti(tmp_path: Path) -> Path:
    """A sequence of two frames in KITTI's layout; returns its folder."""
    for name in ("velodyne", "label_2", "calib", "results"):
        (tmp_path / name).mkdir()
    for k in range(2):
        write_cloud(tmp_path / "velodyne" / f"00000{k}.bin", make_cloud())
        write_objects(tmp_path / "label_2" / f"00000{k}.txt", boxes_to_objects(CAR, CALIBRATION))
        write_objects(tmp_path / "results" / f"00000{k}.txt", boxes_to_objects(SEEN, CALIBRATION))
        write_calibration(tmp_path / "calib" / f"00000{k}.txt", CALIBRATION)
    return tmp_path


def same(boxes: Boxes3D | None, expected: Boxes3D = CAR) -> bool:
    return (
        boxes is not None
        and np.allclose(boxes.centers, expected.centers, atol=1e-3)
        and np.allclose(boxes.sizes, expected.sizes, atol=1e-3)
        and np.allclose(boxes.yaw, expected.yaw, atol=1e-3)
    )


def test_kittis_boxes_are_found_beside_the_cloud(kitti: Path) -> None:
    clouds = find_clouds([kitti])
    assert [path.name for path in clouds] == ["000000.bin", "000001.bin"]
    frame = read_frame(clouds[0], ViewOptions(detections=kitti / "results"))
    assert same(frame.truth)
    assert same(frame.detections, SEEN)
    few = read_frame(clouds[0], ViewOptions(detections=kitti / "results", score=0.8)).detections
    assert few is not None
    assert len(few) == 0
    (kitti / "calib" / "000000.txt").rename(kitti / "camera.txt")
    with pytest.raises(UsageError, match="give it by --calibration"):
        read_frame(clouds[0])
    assert same(read_frame(clouds[0], ViewOptions(calibration=kitti / "camera.txt")).truth)


def test_boxes_of_every_format_are_read(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    sweeps = tmp_path / "sensors" / "lidar"
    sweeps.mkdir(parents=True)
    write_cloud(sweeps / "700.feather", make_cloud())
    annotations = Annotations(np.array([700]), replace(CAR, frame="ego"), ("a",), np.array([9]))
    write_annotations(tmp_path / "annotations.feather", annotations)
    assert same(read_frame(sweeps / "700.feather").truth)
    write_cloud(tmp_path / "12.npz", make_cloud())
    write_boxes(tmp_path / "boxes.npz", CAR)
    assert same(read_frame(tmp_path / "12.npz", ViewOptions(truth=tmp_path / "boxes.npz")).truth)
    vehicle = replace(CAR, classes=("VEHICLE", "PEDESTRIAN", "SIGN", "CYCLIST"))
    waymo = WaymoBoxes(("segment/12",), vehicle, ("a",), np.array([9]), np.array([0]))
    write_waymo_boxes(tmp_path / "waymo.parquet", waymo)
    assert same(read_frame(tmp_path / "12.npz", ViewOptions(truth=tmp_path / "waymo.parquet")).truth)
    assert read_frame(tmp_path / "12.npz").truth is None


def test_nuscenes_boxes_are_moved_into_the_sensors_frame(tmp_path: Path) -> None:
    cloud = tmp_path / "samples" / "LIDAR_TOP" / "s.pcd.bin"
    cloud.parent.mkdir(parents=True)
    write_cloud(cloud, make_cloud())
    quarter = [np.sqrt(0.5), 0, 0, np.sqrt(0.5)]
    rows = {"filename": "samples/LIDAR_TOP/s.pcd.bin", "sample_token": "t"}
    tables = {
        "sample_data": [{**rows, "ego_pose_token": "e", "calibrated_sensor_token": "c"}],
        "ego_pose": [{"token": "e", "rotation": quarter, "translation": [100.0, 50, 0]}],
        "calibrated_sensor": [{"token": "c", "rotation": [1.0, 0, 0, 0], "translation": [0, 0, 1.5]}],
    }
    # The car looks along the world's y, so what is 10 m ahead and 4 m to the left is at x - 4, y + 10.
    there = replace(
        SEEN, centers=np.array([[96.0, 60, 0.7]]), yaw=CAR.yaw + np.pi / 2, classes=("car",), frame="global"
    )
    write_nuscenes_boxes(tmp_path / "results.json", from_boxes({"t": there}))
    options = ViewOptions(detections=tmp_path / "results.json")
    with pytest.raises(UsageError, match=r"no table .*sample_data.json knows samples/LIDAR_TOP/s.pcd.bin"):
        read_frame(cloud, options)
    (tmp_path / "v1.0-mini").mkdir()
    for name, content in tables.items():
        (tmp_path / "v1.0-mini" / f"{name}.json").write_text(json.dumps(content))
    assert same(read_frame(cloud, options).detections)
    (tmp_path / "v1.0-mini" / "ego_pose.json").write_text('[{"token": "e", "rotation": [1, 0, 0, 0]}]')
    with pytest.raises(UsageError, match=r"v1\.0-mini: a row lacks a field.*'translation'"):
        read_frame(cloud, options)


def test_points_land_in_their_pixels() -> None:
    window = Window(back=0, front=10, right=-5, left=5)
    cloud = PointCloud(np.array([[9.5, 4.5, 0], [9.5, 4.5, 1], [0.5, -4.5, 0], [20, 0, 0], [5, -7, 0]]))
    image = rasterise(cloud, np.array([0.2, 0.9, 0.5, 1, 1], np.float32), window, (10, 10))
    seen = np.argwhere(np.isfinite(image)).tolist()
    assert seen == [[0, 0], [0, 1], [1, 0], [1, 1], [9, 9]]
    assert image[0, 0] == np.float32(0.9)
    empty = PointCloud(np.zeros((0, 3)))
    assert np.isnan(rasterise(empty, np.zeros(0, np.float32), window, (4, 6))).all()
    assert ground_height(empty) == 0
    # A point that is nowhere must not make the ground, or the picture, boundless.
    xyz = np.tile(np.array([5, 0, 0], np.float32), (200, 1))
    xyz[0], xyz[1] = 1e30, -1e30
    assert abs(ground_height(PointCloud(xyz))) < 0.2
    assert np.isfinite(ground_height(PointCloud(np.linspace(-1e30, 1e30, 300, dtype=np.float32).reshape(100, 3))))
    assert np.isfinite(rasterise(PointCloud(xyz), np.ones(200, np.float32), window, (4, 6))).any()


def test_the_ground_is_dark_and_what_is_high_is_bright() -> None:
    cloud = make_cloud()
    assert ground_height(cloud) == pytest.approx(-1.7, abs=0.06)
    rgb = colors_of(cloud, "height").astype(int).sum(axis=1)
    assert rgb[np.argmax(cloud.xyz[:, 2])] > rgb[0] + 80
    with pytest.raises(UsageError, match="has no intensity"):
        colors_of(PointCloud(cloud.xyz), "intensity")


def pixels_like(picture: Array, color: str) -> Array:
    """Rows and columns [N, 2] of the pixels of this colour."""
    rgb = np.array(list(bytes.fromhex(color[1:]))) / 255
    found: Array = np.argwhere(np.abs(picture[..., :3] - rgb).max(axis=2) < 0.02)
    return found


def test_a_picture_shows_the_box_ahead_on_the_left(tmp_path: Path) -> None:
    frame = Frame("a", make_cloud(), CAR)
    write_picture(tmp_path / "a.png", [frame])
    picture = imread(tmp_path / "a.png")
    high, wide = picture.shape[:2]
    box = pixels_like(picture[: high - 60], KINDS["car"][0])
    assert len(box) > 50
    window = choose_window([frame], ViewOptions())
    ahead = (window.front - 10) / window.shape[0]
    assert box[:, 0].mean() / high == pytest.approx(ahead, abs=0.1)
    assert box[:, 1].mean() < wide / 2
    write_picture(tmp_path / "b.png", [Frame("b", make_cloud(), CAR, SEEN)])
    both = imread(tmp_path / "b.png")
    assert both.shape[1] > 1.5 * wide
    columns = pixels_like(both[: high - 60], KINDS["car"][0])[:, 1]
    assert (columns < both.shape[1] / 2).any()
    assert (columns > both.shape[1] / 2).any()


def test_empty_clouds_and_no_boxes_give_a_picture(tmp_path: Path) -> None:
    none = select(CAR, np.array([False]))
    write_picture(
        tmp_path / "a.png", [Frame("a", PointCloud(np.zeros((0, 3))), none, replace(none, scores=np.zeros(0)))]
    )
    assert len(pixels_like(imread(tmp_path / "a.png"), BACKGROUND)) > 1000
    with pytest.raises(UsageError, match="no frame"):
        write_picture(tmp_path / "b.png", [])


def test_the_command_writes_a_picture_a_sheet_or_a_folder(kitti: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cloud, out = str(kitti / "velodyne" / "000000.bin"), kitti / "out.png"
    assert main(["lidar", "view", cloud, "--out", str(out)]) == 0
    one = imread(out).shape
    arguments = ["--detections", str(kitti / "results"), "--score", "0.5", "--range", "15"]
    assert main(["lidar", "view", str(kitti), *arguments, "--color", "intensity", "--out", str(out)]) == 0
    sheet = imread(out).shape
    assert sheet[0] * sheet[1] > one[0] * one[1]
    assert main(["lidar", "view", str(kitti), "--out", str(kitti / "pictures")]) == 0
    assert [path.name for path in sorted((kitti / "pictures").iterdir())] == ["000000.png", "000001.png"]
    assert "2 frames in" in capsys.readouterr().out


def test_what_can_not_be_shown_is_said(
    kitti: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = str(kitti / "velodyne" / "000000.bin")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    for arguments, message in (
        ([str(kitti / "nothing.bin")], "there is no point cloud"),
        ([str(kitti / "label_2")], "holds no point clouds"),
        ([cloud, "--viewer", "open3d"], "there is no display here"),
        ([cloud, "--truth", str(kitti / "velodyne")], "has no boxes for 000000.bin"),
        ([cloud, "--truth", cloud], "unknown format of boxes '.bin'"),
        ([cloud, "--detections", str(kitti / "label_2")], "the score is missing"),
        ([cloud, "--range", "-1"], "range must be a positive number of metres"),
    ):
        assert main(["lidar", "view", *arguments]) == 2
        assert message in capsys.readouterr().err
    (kitti / "velodyne" / "000000.bin").write_bytes(b"\0" * 15)
    assert main(["lidar", "view", cloud]) == 2
    assert "is no multiple of the 16 bytes" in capsys.readouterr().err


def test_a_sequence_is_logged_to_a_rerun_file(kitti: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rerun", reason="needs Rerun; pip install 'robovision[rerun]'")
    path = kitti / "a.rrd"
    assert main(["lidar", "view", str(kitti), "--detections", str(kitti / "results"), "--rerun", str(path)]) == 0
    content = path.read_bytes()
    assert content[:3] == b"RRF"
    assert all(name in content for name in (b"lidar/points", b"lidar/truth", b"lidar/detections"))
    assert not list(kitti.glob("*.partial"))
    assert main(["lidar", "view", str(kitti), "--rerun", str(kitti / "no" / "a.rrd")]) == 2
    assert "there is no folder" in capsys.readouterr().err
