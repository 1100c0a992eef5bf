from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from robovision.lidar.detectors.config import DetectorConfig, Grid
from robovision.lidar.detectors.detector import Detector
from robovision.lidar.detectors.pillars import PillarEncoder, PillarLayer, describe
from robovision.lidar.voxels import voxelise
from tests.lidar_scenes import CENTER, SECOND, scene


@pytest.mark.parametrize("padding", [0, 4])
def test_pillars_by_loop(padding: int) -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(CENTER, padding=padding, pillars=(8, 6))
    encoder = PillarEncoder(config).eval()
    for layer in encoder.layers:
        assert isinstance(layer, PillarLayer) and layer.norm.running_mean is not None
        nn.init.normal_(layer.norm.bias)
        nn.init.normal_(layer.norm.running_mean)
    points = scene().points[::3]
    sample = torch.arange(len(points)) % 2
    with torch.no_grad():
        result = encoder(points, sample, 3)
    voxels = voxelise(points, sample, config.grid)
    values = describe(voxels, config.grid)
    wanted, most = torch.zeros_like(result), result
    for k, (b, _, y, x) in enumerate(voxels.coordinates.tolist()):
        mine = values[voxels.index == k]
        if len(mine) < padding:
            mine = torch.cat([mine, mine.new_zeros(1, 10)])
        for layer in encoder.layers:
            assert isinstance(layer, PillarLayer)
            own = layer.norm(layer.linear(mine)).relu()
            most = own.amax(dim=0)
            mine = torch.cat([own, most.expand_as(own)], dim=1)
        wanted[b, :, y, x] = most
    assert torch.allclose(result, wanted, atol=1e-5) and result.shape == (3, 6, 64, 64)
    assert result[2].abs().max() == 0


@pytest.mark.parametrize("config", [CENTER, SECOND])
def test_without_places_the_same_scene_elsewhere_gives_the_same_features(config: DetectorConfig) -> None:
    torch.manual_seed(0)
    placeless = dataclasses.replace(config, absolute=False)
    points = scene().points[::3].double()
    sample = torch.zeros(len(points), dtype=torch.int64)
    moved = points + points.new_tensor([64 * config.grid.voxel[0], 0.0, 0.0, 0.0])
    for known in (config, placeless):
        elsewhere = dataclasses.replace(known, grid=shifted(known.grid, 64 * known.grid.voxel[0]))
        here, there = (Detector(each).double().eval() for each in (known, elsewhere))
        there.load_state_dict(here.state_dict())
        with torch.no_grad():
            one, other = here.features(points, sample, 1)[0], there.features(moved, sample, 1)[0]
        same = bool((one - other).norm() < 1e-9 * one.norm())
        assert same is (not known.absolute)


def shifted(grid: Grid, along: float) -> Grid:
    """A grid farther along x."""
    low, high = ((x + along, y, z) for x, y, z in (grid.low, grid.high))
    return Grid(low, high, grid.voxel)
