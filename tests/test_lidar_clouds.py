from __future__ import annotations

import os
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest

from robovision import PointCloud
from robovision.errors import UsageError
from robovision.lidar.argoverse import write_feather
from robovision.lidar.clouds import read_cloud, write_cloud
from robovision.types import Array

DATA = Path(os.environ.get("ROBOVISION_DATA", Path(__file__).parents[2] / "shared" / "data")) / "lidar"
EXACT = (".pcd", ".ply", ".npz")
EVERY = (".bin", ".pcd.bin", ".feather", *EXACT)
HEADER = "VERSION 0.7\nFIELDS x y z intensity\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 1\nWIDTH 2\nHEIGHT 1\nPOINTS 2\n"


def random_cloud(count: int = 50) -> PointCloud:
    generator = np.random.default_rng(0)
    return PointCloud(
        generator.normal(0, 20, (count, 3)),
        generator.uniform(0, 1, count),
        generator.uniform(-0.1, 0, count),
        generator.integers(0, 64, count),
    )


def same(a: Array | None, b: Array | None) -> bool:
    return a is b if a is None or b is None else np.array_equal(a, b)


def missing_data(path: Path) -> bool:
    if not path.exists():
        pytest.skip(f"no real data: {path} is missing; set ROBOVISION_DATA")
    return False


@pytest.mark.parametrize("ending", EXACT)
@pytest.mark.parametrize("parts", [(), ("intensity",), ("ring",), ("intensity", "time", "ring")])
def test_round_trips_keep_every_bit(tmp_path: Path, ending: str, parts: tuple[str, ...]) -> None:
    full = random_cloud()
    intensity, time, ring = (getattr(full, n) if n in parts else None for n in ("intensity", "time", "ring"))
    given = PointCloud(full.xyz, intensity, time, ring)
    write_cloud(tmp_path / f"a{ending}", given)
    back = read_cloud(tmp_path / f"a{ending}")
    assert all(same(getattr(given, n), getattr(back, n)) for n in ("xyz", "intensity", "time", "ring"))


def test_binary_round_trips_keep_what_there_is_room_for(tmp_path: Path) -> None:
    given = random_cloud()
    assert given.intensity is not None
    write_cloud(tmp_path / "a.bin", given)
    kitti = read_cloud(str(tmp_path / "a.bin"))
    assert same(kitti.xyz, given.xyz)
    assert same(kitti.intensity, given.intensity)
    assert kitti.ring is kitti.time is None
    write_cloud(tmp_path / "a.pcd.bin", given)
    nuscenes = read_cloud(tmp_path / "a.pcd.bin")
    assert same(nuscenes.xyz, given.xyz)
    assert same(nuscenes.ring, given.ring)
    assert nuscenes.intensity is not None
    np.testing.assert_allclose(nuscenes.intensity, given.intensity, atol=1e-7)


def test_argoverse_keeps_its_own_precision(tmp_path: Path) -> None:
    write_cloud(tmp_path / "a.feather", random_cloud())
    first = read_cloud(tmp_path / "a.feather")
    assert first.frame == "ego"
    write_cloud(tmp_path / "b.feather", first)
    second = read_cloud(tmp_path / "b.feather")
    assert all(same(getattr(first, n), getattr(second, n)) for n in ("xyz", "intensity", "ring"))
    assert first.time is not None
    assert second.time is not None
    np.testing.assert_allclose(first.time, second.time, atol=1e-8)
    with pytest.raises(UsageError, match=r"lasers 0\.\.255"):
        write_cloud(tmp_path / "c.feather", PointCloud([[1, 2, 3]], ring=[256]))  # type: ignore[arg-type]


@pytest.mark.parametrize("ending", EVERY)
def test_empty_clouds(tmp_path: Path, ending: str) -> None:
    write_cloud(tmp_path / f"a{ending}", PointCloud(np.zeros((0, 3))))
    assert read_cloud(tmp_path / f"a{ending}").xyz.shape == (0, 3)


