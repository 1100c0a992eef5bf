"""lidar-small-sim, the detector that the package carries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robovision import weights
from robovision.cli import main
from robovision.lidar.box_files import read_boxes
from robovision.lidar.boxes import bev_iou, to_tensor
from robovision.lidar.clouds import read_cloud
from robovision.lidar.detectors.detecting import EMBEDDED, choose_detector
from robovision.lidar.detectors.detector import detect
from robovision.lidar.simulate import write_sequence
from robovision.lidar.simulate_options import SimulateOptions
from robovision.types import PointCloud


def test_it_is_small_and_has_a_card() -> None:
    path = weights.find(EMBEDDED)
    assert path.stat().st_size <= 8_000_000
    card = path.with_suffix(".md").read_text()
    assert weights.EMBEDDED[EMBEDDED].sha256 in card and "robovision lidar train" in card


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of a street that it was not taught."""
    out = tmp_path_factory.mktemp("street")
    write_sequence(SimulateOptions(scenes=1, frames=1, seed=4242), out, 0)
    return out / "0000"


def test_it_finds_cars_offline_by_default(street: Path, tmp_path: Path) -> None:
    scan = street / "velodyne" / "000000.bin"
    assert main(["lidar", "detect", str(scan), "--no-pictures", "--out", str(tmp_path)]) == 0
    found = read_boxes(tmp_path / "boxes" / "000000.npz")
    truth = read_boxes(street / "boxes" / "000000.npz")
    near = np.linalg.norm(truth.centers[:, :2], axis=1) < 30
    cars = to_tensor(truth)[near & (truth.labels == truth.classes.index("Car"))]
    mine = to_tensor(found)[found.labels == found.classes.index("Car")]
    assert len(cars) >= 4 and len(mine) >= 1
    assert (bev_iou(cars, mine).amax(dim=1) > 0.3).double().mean() >= 0.4


def test_the_height_of_the_sensor_does_not_matter(street: Path) -> None:
    cloud = read_cloud(street / "velodyne" / "000000.bin")
    detector = choose_detector(None, None)
    low = detect(detector, cloud, -1.73)
    raised = PointCloud(cloud.xyz + np.array([0, 0, 1.5]), cloud.intensity)
    high = detect(detector, raised, -0.23)
    assert len(low) == len(high) > 0
    assert np.allclose(low.centers + np.array([0, 0, 1.5]), high.centers, atol=0.01)
