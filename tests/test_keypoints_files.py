"""Keypoints of many files: where images come from, hloc's HDF5, COLMAP's database, resuming, bad files."""

from __future__ import annotations

import errno
import functools
import itertools
import os
import sqlite3
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from robovision import keypoints
from robovision.cli import main
from robovision.errors import UsageError
from robovision.files import cannot_write
from robovision.keypoints import hloc, pipeline, posed, sources
from robovision.keypoints.colmap import pairs
from robovision.keypoints.drawing import MatchPicture, write_picture
from robovision.keypoints.interchange import from_lightglue, to_lafs, to_lightglue
from robovision.keypoints.scores import pose_error
from robovision.types import Array, Keypoints
from tests.keypoint_pictures import blobs

DATA = Path(os.environ.get("ROBOVISION_DATA", Path(__file__).parents[2] / "shared" / "data")) / "images" / "mobilebrick"


def _write(path: Path, image: Array) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(path)
    return path


def _film(path: Path, frames: list[Array]) -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width = frames[0].shape
        for image in frames:
            frame = av.VideoFrame.from_ndarray(np.rint(image * 255).astype(np.uint8), "gray")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _names(*arguments: Path | str) -> list[str]:
    return [source.name for source in sources.find([str(argument) for argument in arguments])]


def test_sources_are_named_by_what_sets_them_apart(tmp_path: Path) -> None:
    for name in ("left/1.png", "left/2.JPG", "right/1.png", "right/a/[x].png", "notes.txt", ".hidden.png"):
        _write(tmp_path / name, blobs(8, 8)) if name.endswith("png") else (tmp_path / name).write_text("")
    everything = ["left/1.png", "left/2.JPG", "right/1.png", "right/a/[x].png"]
    assert _names(tmp_path) == everything
    assert _names(tmp_path / "left") == ["1.png", "2.JPG"]
    assert _names(tmp_path / "left", tmp_path / "right") == everything
    assert _names(tmp_path / "*" / "1.png") == ["left/1.png", "right/1.png"]
    assert _names(tmp_path / "**" / "*.png") == [name for name in everything if name.endswith("png")]
    assert _names(tmp_path / "right/a/[x].png") == ["[x].png"]
    assert _names(tmp_path / "ri*") == ["right/1.png", "right/a/[x].png"]
    (tmp_path / "empty").mkdir()
    for nothing in ("none", "*.bmp", "empty"):
        with pytest.raises(UsageError, match=r"there is no image"):
            _names(tmp_path / nothing)


def test_frames_of_a_video_are_named_by_number(tmp_path: Path) -> None:
    film = _film(tmp_path / "drive.mp4", [blobs(48, 64, seed) for seed in range(5)])
    (source,) = sources.find([str(film)])
    frames = list(sources.read(source, 2, lambda name: "000002" not in name))
    assert sources.count(source, 2) == 3
    assert [name for name, _ in frames] == [f"drive.mp4/00000{k}.jpg" for k in (0, 2, 4)]
    assert frames[1][1] is None
    assert frames[2][1] is not None
    assert np.abs(frames[2][1] - blobs(48, 64, 4)).mean() < 0.05
    film.write_bytes(film.read_bytes()[:200])
    assert sources.count(source, 1) is None
    with pytest.raises(UsageError, match="can't be read beyond frame 0"):
        list(sources.read(source, 1, lambda _: True))