@pytest.mark.parametrize("ending", EVERY)
def test_files_cut_in_the_middle_are_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    write_cloud(path, random_cloud())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2 + 1])
    with pytest.raises(UsageError, match="cut off") as caught:
        read_cloud(path)
    assert str(path) in str(caught.value)
    path.write_bytes(b"\x01\x02\x03")
    with pytest.raises(UsageError, match=r"cut off|no multiple"):
        read_cloud(path)
    with pytest.raises(UsageError, match="No such file"):
        read_cloud(tmp_path / f"none{ending}")


def test_the_wrong_stride_is_told_from_a_cut(tmp_path: Path) -> None:
    write_cloud(tmp_path / "a.pcd.bin", random_cloud(3))
    (tmp_path / "a.pcd.bin").rename(tmp_path / "a.bin")
    with pytest.raises(
        UsageError, match="60 bytes is no multiple of the 16 bytes of a kitti point; it could be of nusc"
    ):
        read_cloud(tmp_path / "a.bin")


def test_a_stride_that_fits_by_chance_is_told_by_the_numbers(tmp_path: Path) -> None:
    points = np.random.default_rng(0).uniform(2, 50, (20, 5)).astype("<f4")
    points[:, 3:] = 200, 7
    points.tofile(tmp_path / "a.bin")
    with pytest.raises(UsageError, match=r"reflectance, lies in 0\.\.1, got .* name the file \.pcd\.bin"):
        read_cloud(tmp_path / "a.bin")
    points[:, 3] = 0.5
    points.tofile(tmp_path / "a.pcd.bin")
    assert len(read_cloud(tmp_path / "a.pcd.bin")) == 20
    points[:, 4] = 0.25
    points.tofile(tmp_path / "a.pcd.bin")
    with pytest.raises(UsageError, match=r"fifth number of a point is that of its laser.* name the file \.bin"):
        read_cloud(tmp_path / "a.pcd.bin")


def test_points_that_are_not_finite_are_left_out_with_a_warning(tmp_path: Path) -> None:
    rows = np.array([[1, 2, 3, 0.5], [np.nan, 0, 0, 0], [0, np.inf, 0, 0.25], [4, 5, 6, 1]], np.float32)
    (tmp_path / "a.bin").write_bytes(rows.tobytes())
    with pytest.warns(UserWarning, match=r"a\.bin: 2 of 4 points are not finite and were left out"):
        cloud = read_cloud(tmp_path / "a.bin")
    assert cloud.xyz.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert cloud.intensity is not None
    assert cloud.intensity.tolist() == [0.5, 1]


def test_intensity_of_another_scale_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(np.array([[1, 2, 3, 200]], np.float32).tobytes())
    with pytest.raises(UsageError, match=r"a\.bin: .*reflectance, lies in 0\.\.1, got 200; divide"):
        read_cloud(tmp_path / "a.bin")


def test_unknown_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.pcd\.bin, \.bin, \.feather, \.pcd, \.ply, \.npz"):
        read_cloud(tmp_path / "a.las")


def test_ascii_pcd_with_padding_and_foreign_fields(tmp_path: Path) -> None:
    text = "# .PCD v.7\nFIELDS x y z _ rgb intensity\nSIZE 4 4 8 1 4 4\nTYPE F F F U F F\nCOUNT 1 1 1 2 1 1\nPOINTS 2\n"
    (tmp_path / "a.pcd").write_text(f"{text}DATA ascii\n1 2 3 0 0 9 0.5\n4 5 6 0 0 9 0.25\n")
    cloud = read_cloud(tmp_path / "a.pcd")
    assert cloud.xyz.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert cloud.intensity is not None
    assert cloud.intensity.tolist() == [0.5, 0.25]


