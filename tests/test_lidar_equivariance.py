from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from robovision.cli import main
from robovision.errors import UsageError
from robovision.lidar.clouds import write_arrays, write_cloud
from robovision.lidar.detectors import equivariance
from robovision.lidar.detectors.center_head import CenterHead
from robovision.lidar.detectors.detector import Detector
from robovision.lidar.detectors.equivariance import fit_normalisations, measure, occupied
from robovision.lidar.detectors.files import save_detector
from robovision.lidar.detectors.flow_equivariance import find_pairs, measure_flow
from robovision.lidar.detectors.ground import act_on_map
from robovision.lidar.pretraining.files import FILE, save_backbone
from robovision.lidar.pretraining.network import Trunk
from robovision.lidar.transforms import Similarity
from robovision.types import PointCloud
from tests.lidar_scenes import CENTER, scene


def eager() -> Detector:
    """A detector that finds something everywhere."""
    torch.manual_seed(0)
    detector = Detector(CENTER).eval()
    assert isinstance(detector.head, CenterHead)
    last = detector.head.parts["hm"][1]  # type: ignore[index]
    assert isinstance(last, nn.Conv2d) and last.bias is not None
    nn.init.constant_(last.bias, 1.0)
    return detector


def test_maps_move_as_the_ground_does() -> None:
    features = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    same, known = act_on_map(Similarity(), features, CENTER.grid)
    assert torch.allclose(same, features, atol=1e-5) and known.all()
    cell = 0.4  # metres; x is the last axis
    moved, known = act_on_map(Similarity(translation=(cell, -2 * cell, 0)), features, CENTER.grid)
    assert torch.allclose(moved[..., :-2, 1:], features[..., 2:, :-1], atol=1e-4)
    assert known[:-2, 1:].all() and not known[:, 0].any() and not known[-1].any()
    flipped, known = act_on_map(Similarity(mirror=True), features, CENTER.grid)
    assert torch.allclose(flipped, features.flip(2), atol=1e-4) and known.all()


def test_nothing_moved_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    still = {"shift": ("m", (0.0, 6.0), lambda m: Similarity(translation=(m, 0.0, 0.0)))}
    monkeypatch.setattr(equivariance, "KINDS", still)
    first, second = measure(eager(), [scene().points], 0.3)
    assert first.features < 1e-5 and first.lost == 0 and first.offset < 1e-3 and first.boxes > 5
    assert second.features > 0.05
    (nothing, _) = measure(eager(), [scene().points], 1.0)
    assert nothing.boxes == 0 and math.isnan(nothing.lost) and math.isnan(nothing.offset)


def test_features_that_are_the_same_everywhere_get_no_good_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equivariance, "KINDS", {"flip": ("", (1.0,), lambda _: Similarity(mirror=True))})
    detector = eager()
    points = scene().points
    fit_normalisations(detector, [points])
    (varied,) = measure(detector, [points], 1.0)
    assert 0.05 < varied.features < 3
    for part in detector.backbone.modules():
        if isinstance(part, nn.ConvTranspose2d):
            nn.init.zeros_(part.weight)
    (same,) = measure(detector, [points], 1.0)
    assert math.isnan(same.features)


def test_features_are_compared_where_points_are() -> None:
    xyz = torch.tensor([[0.1, 0.1, 0.0], [6.5, -3.0, 0.0], [0.1, 0.1, 99.0], [-99.0, 0.0, 0.0]])
    low, high = CENTER.grid.low, CENTER.grid.high
    cells = occupied(xyz, CENTER, (16, 32))
    expected = {
        (int((y - low[1]) / (high[1] - low[1]) * 16), int((x - low[0]) / (high[0] - low[0]) * 32))
        for x, y in ((0.1, 0.1), (6.5, -3.0))
    }
    assert {(row, column) for row, column in cells.nonzero().tolist()} == expected


def test_normalisations_are_fitted_to_sweeps() -> None:
    detector = eager()
    points = scene().points
    fit_normalisations(detector, [points])
    norm = detector.backbone.deblocks[0][1]  # type: ignore[index]
    seen: list[torch.Tensor] = []
    norm.register_forward_hook(lambda _, inputs, output: seen.append(output))
    measure(detector, [points], 1.0)
    assert not detector.training and abs(float(seen[0].mean())) < 1e-3 and abs(float(seen[0].std()) - 1) < 0.02