def test_a_video_that_is_cut_off_gives_its_frames_and_says_so(tmp_path: Path) -> None:
    """Neither format has an index that would be missed."""
    for ending in ("mkv", "avi"):
        film = _film(tmp_path / f"drive.{ending}", [blobs(48, 64, seed) for seed in range(40)])
        (source,) = sources.find([str(film)])
        assert len(list(sources.read(source, 1, lambda _: False))) == 40
        film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
        frames = sources.read(source, 1, lambda _: False)
        seen: list[str] = []
        with pytest.raises(UsageError, match=r"beyond frame \d+ of about 40: the file is cut off"):
            seen.extend(name for name, _ in frames)
        assert 0 < len(seen) < 36


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder with good images of every kind, and bad ones."""
    folder = tmp_path / "photographs"
    scene = blobs(160, 220)
    _write(folder / "left/a.png", scene[:, :200])
    _write(folder / "left/b.png", scene[:, 20:])
    _write(folder / "one.png", scene[:1, :1])
    _write(folder / "level.png", np.full((64, 64), 0.5))
    Image.fromarray(np.rint(scene * 65535).astype(np.uint16)).save(folder / "deep.png")
    colour = np.rint(np.repeat(scene[..., None], 4, 2) * 255).astype(np.uint8)
    colour[..., 3] = 255
    Image.fromarray(colour).save(folder / "clear.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(colour[..., :3]).save(folder / "turned.jpg", exif=exif, quality=95)
    whole = (folder / "left/a.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "none.jpg").write_text("no image")
    return folder


GOOD = ["clear.png", "deep.png", "left/a.png", "left/b.png", "level.png", "one.png", "turned.jpg"]


def test_extract_does_all_that_can_be_read_and_lists_the_rest(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / "features.h5"
    arguments = ["keypoints", "extract", str(photographs), "--extractor", "rootsift", "--num-keypoints", "40"]
    assert main([*arguments, "--out", str(out)]) == 1
    captured = capsys.readouterr()
    assert "7 images' keypoints" in captured.out
    for line in ("cut.png is no readable image", "none.jpg is no readable image", "2 of 9 files"):
        assert line in captured.err
    assert hloc.names(out) == GOOD
    found = dict(hloc.read(out))
    assert len(found["one.png"]) == len(found["level.png"]) == 0
    assert found["turned.jpg"].image_size == (160, 220)
    expected = keypoints.load("rootsift", 40).extract(blobs(160, 220)[:, :200])
    assert np.allclose(found["left/a.png"].xy, expected.xy, atol=0.5)
    assert len(found["deep.png"]) == len(found["clear.png"]) == 40
    with h5py.File(out) as file:  # what hloc reads
        group: Any = file["left/a.png"]
        assert group["keypoints"].dtype == np.float32
        assert group["keypoints"].shape == (40, 2)
        assert group["descriptors"].shape == (128, 40)
        assert group["image_size"][()].tolist() == [200, 160]
        assert group["scores"].shape == (40,)
    assert [path.name for path in out.parent.iterdir()] == ["features.h5"]


def test_an_interrupted_extraction_goes_on(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "features.h5"
    arguments = ["keypoints", "extract", str(photographs), "--extractor", "orb", "--out", str(out)]
    read, extracted = sources.read, []

    def interrupted(source: sources.Source, every: int, wanted: object) -> object:
        if source.name == "level.png":
            raise KeyboardInterrupt
        return read(source, every, wanted)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "read", interrupted)
        assert main(arguments) == 130
    assert not out.exists()
    assert main([*arguments, "--num-keypoints", "7"]) == 2
    assert "was made with" in capsys.readouterr().err
    extract = keypoints.Extractor.extract

    def counted(self: keypoints.Extractor, image: Array | torch.Tensor) -> Keypoints:
        extracted.append(1)
        return extract(self, image)

    monkeypatch.setattr(keypoints.Extractor, "extract", counted)
    assert main(arguments) == 1
    assert len(extracted) == 3
    assert hloc.names(out) == GOOD
    _write(photographs / "new.png", blobs(64, 64))
    assert main(arguments) == 1
    assert len(extracted) == 4
    assert "new.png" in hloc.names(out)
    assert main([*arguments, "--num-keypoints", "7"]) == 2


def test_a_name_that_is_no_text_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write(tmp_path / "images" / "good.png", blobs(64, 64))
    try:
        (tmp_path / "images" / os.fsdecode(b"bad\xff.png")).write_bytes((tmp_path / "images" / "good.png").read_bytes())
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    out = tmp_path / "features.h5"
    assert main(["keypoints", "extract", str(tmp_path / "images"), "--extractor", "orb", "--out", str(out)]) == 1
    assert "is no UTF-8" in capsys.readouterr().err
    assert hloc.names(out) == ["good.png"]


def test_two_extractions_into_one_file_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "features.h5"
    _write(tmp_path / "a.png", blobs(64, 64))
    arguments = ["keypoints", "extract", str(tmp_path / "a.png"), "--extractor", "orb", "--out", str(out)]
    with hloc.Store(out, {"extractor": "orb", "keypoints": 1024, "uniform": False}).lock():
        assert main(arguments) == 2
    assert "another process is working in" in capsys.readouterr().err
    assert main(arguments) == 0
    assert hloc.names(out) == ["a.png"]


def test_a_full_disk_ends_an_extraction_and_loses_nothing(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / "features.h5"
    arguments = ["keypoints", "extract", str(photographs), "--extractor", "orb", "--out", str(out)]
    add = hloc.Store.add
    added: list[str] = []

    def full(store: hloc.Store, name: str, found: Keypoints) -> None:
        if len(added) == 2:
            raise cannot_write(out, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        add(store, name, found)
        added.append(name)

    with monkeypatch.context() as patch:
        patch.setattr(hloc.Store, "add", full)
        assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.count("No space left") == 1
    assert "could not be read" not in said
    assert main(arguments) == 1
    assert hloc.names(out) == GOOD


def test_an_error_of_hdf5_is_told_as_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = hloc.Store(tmp_path / "features.h5", {})
    store.add("a.png", Keypoints(np.zeros((1, 2)), (5, 5), np.ones(1)))

    def full(*_: object) -> None:
        raise OSError("Can't close file (time = Monday\n, errno = 28, error message = 'No space left on device')")

    with monkeypatch.context() as patch, pytest.raises(UsageError, match=r"h5: No space left on device; free some"):
        patch.setattr(hloc, "_write", full)
        store.pack()
    assert [path.name for path in tmp_path.iterdir()] == [".features.h5.parts"]
    hloc.Store(tmp_path / "features.h5", {}).pack()
    assert hloc.names(tmp_path / "features.h5") == ["a.png"]


def test_files_that_are_no_features_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("text")
    for name, message in (("text.h5", "no readable HDF5"), ("none.h5", "there is no file")):
        with pytest.raises(UsageError, match=message):
            hloc.names(tmp_path / name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "features.npz"], "must end in .h5"),
        (["--every", "0"], "--every must be positive"),
        (["--extractor", "siftt"], "nearest: sift"),
    ],
)
def test_extract_refuses_wrong_options(
    photographs: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keypoints", "extract", str(photographs), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_pairs_are_all_or_neighbours() -> None:
    assert pairs(4, None) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert pairs(4, 1) == [(0, 1), (1, 2), (2, 3)]


def test_colmap_gets_keypoints_cameras_and_verified_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pycolmap = pytest.importorskip("pycolmap", reason="needs pycolmap; pip install 'robovision[colmap]'")
    scene = blobs(160, 240)
    folder = tmp_path / "images"
    for k, name in enumerate(("left/0.png", "left/1.png", "right/0.png")):
        _write(folder / name, scene[4 * k : 140 + 4 * k, 20 * k : 200 + 20 * k])
    database = tmp_path / "map" / "scene.db"
    arguments = ["keypoints", "extract", str(folder), "--extractor", "sift", "--out", str(database), "--focal", "180"]
    assert main(arguments) == 0
    assert "3 of 3 pairs agree" in capsys.readouterr().out
    stored = dict(hloc.read(database.with_suffix(".h5")))
    with pycolmap.Database.open(database) as opened:
        images = {image.name: image for image in opened.read_all_images()}
        cameras = [images[name].camera_id for name in stored]
        assert cameras[0] == cameras[1] != cameras[2]
        camera = opened.read_camera(cameras[0])
        assert (camera.width, camera.height, camera.focal_length) == (200, 140, 180)
        assert camera.has_prior_focal_length
        numbers = [images[name].image_id for name in stored]
        written = opened.read_keypoints(numbers[0])
        assert np.allclose(written[:, :2], stored["left/0.png"].xy + 0.5)
        geometry = opened.read_two_view_geometry(numbers[0], numbers[2]).inlier_matches
        assert opened.num_frames() == 3
    first, second = stored["left/0.png"].xy[geometry[:, 0]], stored["right/0.png"].xy[geometry[:, 1]]
    assert np.median(np.linalg.norm(first - second - [40, 8], axis=1)) < 0.3
    with sqlite3.connect(database) as connection:  # as if interrupted after the first pairs
        connection.execute("DELETE FROM two_view_geometries WHERE rowid = 3")
    assert main(arguments) == 0
    assert "3 of 3 pairs agree" in capsys.readouterr().out
    _write(folder / "left/2.png", scene)
    assert main(arguments) == 2
    assert "other images, such as left/2.png" in capsys.readouterr().err


def test_pycolmap_reconstructs_photographs_whose_poses_are_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pycolmap = pytest.importorskip("pycolmap", reason="needs pycolmap; pip install 'robovision[colmap]'")
    if not DATA.is_dir():
        pytest.skip(f"no real data: {DATA} is missing; set ROBOVISION_DATA")
    views = {view.name: view for view in posed.photographs(DATA)[0]}
    database, folder = tmp_path / "scene.db", DATA / "image"
    focal = str(views["000000.jpg"].intrinsics[0, 0])
    arguments = ["keypoints", "extract", str(folder), "--extractor", "sift", "--out", str(database), "--focal", focal]
    assert main(arguments) == 0
    assert "10 of 10 pairs agree" in capsys.readouterr().out
    (tmp_path / "model").mkdir()
    pycolmap.set_random_seed(0)
    models = pycolmap.incremental_mapping(database, folder, tmp_path / "model")
    found = {image.name: image.cam_from_world() for image in models[0].images.values()}
    assert set(found) == set(views)
    for first, second in itertools.combinations(sorted(views), 2):
        motion = found[second] * found[first].inverse()
        truth = posed.relative(views[first], views[second])
        assert pose_error(motion.rotation.matrix(), motion.translation, *truth) < 8


@functools.cache
def _found() -> Keypoints:
    return keypoints.load("sift", 30).extract(blobs(120, 140))


def test_lightglue_dictionary_there_and_back() -> None:
    features = to_lightglue(_found())
    assert features["keypoints"].shape == (1, 30, 2)
    assert features["descriptors"].shape == (1, 30, 128)
    assert features["keypoint_scores"].shape == features["oris"].shape == features["scales"].shape == (1, 30)
    assert features["image_size"].tolist() == [[140, 120]]
    back = from_lightglue(features)
    for name in ("xy", "scores", "descriptors", "angles", "scales"):
        assert np.array_equal(getattr(back, name), getattr(_found(), name))
    with pytest.raises(ValueError, match="lack keypoint_scores"):
        from_lightglue({"keypoints": features["keypoints"], "image_size": features["image_size"]})
    with pytest.raises(ValueError, match="batch of 2"):
        from_lightglue({name: value.repeat(2, *[1] * (value.ndim - 1)) for name, value in features.items()})


def test_local_affine_frames_are_those_of_kornia() -> None:
    feature = pytest.importorskip("kornia.feature", reason="needs kornia; pip install kornia")
    found = _found()
    assert found.angles is not None
    assert found.scales is not None
    xy, angles, scales = (torch.from_numpy(array.copy()) for array in (found.xy, found.angles, found.scales))
    expected = feature.laf_from_center_scale_ori(
        xy[None], scales[None, :, None, None], -angles.rad2deg()[None, :, None]
    )
    assert torch.allclose(to_lafs(found), expected, atol=1e-4)
    along = to_lafs(found)[0, :, :, 0] / scales[:, None]
    assert torch.allclose(along, torch.stack([angles.cos(), angles.sin()], 1), atol=1e-5)
    plain = Keypoints(found.xy, found.image_size, found.scores)
    assert torch.equal(to_lafs(plain)[0, :, :, :2], torch.eye(2).expand(30, 2, 2))


def test_match_draws_what_agrees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = blobs(160, 220)
    first, second = _write(tmp_path / "a.png", scene[:, :200]), _write(tmp_path / "b.png", np.rot90(scene[:, 20:]))
    out = tmp_path / "pictures" / "m.png"
    arguments = ["keypoints", "match", str(first), str(second), "--extractor", "sift", "--model", "homography"]
    assert main([*arguments, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert int(said.split(" agree")[0].split()[-1]) > 30
    with Image.open(out) as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (200 + 36, 200 + 12 + 160, 3)
    coloured = np.ptp(pixels.astype(int), axis=2) > 60
    assert coloured[:160, :200].mean() > 0.02
    assert coloured[:200, 212:].mean() > 0.02
    assert main([*arguments, "--out", str(tmp_path / "m.txt")]) == 2
    assert main([*arguments, "--model", "essential", "--focal", "200"]) == 0
    assert "agree on an essential matrix" in capsys.readouterr().out
    assert main([*arguments, "--model", "essential"]) == 2
    assert main(["keypoints", "match", str(first), str(tmp_path / "none.png")]) == 2


def test_match_without_opencv_says_so_before_it_reads_an_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert main(["keypoints", "match", str(tmp_path / "none.png"), str(tmp_path / "nor.png")]) == 2
    assert "pip install 'robovision[keypoints]'" in capsys.readouterr().err


def test_a_picture_of_no_matches_and_of_wide_images(tmp_path: Path) -> None:
    nothing = np.zeros((0, 2)), np.zeros((0, 2))
    wide, tall = np.full((20, 100), 0.5), np.full((1, 1), 0.5)
    picture = MatchPicture((wide, wide), nothing, np.zeros(0, bool), "nothing").draw()
    assert picture.shape == (20 + 12 + 20 + 36, 100, 3)
    assert MatchPicture((tall, tall), nothing, np.zeros(0, bool), "").draw().shape == (1 + 36, 1 + 12 + 1, 3)
    write_picture(tmp_path / "m.jpg", picture)
    assert (tmp_path / "m.jpg").stat().st_size > 0
