"""Evaluation of keypoints: metrics by hand, and each protocol on data whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from robovision import keypoints
from robovision.bench import keypoints as bench
from robovision.cli import main
from robovision.errors import UsageError
from robovision.keypoints import hpatches, posed, selfwarp
from robovision.keypoints.planar import GLUE_FACTORY, VERIFY, Ransac, away_from_edges, resize, score
from robovision.keypoints.scores import (
    area_under_recall,
    corner_error,
    pose_error,
    repeatability,
    transfer_errors,
    warp,
)
from robovision.types import Array, Keypoints
from tests.keypoint_pictures import blobs

RIGHT_10 = np.array([[1.0, 0, 10], [0, 1, 0], [0, 0, 1]])
DOUBLE = np.diag([2.0, 2.0, 1.0])


def test_repeatability_by_hand() -> None:
    first = np.array([[5.0, 5], [20, 5], [95, 5]])  # the last one leaves the second image
    second = np.array([[15.0, 5], [33, 5], [2, 5]])  # the last one lies outside the first image
    sizes = (100, 50), (100, 50)
    assert repeatability((first, second), sizes, RIGHT_10, 1) == (1 / 2 + 1 / 2) / 2
    assert repeatability((first, second), sizes, RIGHT_10, 3) == 1
    assert repeatability((first, second[:1]), sizes, RIGHT_10, 3) == (1 / 2 + 1) / 2
    assert repeatability((first, second[:0]), sizes, RIGHT_10, 3) == 0
    assert repeatability((first[:0], second[:0]), sizes, RIGHT_10, 3) == 0


def test_repeatability_measures_in_the_image_that_points_are_warped_to() -> None:
    first, second = np.array([[10.0, 10]]), np.array([[24.0, 20]])  # 4 pixels off in the second, 2 in the first
    assert repeatability((first, second), ((50, 50), (100, 100)), DOUBLE, 3) == (0 + 1) / 2
    forward, backward = transfer_errors(first, second, DOUBLE)
    assert (forward.tolist(), backward.tolist()) == ([4], [2])


def test_corner_errors_by_hand() -> None:
    assert corner_error(RIGHT_10, np.eye(3), (40, 30)) == 10
    assert corner_error(DOUBLE, np.eye(3), (31, 41)) == pytest.approx((0 + 30 + 50 + 40) / 4)
    assert corner_error(None, np.eye(3), (31, 41)) == np.inf
    assert corner_error(np.zeros((3, 3)) * np.nan, np.eye(3), (31, 41)) == np.inf


def test_area_under_recall_by_hand() -> None:
    errors = [1.0, 3.0, np.inf, np.inf]  # recall is 1/4 at 1, 1/2 at 3
    up_to_2 = (0.5 * 1 * 0.25 + 1 * 0.25) / 2
    up_to_5 = (0.5 * 1 * 0.25 + 2 * (0.25 + 0.5) / 2 + 2 * 0.5) / 5
    assert area_under_recall(errors, [2, 5]) == pytest.approx([up_to_2, up_to_5])
    assert area_under_recall([0.0, 0.0], [1]) == [1]
    assert area_under_recall([np.inf], [1, 3]) == [0, 0]
    assert area_under_recall([], [1]) == [0]


def test_pose_errors_by_hand() -> None:
    angle = np.radians(10)
    turned = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    x, y = np.array([1.0, 0, 0]), np.array([0, 1.0, 0])
    assert pose_error(turned, x, np.eye(3), 5 * x) == pytest.approx(10)
    assert pose_error(turned, -x, np.eye(3), x) == pytest.approx(10)
    assert pose_error(np.eye(3), x, np.eye(3), y) == pytest.approx(90)
    assert pose_error(np.eye(3), x, np.eye(3), x + y) == pytest.approx(45)


def _described(xy: list[list[float]], numbers: list[int]) -> Keypoints:
    """Keypoints whose descriptors match where their numbers are equal."""
    return Keypoints(np.array(xy), (100, 100), np.ones(len(xy)), np.eye(8)[numbers])


def test_a_score_by_hand() -> None:
    first = _described([[10, 10], [30, 30], [50, 50], [70, 70]], [0, 1, 2, 3])
    second = _described([[20, 10], [42, 30], [64, 50], [10, 90]], [0, 1, 2, 4])  # right, 2, 4 px off, another point
    found = score(first, second, RIGHT_10, (GLUE_FACTORY, VERIFY))
    assert (found.keypoints, found.matches) == (4, 3)
    assert found.accurate.tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    assert found.precise.tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    assert found.repeated.tolist() == [(1 / 4 + 1 / 4) / 2, (2 / 4 + 2 / 4) / 2, (3 / 4 + 3 / 4) / 2]
    exact = _described([[20, 10], [40, 30], [60, 55], [80, 60], [15, 66]], [0, 1, 2, 3, 4])
    back = _described([[10, 10], [30, 30], [50, 55], [70, 60], [5, 66]], [0, 1, 2, 3, 4])
    assert score(back, exact, RIGHT_10, (GLUE_FACTORY, VERIFY)).corners == pytest.approx([0, 0], abs=1e-4)
    nothing = score(first, _described([], []), RIGHT_10, (GLUE_FACTORY, VERIFY))
    assert (nothing.matches, nothing.corners.tolist()) == (0, [np.inf, np.inf])
    assert nothing.accurate.tolist() == [0, 0, 0]


def test_an_error_of_exactly_the_threshold_is_accurate_but_not_precise() -> None:
    found = score(_described([[10, 10]], [0]), _described([[23, 10]], [0]), RIGHT_10, (GLUE_FACTORY, VERIFY))
    assert found.accurate.tolist() == [0, 1, 1]
    assert found.precise.tolist() == [0, 0, 1]


def test_points_near_the_edge_are_left_out_in_the_first_images_pixels() -> None:
    found = _described([[12, 50], [16, 50], [60, 50], [70, 50]], [0, 1, 2, 3])
    kept = away_from_edges(found, np.linalg.inv(RIGHT_10), (100, 100), 5, 2)
    assert kept.xy[:, 0].tolist() == [16, 60]


@pytest.mark.parametrize("shorter", [30, 90])
def test_resizing_moves_pixels_as_it_says(shorter: int) -> None:
    image = np.zeros((60, 80), np.float32)
    image[20:24, 40:44] = 1
    resized, matrix = resize(image, shorter)
    assert min(resized.shape) == shorter
    y, x = np.mgrid[0 : resized.shape[0], 0 : resized.shape[1]]
    centre = np.array([(x * resized).sum(), (y * resized).sum()]) / resized.sum()
    assert np.allclose(warp(np.array([[41.5, 21.5]]), matrix)[0], centre, atol=0.02)


@pytest.mark.parametrize("change", ["rotation", "perspective"])
def test_versions_show_what_their_homography_says(change: str) -> None:
    image = np.zeros((90, 120), np.float32)
    cv2.circle(image, (80, 30), 6, 1, -1)
    options = selfwarp.WarpOptions(step=45, versions=3)
    versions = list(selfwarp._versions(image, change, 0, options))  # type: ignore[arg-type]
    assert len(versions) == {"rotation": 8, "perspective": 3}[change]
    for second, homography in versions:
        bright = second > 0.75
        y, x = np.nonzero(bright)
        assert np.allclose([x.mean(), y.mean()], warp(np.array([[80.0, 30]]), homography)[0], atol=0.6)
    again = list(selfwarp._versions(image, change, 0, options))  # type: ignore[arg-type]
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(versions, again, strict=True))


def test_quarter_turns_move_whole_pixels() -> None:
    image = blobs(30, 40)
    turned, matrix = selfwarp.rotate(image, 90)
    assert turned.shape == (40, 30)
    for x, y in ((0, 0), (39, 0), (7, 20)):
        column, row = np.rint(warp(np.array([[x, y]], np.float64), matrix)[0]).astype(int)
        assert turned[row, column] == image[y, x]


def test_light_leaves_places_alone_and_grows() -> None:
    image = blobs(60, 80)
    options = selfwarp.WarpOptions(versions=4)
    changed = [np.abs(second - image).mean() for second, _ in selfwarp._versions(image, "light", 0, options)]
    assert 0 < changed[0] < changed[1] < changed[3]


def _save(path: Path, image: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(path)


def test_rotation_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _save(tmp_path / "images" / "a.png", blobs(150, 170))
    out = tmp_path / "out"
    arguments = ["keypoints", "evaluate", "rotation", str(tmp_path / "images"), "--extractors", "sift", "orb"]
    assert main([*arguments, "--step", "90", "--keypoints", "100", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())["results"]
    assert len(results["sift"]["repeatability@3"]) == 4
    assert min(results["sift"]["mma@3"]) > 0.8
    assert f"{100 * np.mean(results['orb']['repeatability@3']):.1f}" in said
    with Image.open(out / "rotation.png") as plot:
        assert plot.width > 500
    assert main([*arguments, "--step", "50"]) == 2
    assert "must divide 90" in capsys.readouterr().err


def test_unreadable_images_of_a_folder_are_listed_and_the_rest_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    for name in ("a.png", "c.png"):
        _save(folder / name, blobs(150, 170))
    whole = (folder / "a.png").read_bytes()
    (folder / "b.png").write_bytes(whole[: len(whole) // 2])
    (folder / "d.jpg").write_text("no image")
    arguments = ["keypoints", "evaluate", "rotation", str(folder), "--extractors", "orb", "--step", "90"]
    assert main([*arguments, "--keypoints", "50"]) == 1
    said = capsys.readouterr()
    assert "2 images" in said.out
    assert said.err.count("is no readable image") == 2
    assert "2 of 4 files could not be read" in said.err
    for name in ("a.png", "c.png"):
        (folder / name).write_bytes(b"")
    assert main(arguments) == 2
    assert f"no image in {folder} can be read" in capsys.readouterr().err


def test_the_benchmark_lists_what_it_cannot_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = tmp_path / "scene"
    _save(scene / "image" / "a.png", blobs(150, 170))
    (scene / "image" / "b.png").write_bytes(b"")
    (scene / "pose").mkdir()
    own = scene / "image" / "a.png"
    monkeypatch.setattr(bench, "held_out", lambda: [own])
    monkeypatch.setattr(bench, "memory", lambda *_: "memory")
    out = tmp_path / "out"
    arguments = ["bench", "keypoints", "orb", "--data", str(scene), "--step", "90", "--versions", "1", "--rounds", "1"]
    assert main([*arguments, "--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert said.count("b.png is no readable image") == 2  # once of the photographs, once in what the poses miss
    assert "at least two photographs" in said
    assert "rotation: 1 photographs of scene" in (out / "keypoints.md").read_text()


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    """A tiny copy of HPatches: one sequence of light, one of viewpoint, one that is left out."""
    folder = tmp_path / "hpatches"
    truth = np.array([[0.95, 0.05, 4], [-0.04, 1.02, 3], [1e-4, 0, 1]])
    for name in ("i_lamp", "v_wall", "v_talent"):
        scene = blobs(120, 150)
        _save(folder / name / "1.ppm", scene)
        for number in range(2, 7):
            homography = np.eye(3) if name == "i_lamp" else truth
            image = cv2.warpPerspective(scene, homography, (150, 120)) * (0.9 if name == "i_lamp" else 1)
            _save(folder / name / f"{number}.ppm", image)
            np.savetxt(folder / name / f"H_1_{number}", homography)
    return folder


def test_hpatches_in_both_protocols(patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(patches), "--extractors", "sift", "--keypoints", "200", "--out", str(tmp_path / "out")]
    for protocol in ("hpatches-full", "hpatches"):
        assert main(["keypoints", "evaluate", protocol, *arguments]) == 0
        said = capsys.readouterr().out
        assert "2 sequences" in said
        numbers = json.loads((tmp_path / "out/results.json").read_text())["results"]
        assert numbers["all"]["sift"]["pairs"] == 10
        for part in ("light", "viewpoint"):
            assert numbers[part]["sift"]["pairs"] == 5
            assert numbers[part]["sift"]["mma"][1] > 0.85
            assert min(h["auc"][2] for h in numbers[part]["sift"]["homographies"].values()) > 0.7
            assert set(numbers[part]["sift"]["homographies"]) > {"verify 1 px"}


def test_hpatches_is_scaled_with_its_homographies(patches: Path) -> None:
    setting = hpatches.Setting(100, 60, (Ransac(3, 1000, 0.999),))
    (sequence,) = [s for s in hpatches.sequences(patches) if s.name == "v_wall"]
    small = hpatches.measure({"sift": keypoints.load("sift", 100)}, [sequence], setting)[0]["sift"]["v_wall"]
    assert np.mean([s.accurate[1] for s in small]) > 0.85


def test_a_damaged_sequence_is_left_out(patches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (patches / "v_wall" / "4.ppm").write_bytes(b"P6 150 120 255 ")
    arguments = ["keypoints", "evaluate", "hpatches-full", str(patches), "--extractors", "orb", "--keypoints", "50"]
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert "1 sequences" in said.out
    assert "viewpoint" not in said.out
    assert "v_wall is left out" in said.err
    assert "1 of 2 sequences could not be read" in said.err


def test_hpatches_says_what_is_missing(patches: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no sequences"):
        hpatches.sequences(tmp_path / "empty")
    (patches / "v_wall" / "H_1_3").write_text("1 2 3")
    sequence = hpatches.Sequence(patches / "v_wall")
    with pytest.raises(UsageError, match="3 x 3"):
        sequence.homography(3)
    with pytest.raises(UsageError, match="must hold one image 7"):
        sequence.image(7)


def _posed(folder: Path) -> None:
    """Three views of a textured box of three planes, by a camera that moves and turns."""
    intrinsics = np.array([[200.0, 0, 119.5], [0, 200, 89.5], [0, 0, 1]])
    texture = blobs(300, 400, 3)
    for k in range(3):
        angle = 0.06 * k
        rotation = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation, [0.25 * k, 0.1 * k, 0]
        image = np.full((180, 240), 0.5, np.float32)
        for depth, left, width in ((4.0, -3, 6), (3.0, -1.2, 0.9), (2.2, 0.3, 0.8)):
            plane = np.array([[width / 400, 0, left], [0, width / 400, -150 * width / 400], [0, 0, depth]])
            world = np.linalg.inv(pose)
            matrix = intrinsics @ (world[:3, :3] @ plane + np.outer(world[:3, 3], [0, 0, 1]))
            shown = cv2.warpPerspective(texture, matrix, (240, 180))
            there = cv2.warpPerspective(np.ones_like(texture), matrix, (240, 180)) > 0.99
            image[there] = shown[there]
        _save(folder / "image" / f"{k}.png", image)
        for name, matrix in (("intrinsic", intrinsics), ("pose", pose)):
            (folder / name).mkdir(exist_ok=True)
            np.savetxt(folder / name / f"{k}.txt", matrix)


def test_relative_pose_of_made_views(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _posed(tmp_path / "scene")
    arguments = ["keypoints", "evaluate", "poses", str(tmp_path / "scene"), "--extractors", "sift"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert "| sift | 3 " in capsys.readouterr().out
    errors = json.loads((tmp_path / "out/results.json").read_text())["results"]["errors_degrees"]["sift"]
    assert max(errors.values()) < 10
    views, faults = posed.photographs(tmp_path / "scene")
    assert not faults
    rotation, translation = posed.relative(views[0], views[1])
    point = np.array([0.3, -0.2, 3, 1])
    assert np.allclose(rotation @ point[:3] + translation, (np.linalg.inv(views[1].pose) @ point)[:3])
    (tmp_path / "scene/pose/1.txt").write_text("nan")
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert "| sift | 1 " in said.out
    assert "1.txt must hold 4 x 4" in said.err
    (tmp_path / "scene/image/0.png").write_bytes(b"")
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert "0.png is no readable image" in said.err
    assert "1.txt must hold 4 x 4" in said.err
    assert main(["keypoints", "evaluate", "poses", str(tmp_path / "out")]) == 2
