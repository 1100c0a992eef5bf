"""`robovision bench`: fair comparison, and tables of every measurement."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from robovision.bench.timing import Speed, compare, markdown
from robovision.cli import main


def test_ways_take_turns_and_are_compared_to_the_first() -> None:
    calls: list[str] = []
    speeds = compare({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2, calls=3)
    assert "".join(calls) == "ab" + 2 * "aaabbb"
    assert speeds["a"].ratio == 1.0
    assert speeds["b"].seconds > 0


def test_a_rate_below_ten_keeps_its_digits() -> None:
    assert Speed(0.4, 1.25).rate() == "2.5 (1.2x)"
    assert markdown(["head"], [["x"]]).splitlines()[1] == "|------|"


def test_turns_may_last_as_long_for_quick_ways() -> None:
    now, calls = [0.0], {"slow": 0, "quick": 0}

    def way(name: str, seconds: float) -> None:
        now[0] += seconds
        calls[name] += 1

    ways = {"slow": lambda: way("slow", 4.0), "quick": lambda: way("quick", 0.25)}
    speeds = compare(ways, rounds=3, clock=lambda: now[0], least=1.0)
    assert calls == {"slow": 1 + 1 + 3, "quick": 1 + 1 + 3 * 4}
    assert speeds["quick"] == Speed(0.25, 16.0)


def test_envs_prints_single_vectorised_workers_and_overhead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from robovision.bench import envs

    monkeypatch.setattr(envs, "TURN", 0.01)
    out = tmp_path / "new" / "envs.md"
    arguments = ["bench", "envs", "dmc/pendulum-swingup", "--sizes", "16", "24", "--rounds", "1", "--out", str(out)]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert output.count("| dmc/pendulum-swingup, 0 | 16") == 2
    assert output.count("| dmc/pendulum-swingup, 0 | 24") == 3
    assert "overhead" in output
    assert "fastest" in output
    assert out.read_text() == output[:-1]


def test_encoders_are_timed_beside_transformers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    out = tmp_path / "new" / "encoders.md"
    arguments = ["bench", "encoders", "vit-tiny", "dinov2-vit-s14", "--batch", "1", "--rounds", "1"]
    assert main([*arguments, "--size", "112", "--device", "cpu", "--out", str(out)]) == 0
    output = capsys.readouterr().out
    assert out.read_text() == output[:-1]
    rows = [line.split("|") for line in output.splitlines() if line.startswith(("| vit-tiny", "| dinov2-vit-s14"))]
    assert [row[4].strip() for row in rows] == 2 * ["float32", "float32", "bfloat16", "bfloat16"]
    for row in rows:
        assert float(row[6]) > 0
        assert "x)" in row[7]
        assert row[9].strip().endswith("%")


def test_encoders_without_transformers_or_coin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from robovision.bench import encoders

    monkeypatch.setattr(encoders, "has_transformers", lambda: False)
    assert main(["bench", "encoders", "resnet50", "--batch", "2", "--rounds", "1", "--size", "32"]) == 0
    output = capsys.readouterr().out
    assert "pip install transformers" in output
    row = next(line.split("|") for line in output.splitlines() if line.startswith("| resnet50"))
    assert [row[k].strip() for k in (6, 8, 9, 10, 12)] == 5 * ["-"]
    assert float(row[7]) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vit-tyni"], "nearest: vit-tiny"),
        (["vit-tiny", "--size", "50"], "--size must be a multiple of the patch"),
        (["vit-tiny", "--batch", "0"], "--batch must be at least 1, got 0"),
    ],
)
def test_encoders_refuses_what_it_cannot_measure(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "encoders", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_lidar_is_timed_beside_shapely_mujoco_and_open3d(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mujoco", reason="needs MuJoCo; pip install 'robovision[sim]'")
    pytest.importorskip("shapely")
    from robovision.bench import detectors, lidar
    from tests.lidar_scenes import CENTER, SECOND

    for name, value in {"SENSOR": "mini-16", "BACKBONE": SECOND, "DETECTORS": {"tiny": CENTER}}.items():
        monkeypatch.setattr(detectors, name, value)
    for name, value in {"FRAMES": (4, 8), "BOXES": 60, "SAMPLE": 3, "SWEEPS": 1, "SENSOR": "mini-16"}.items():
        monkeypatch.setattr(lidar, name, value)
    assert main(["bench", "lidar", "--rounds", "1"]) == 0
    output = capsys.readouterr().out
    rows = {cells[1].strip(): cells[2:-1] for line in output.splitlines() if len(cells := line.split("|")) > 3}
    assert int(rows["8"][0]) == 2 * int(rows["4"][0]) > 0
    assert float(rows["shapely, pair by pair"][0]) > 0
    assert rows["MuJoCo, mj_multiRay"][1].strip() == "1.0x"
    assert float(rows["mini-16"][0]) > 0
    agreement = float(output.split("robovision, any rays: ")[1].split("%")[0])
    assert agreement > 99
    assert float(rows["tiny"][2]) > 0 and float(rows["voxels"][0]) > 0
    difference = float(output.split("greatest difference ")[1].split(";")[0])
    assert difference < 1e-6


def test_lidar_needs_folders_with_real_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "lidar", "--data", str(tmp_path)]) == 2
    assert "has no folder label_2" in capsys.readouterr().err
    assert main(["bench", "lidar", "--rounds", "0"]) == 2


def test_envs_refuses_what_it_cannot_compare(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "envs", "dmc/walker-wlk"]) == 2
    assert main(["bench", "envs", "mjcf/arm.xml"]) == 2
    assert main(["bench", "envs", "--rounds", "0"]) == 2
    assert "dmc/walker-walk" in capsys.readouterr().err


def test_keypoints_are_measured_side_by_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("skimage", reason="needs scikit-image; pip install scikit-image")
    from robovision.bench import keypoints

    monkeypatch.setattr(keypoints, "HELD_OUT", ("camera.png",))
    monkeypatch.setattr(keypoints, "LARGE", (800, 600))
    arguments = ["bench", "keypoints", "sift", "orb", "--step", "90", "--versions", "1", "--rounds", "1"]
    out = tmp_path / "new" / "out"
    assert main([*arguments, "--out", str(out)]) == 0
    output = capsys.readouterr().out
    for head in (
        "rotation: 1 photographs of scikit-image, 4 versions",
        "perspective: 1",
        "light: 1",
        "time: 640 x 480",
        "memory: 800 x 600",
    ):
        assert head in output
    rows = [[cell.strip() for cell in line.split("|")] for line in output.splitlines() if line.startswith("| orb")]
    assert len(rows) == 5
    assert 50 < float(rows[0][2]) <= 100
    assert float(rows[3][3]) > 0
    assert (out / "keypoints.md").read_text() == output[:-1]
    with (out / "scikit-image-rotation.csv").open() as file:
        numbers = list(csv.DictReader(file))
    assert len(numbers) == 2 * 4
    mean = np.mean([float(row["repeatability@3"]) for row in numbers if row["extractor"] == "orb"])
    assert f"{100 * mean:.1f}" == rows[0][2]
    assert float(numbers[0]["corners_px verify 1 px"]) < 1
    for change in ("rotation", "perspective", "light"):
        assert (out / f"scikit-image-{change}.png").stat().st_size > 5000
    (tmp_path / "empty").mkdir()
    assert main([*arguments, "--data", str(tmp_path / "empty")]) == 2
    assert main(["bench", "keypoints", "--rounds", "0"]) == 2
