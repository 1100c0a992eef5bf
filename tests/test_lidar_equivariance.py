from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from robovision.cli import main
from robovision.lidar.clouds import write_cloud
from robovision.lidar.detectors import equivariance
from robovision.lidar.detectors.center_head import CenterHead
from robovision.lidar.detectors.detector import Detector
from robovision.lidar.detectors.equivariance import measure
from robovision.lidar.detectors.files import save_detector
from robovision.lidar.detectors.ground import act_on_map
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


def test_report_of_two_detectors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(tmp_path / name) for name in ("a.safetensors", "b.safetensors")]
    for path in paths:
        save_detector(Path(path), eager())
    cloud = tmp_path / "c.bin"
    points = scene().points.numpy()
    write_cloud(cloud, PointCloud(points[:, :3], np.clip(points[:, 3], 0, 1)))
    out = tmp_path / "out"
    assert main(["symmetry", "lidar", *paths, "--on", str(cloud), "--out", str(out)]) == 0
    lines = (out / "equivariance.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 13 and lines[1].startswith(f"{paths[0]},shift,0.1,")
    assert (out / "equivariance.png").stat().st_size > 5000
    assert "turn 90 degrees" in capsys.readouterr().out
    assert main(["symmetry", "lidar", *paths]) == 2
    assert "--on" in capsys.readouterr().err
