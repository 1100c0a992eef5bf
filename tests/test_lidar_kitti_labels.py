from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from robovision.errors import UsageError
from robovision.lidar.kitti_labels import KittiObjects, read_detections, read_labels, write_objects

CAR = "Car 0.1 2 -1.5 1.25 2 30 40 1.5 1.6 4 -2 1.5 20 0.2"
FLAT = "Cyclist -1 -1 -10 1 2 3 4 -1 -1 -1 -1000 -1000 -1000 -10"


def test_a_line_is_read_into_its_columns(tmp_path: Path) -> None:
    (tmp_path / "f.txt").write_text(f"{CAR} 0.75\r\n\n  \n{FLAT.replace('Cyclist', 'cyclist')} -3")
    objects = read_detections(tmp_path / "f.txt")
    assert objects.names == ("Car", "Cyclist")
    assert objects.truncation.tolist() == [0.1, -1]
    assert objects.occlusion.tolist() == [2, -1]
    assert objects.alpha.tolist() == [-1.5, -10]
    assert objects.rectangles[0].tolist() == [1.25, 2, 30, 40]
    assert objects.sizes[0].tolist() == [1.5, 1.6, 4]
    assert objects.locations[0].tolist() == [-2, 1.5, 20]
    assert objects.rotation_y[0] == 0.2
    assert objects.scores is not None
    assert objects.scores.tolist() == [0.75, -3]
    assert objects.boxed.tolist() == [True, False]


@pytest.mark.parametrize("width", [14, 15])
def test_what_is_written_is_read_back_bit_by_bit(tmp_path: Path, width: int) -> None:
    values = np.random.default_rng(0).uniform(0, 1, (5, width)) / 3
    values[:, 1] = [0, 1, 2, 3, -1]
    values[:, 5:7] += 1
    given = KittiObjects(("Car", "Van", "Misc", "Tram", "DontCare"), values)
    write_objects(tmp_path / "f.txt", given)
    back = (read_labels if width == 14 else read_detections)(tmp_path / "f.txt")
    assert back.names == given.names
    assert np.array_equal(back.values, values)


def test_an_empty_file_is_a_frame_without_objects(tmp_path: Path) -> None:
    (tmp_path / "f.txt").touch()
    assert len(read_labels(tmp_path / "f.txt")) == 0
    assert read_detections(tmp_path / "f.txt").values.shape == (0, 15)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (CAR[:20], "line 2: 4 numbers behind the class where 14 are expected; the file may be cut off"),
        (f"{CAR} 0.5", "line 2: .* have truth and detections been swapped"),
        (CAR.replace("Car", "Lorry"), "line 2: unknown class 'Lorry'"),
        (CAR.replace("Car", "Cra"), "nearest: Car"),
        (CAR.replace("1.5 1.6 4", "1.5 -1.6 4"), "line 2: height, width or length is negative"),
        (CAR.replace("30 40", "1 40"), "line 2: the rectangle has a negative size"),
        (CAR.replace("20 0.2", "nan 0.2"), "line 2: a number is not finite"),
        (CAR.replace("20 0.2", "20 inf"), "line 2: a number is not finite"),
        (CAR.replace("20 0.2", "2O 0.2"), "line 2: could not convert string to float: '2O'"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "f.txt"
    path.write_text(f"{CAR}\n{line}\n")
    with pytest.raises(UsageError, match=message) as caught:
        read_labels(path)
    assert str(caught.value).startswith(str(path))


def test_detections_need_scores(tmp_path: Path) -> None:
    (tmp_path / "f.txt").write_text(CAR)
    with pytest.raises(UsageError, match=r"f\.txt, line 1: .*the score is missing; append it"):
        read_detections(tmp_path / "f.txt")


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f.bin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is not text"):
        read_labels(tmp_path / "f.bin")
    with pytest.raises(UsageError, match="No such file"):
        read_labels(tmp_path / "none.txt")


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must have shape \[1, 14 or 15\], got \[1, 13\]"):
        KittiObjects(("Car",), np.zeros((1, 13)))


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, robovision.lidar; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