def test_features_ride_on_the_flow() -> None:
    detector, before = eager(), scene().points
    fit_normalisations(detector, [before])
    still, moved = torch.zeros(len(before), 3), torch.tensor([0.8, -1.6, 0.0]).expand(len(before), 3)
    now = before.clone()
    now[:, :3] += moved
    same = measure_flow(detector, [(before, before, still)])
    assert same.kind == "flow" and same.boxes == 0 and math.isnan(same.lost)
    carried = measure_flow(detector, [(before, now, moved)])
    left = measure_flow(detector, [(before, now, still)])
    assert same.features < carried.features < 0.6 * left.features


def test_pairs_are_sweeps_in_a_row_with_their_flow(tmp_path: Path) -> None:
    for folder in ("velodyne", "flow"):
        (tmp_path / folder).mkdir()
    paths = [tmp_path / "velodyne" / f"00000{k}.bin" for k in range(3)]
    for k, path in enumerate(paths):
        write_cloud(path, PointCloud(np.full((k + 1, 3), float(k)), np.zeros(k + 1)))
    for k in (0, 2):  # the last one flows to a sweep that is not there
        write_arrays(tmp_path / "flow" / f"00000{k}.npz", {"flow": np.full((k + 1, 3), 0.5)})
    (pair,) = find_pairs(paths)
    assert len(pair.before) == 1 and len(pair.now) == 2 and pair.flow.tolist() == [[0.5, 0.5, 0.5]]
    assert find_pairs(paths[1:]) == [] and len(find_pairs(paths[:1])) == 1
    write_arrays(tmp_path / "flow" / "000001.npz", {"flow": np.zeros((7, 3))})
    with pytest.raises(UsageError, match="flow of another sweep: of 7 points, not the 2"):
        find_pairs(paths)


def cloud_file(folder: Path) -> Path:
    path, points = folder / "c.bin", scene().points.numpy()
    write_cloud(path, PointCloud(points[:, :3], np.clip(points[:, 3], 0, 1)))
    return path


def test_report_of_two_detectors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(tmp_path / name) for name in ("a.safetensors", "b.safetensors")]
    for path in paths:
        save_detector(Path(path), eager())
    cloud, out = cloud_file(tmp_path), tmp_path / "out"
    assert main(["symmetry", "lidar", *paths, "--on", str(cloud), "--out", str(out)]) == 0
    lines = (out / "equivariance.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 13 and lines[1].startswith("a,shift,0.1,")
    assert (out / "equivariance.png").stat().st_size > 5000
    assert len([line for line in capsys.readouterr().out.splitlines() if line.startswith("turn 90 degrees")]) == 2
    assert main(["symmetry", "lidar", *paths]) == 2
    assert "--on" in capsys.readouterr().err
    far = tmp_path / "far.bin"
    write_cloud(far, PointCloud(np.full((5, 3), 900.0), np.zeros(5)))
    assert main(["symmetry", "lidar", *paths, "--on", str(far), "--out", str(out)]) == 2
    assert "0 of 5 points of" in capsys.readouterr().err


def test_report_of_a_backbone_beside_random_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "pre"
    run.mkdir()
    torch.manual_seed(5)
    save_backbone(run / FILE, Trunk(CENTER))
    out, street = tmp_path / "out", tmp_path / "street"
    for folder in ("velodyne", "flow"):
        (street / folder).mkdir(parents=True)
    first = cloud_file(street / "velodyne")
    first.with_name("d.bin").write_bytes(first.read_bytes())
    write_arrays(street / "flow" / "c.npz", {"flow": np.full((len(scene().points), 3), 0.1)})
    arguments = ["symmetry", "lidar", "--pretrained", str(run), "--on", str(street), "--out", str(out)]
    assert main(arguments) == 0
    lines = (out / "equivariance.csv").read_text().splitlines()[1:]
    assert {line.split(",")[0] for line in lines} == {"pre", "random weights"}
    assert all(line.split(",")[4] == "0" for line in lines)
    errors = [float(line.split(",")[3]) for line in lines if line.split(",")[1] == "flow"]
    assert len(errors) == 2 and min(errors) > 0
    printed = capsys.readouterr().out
    assert "boxes" not in printed and printed.count("\nflow  ") == 1
    (run / FILE).unlink()
    assert main(arguments) == 2
    assert "has not ended" in capsys.readouterr().err
