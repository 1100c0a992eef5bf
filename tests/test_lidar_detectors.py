from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robovision.errors import UsageError
from robovision.lidar.detectors.config import BevOptions, DetectorConfig, Grid
from robovision.lidar.detectors.detector import Detector, detect, ground_level
from robovision.lidar.detectors.files import load_detector, save_detector, start_from
from robovision.lidar.detectors.folding import fold
from robovision.lidar.detectors.models import make_config
from robovision.types import PointCloud
from tests.lidar_scenes import ANCHORED, AXES, CENTER, RESIDUAL, SECOND, TWO_STAGES, scene

each_kind = pytest.mark.parametrize(
    "config",
    [CENTER, AXES, ANCHORED, SECOND, RESIDUAL, TWO_STAGES],
    ids=["center", "axes", "anchors", "second", "residual", "two stages"],
)


@each_kind
def test_every_detector_has_gradients(config: DetectorConfig) -> None:
    torch.manual_seed(0)
    detector = Detector(config)
    one, two = scene(config.features, 0), scene(config.features, 1)
    points = torch.cat([one.points, two.points])
    sample = torch.arange(2).repeat_interleave(len(one.points))

    def total() -> Tensor:
        torch.manual_seed(0)
        losses = detector.losses(detector(points, sample, 2), [one.objects, two.objects])
        return torch.stack(list(losses.values())).sum()

    before = total()
    before.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        half = total()
    assert (half - before).abs() < 0.1 * before


@each_kind
def test_a_folded_detector_sees_the_same(config: DetectorConfig) -> None:
    torch.manual_seed(0)
    detector = Detector(config)
    with pytest.raises(ValueError, match="eval"):
        fold(detector)
    for layer in detector.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            assert layer.running_mean is not None and layer.running_var is not None
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
            nn.init.uniform_(layer.weight, 0.5, 2.0)
            nn.init.normal_(layer.bias, std=0.1)
    detector.eval()
    folded = fold(detector)
    kinds = {type(module) for module in folded.modules()}
    assert not kinds & {nn.BatchNorm1d, nn.BatchNorm2d, nn.ZeroPad2d} and detector.training == folded.training
    points = scene(config.features).points
    sample = torch.zeros(len(points), dtype=torch.int64)
    with torch.no_grad():
        before, after = detector(points, sample, 1), folded(points, sample, 1)
        for name, values in before.maps.items():
            assert values.std() > 0 and torch.allclose(values, after.maps[name], rtol=1e-4, atol=1e-4), name
        found, again = detector.decode(before)[0], folded.decode(after)[0]
    if config.roi is not None:
        assert len(found.boxes) and torch.allclose(found.scores[:5], again.scores[:5], atol=1e-3)


@pytest.mark.parametrize("config", [CENTER, AXES, ANCHORED], ids=["center", "axes", "anchors"])
def test_a_scene_is_learnt(config: DetectorConfig) -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(config, padding=0)
    detector = Detector(config)
    for layer in detector.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.momentum = 0.3
    optimizer = torch.optim.Adam(detector.parameters(), 5e-3)
    taught = scene()
    sample = torch.zeros(len(taught.points), dtype=torch.int64)
    for _ in range(60):
        optimizer.zero_grad()
        losses = detector.losses(detector(taught.points, sample, 1), [taught.objects])
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    detector.eval()
    cloud = PointCloud(taught.points[:, :3].numpy(), taught.points[:, 3].numpy())
    found = detect(detector, cloud)
    assert found.scores is not None
    sure = found.scores > 0.3
    assert sorted(found.labels[sure].tolist()) == [0, 1]
    for label in (0, 1):
        (k,) = np.flatnonzero(sure & (found.labels == label))
        assert np.abs(found.centers[k] - taught.objects.boxes[label, :3].numpy()).max() < 0.3
        assert math.cos(found.yaw[k] - float(taught.objects.boxes[label, 6])) > 0.9
    # The same scene, a metre higher, with the ground there.
    raised = PointCloud(cloud.xyz + np.array([0, 0, 1.0]), cloud.intensity)
    level = ground_level(raised)
    assert level == pytest.approx(-0.7, abs=0.05)
    higher = detect(detector, raised, config.ground + 1.0)
    assert np.allclose(higher.centers, found.centers + np.array([0, 0, 1]), atol=1e-3)


def test_empty_and_far_clouds_give_nothing() -> None:
    detector = Detector(CENTER).eval()
    for xyz in (np.zeros((0, 3)), np.full((5, 3), 500.0)):
        assert len(detect(detector, PointCloud(xyz, np.zeros(len(xyz))))) == 0
    assert ground_level(PointCloud(np.zeros((0, 3)))) == 0
    with pytest.raises(ValueError, match="intensity"):
        detect(detector, PointCloud(np.zeros((1, 3))))


def test_a_file_says_which_detector_it_is(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    detector = Detector(ANCHORED).eval()
    save_detector(path, detector)
    again = load_detector(path)
    assert again.config == ANCHORED and not again.training
    for name, value in detector.state_dict().items():
        assert torch.allclose(again.state_dict()[name].float(), value.float(), rtol=1e-3, atol=1e-4)
    other = Detector(ANCHORED)
    start_from(other, path)
    assert torch.equal(other.backbone.blocks[0][1].weight, again.backbone.blocks[0][1].weight)  # type: ignore[index]
    for changes, word in (
        ({"classes": ("Pedestrian", "Car")}, r"other classes:\n  classes: \('Car', 'Pedestrian'\), not"),
        ({"grid": Grid((0.0, -6.4, -3.0), (25.6, 6.4, 1.0), (0.4, 0.2, 4.0))}, r"other classes:\n  grid: "),
    ):
        with pytest.raises(UsageError, match=word):
            start_from(Detector(dataclasses.replace(ANCHORED, **changes)), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UsageError, match=r"d\.safetensors"):
        load_detector(path)
    with pytest.raises(UsageError, match="there is no"):
        load_detector(tmp_path / "none")
    with pytest.raises(UsageError, match="pointpillars"):
        make_config("pointpillar")
    with pytest.raises(UsageError, match="anchors"):
        dataclasses.replace(ANCHORED, classes=("Car",))
    with pytest.raises(UsageError, match="finite"):
        Grid((0, 0, 0), (0, 1, 1), (1, 1, 1))
    with pytest.raises(UsageError, match="as many"):
        BevOptions((1,), (1, 2), (8,), (1,), (8,))