def test_compressed_pcd_by_hand(tmp_path: Path) -> None:
    # Column by column; a copy of 6 + 1 + 2 bytes at distance 4 continues the number 1.0 of the literal before it.
    values = np.array([[1, 1, 1, 0.5], [1, 1, 1, 0.25]], np.float32).T.tobytes()
    literal = values[:4]
    packed = bytes([3]) + literal + bytes([7 << 5, 20 - 7 - 2, 3]) + bytes([7]) + values[24:]
    body = struct.pack("<II", len(packed), len(values)) + packed
    (tmp_path / "a.pcd").write_bytes(f"{HEADER}DATA binary_compressed\n".encode() + body)
    cloud = read_cloud(tmp_path / "a.pcd")
    assert cloud.xyz.tolist() == [[1, 1, 1]] * 2
    assert cloud.intensity is not None
    assert cloud.intensity.tolist() == [0.5, 0.25]
    (tmp_path / "a.pcd").write_bytes(f"{HEADER}DATA binary_compressed\n".encode() + body[:20])
    with pytest.raises(UsageError, match="cut off"):
        read_cloud(tmp_path / "a.pcd")
    damaged = struct.pack("<II", 3, len(values)) + bytes([1 << 5, 9, 9])
    (tmp_path / "a.pcd").write_bytes(f"{HEADER}DATA binary_compressed\n".encode() + damaged)
    with pytest.raises(UsageError, match="damaged"):
        read_cloud(tmp_path / "a.pcd")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (HEADER.replace("x y z", "x y q"), "fields x, y and z are needed; there are x, y, q"),
        (HEADER.replace("SIZE 4 4 4 4", "SIZE 4 4"), "contradicts itself"),
        (HEADER.replace("POINTS 2\n", ""), "no POINTS"),
        (HEADER.replace("TYPE F F F F", "TYPE F F F X"), "contradicts itself"),
        (HEADER.replace("POINTS 2", "POINTS -2"), "contradicts itself"),
        (HEADER.replace("COUNT 1 1 1 1", "COUNT 2 1 1 1"), "their COUNT must be 1"),
    ],
)
def test_wrong_pcd_headers(tmp_path: Path, header: str, message: str) -> None:
    (tmp_path / "a.pcd").write_text(f"{header}DATA ascii\n1 2 3 0\n1 2 3 0\n")
    with pytest.raises(UsageError, match=message):
        read_cloud(tmp_path / "a.pcd")


def test_ply_of_other_makers(tmp_path: Path) -> None:
    head = "comment by hand\nelement vertex 2\nproperty double x\nproperty float32 y\nproperty int z\n"
    head += "property uchar ring\n"
    tail = "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    (tmp_path / "a.ply").write_text(f"ply\nformat ascii 1.0\n{head}{tail}1 2 3 7\n4 5 6 8\n3 0 1 0\n")
    big = np.array([(1, 2, 3, 7), (4, 5, 6, 8)], ">f8,>f4,>i4,>u1").tobytes()
    (tmp_path / "b.ply").write_bytes(f"ply\nformat binary_big_endian 1.0\n{head}{tail}".encode() + big)
    for name in ("a.ply", "b.ply"):
        cloud = read_cloud(tmp_path / name)
        assert cloud.xyz.tolist() == [[1, 2, 3], [4, 5, 6]]
        assert cloud.ring is not None
        assert cloud.ring.tolist() == [7, 8]
    (tmp_path / "a.ply").write_text(f"ply\nformat ascii 1.0\n{head}{tail}1 2 3 7\n")
    with pytest.raises(UsageError, match="cut off"):
        read_cloud(tmp_path / "a.ply")
    (tmp_path / "a.ply").write_text(f"ply\nformat ascii 1.0\n{head.replace('float32 y', 'float32 b')}{tail}1 2 3 7\n")
    with pytest.raises(UsageError, match="x, y and z are needed; there are x, b, z, ring"):
        read_cloud(tmp_path / "a.ply")
    for wrong in ("1\nproperty quad x", "-1\nproperty float x\nproperty float y\nproperty float z"):
        (tmp_path / "a.ply").write_text(f"ply\nformat ascii 1.0\nelement vertex {wrong}\nend_header\n1")
        with pytest.raises(UsageError, match="header is wrong"):
            read_cloud(tmp_path / "a.ply")
    (tmp_path / "a.ply").write_text("ply\nformat binary_little_endian 1.0\nelement vertex 1\nend_header\n1")
    with pytest.raises(UsageError, match="x, y and z are needed; there are none"):
        read_cloud(tmp_path / "a.ply")


def test_npz_never_unpickles(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", xyz=np.array([{}], dtype=object))
    with pytest.raises(UsageError, match="no NPZ file"):
        read_cloud(tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes(b"\x80\x04N.")
    with pytest.raises(UsageError) as caught:
        read_cloud(tmp_path / "a.npz")
    assert "unsafe" not in str(caught.value)
    np.savez(tmp_path / "b.npz", points=np.zeros((2, 3)))
    with pytest.raises(UsageError, match=r"array xyz of shape \[N, 3\]; it holds points \[2, 3\]"):
        read_cloud(tmp_path / "b.npz")


def test_what_is_no_number_for_each_point_is_refused(tmp_path: Path) -> None:
    xyz = np.full((3, 3), np.nan)
    np.savez(tmp_path / "a.npz", xyz=xyz, intensity=np.ones(2))
    with pytest.raises(UsageError, match=r"a\.npz: intensity must be numbers for each of 3 points, got float64 \[2\]"):
        read_cloud(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", xyz=xyz.astype(str))
    with pytest.raises(UsageError, match=r"a\.npz: xyz must be numbers"):
        read_cloud(tmp_path / "a.npz")
    sweep = {name: np.array(["a"]) for name in ("x", "y", "z", "intensity", "laser_number", "offset_ns")}
    write_feather(tmp_path / "a.feather", sweep)
    with pytest.raises(UsageError, match=r"a\.feather: columns x, y, z, .* must hold numbers"):
        read_cloud(tmp_path / "a.feather")


@pytest.mark.parametrize("ending", EVERY)
def test_damaged_files_give_a_cloud_or_say_so(tmp_path: Path, ending: str) -> None:
    path, rng = tmp_path / f"a{ending}", np.random.default_rng(0)
    write_cloud(path, random_cloud())
    whole, refused = path.read_bytes(), 0
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] = rng.integers(256)
        del damaged[(at := rng.integers(len(whole))) : at + rng.integers(3)]
        path.write_bytes(damaged)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # some points are not finite now
                read_cloud(path)
        except UsageError as error:
            assert str(path) in str(error)
            refused += 1
    assert 30 < refused <= 100


@pytest.mark.parametrize("ending", EXACT)
def test_a_real_sweep_survives_every_format(tmp_path: Path, ending: str) -> None:
    path = DATA / "kitti" / "training" / "velodyne" / "000000.bin"
    missing_data(path)
    given = read_cloud(path)
    assert len(given) == path.stat().st_size // 16
    write_cloud(tmp_path / f"a{ending}", given)
    write_cloud(tmp_path / "b.bin", read_cloud(tmp_path / f"a{ending}"))
    assert (tmp_path / "b.bin").read_bytes() == path.read_bytes()


def test_a_real_argoverse_sweep_is_written_as_it_was(tmp_path: Path) -> None:
    path = DATA / "av2" / "sensors" / "lidar" / "315966265259836000.feather"
    missing_data(path)
    cloud = read_cloud(path)
    assert len(cloud) == 99229
    write_cloud(tmp_path / "a.feather", cloud)
    back = read_cloud(tmp_path / "a.feather")
    assert all(same(getattr(cloud, n), getattr(back, n)) for n in ("xyz", "intensity", "ring"))
    assert cloud.time is not None
    assert cloud.time.min() >= 0
    assert 0.09 < cloud.time.max() < 0.11
