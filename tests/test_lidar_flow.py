"""Scene flow estimated from two sweeps, against the exact truth."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from robovision.cli import main
from robovision.errors import UsageError
from robovision.lidar.clouds import read_arrays, read_cloud, write_arrays
from robovision.lidar.flow.cache import FlowCache
from robovision.lidar.flow.distance import CELLS, REACH, DistanceField, squared_distances
from robovision.lidar.flow.ego import act, ego_motion, level
from robovision.lidar.flow.estimate import FlowSettings, estimate_flow
from robovision.lidar.flow_metric import FlowMetric, read_flow_truth
from robovision.lidar.simulate import write_sequence
from robovision.lidar.simulate_options import SimulateOptions
from robovision.types import PointCloud

QUICK = FlowSettings(reach=20.0, points=1500, steps=120)


def walls(seed: int) -> Tensor:
    """Points on ground, a corner of two walls and posts; others with each seed."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(5000, 2, generator=generator)
    ground = torch.cat([share[:2000] * 40 - 20, torch.full((2000, 1), -1.7)], dim=1)
    wall = torch.stack([torch.full((1000,), 9.0), share[2000:3000, 0] * 24 - 12, share[2000:3000, 1] * 3 - 1.7], dim=1)
    other = torch.stack(
        [share[3000:4000, 0] * 24 - 12, torch.full((1000,), -8.0), share[3000:4000, 1] * 3 - 1.7], dim=1
    )
    posts = torch.tensor([[4.0, 5.0], [-6.0, 3.0], [2.0, -4.0], [-9.0, 7.0]]).repeat_interleave(250, 0)
    return torch.cat([ground, wall, other, torch.cat([posts, share[4000:5000, :1] * 3 - 1.7], dim=1)])


def car(seed: int, x: float, y: float) -> Tensor:
    """Points on the sides of a box."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.rand(800, 3, generator=generator) - 0.5
    side = torch.arange(800) % 2
    place[torch.arange(800), side] = place[torch.arange(800), side].sign() * 0.5
    return place * torch.tensor([4.0, 1.8, 1.4]) + torch.tensor([x, y, -0.8])


def motion(yaw: float, x: float, y: float) -> Tensor:
    result = torch.eye(4, dtype=torch.float64)
    result[:2, :2] = torch.tensor([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
    result[:2, 3] = torch.tensor([x, y])
    return result


def test_distances_are_those_of_a_search_in_all_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    held = torch.rand(5, 13, 11, generator=generator) < 0.02
    found = squared_distances(torch.where(held, 0.0, 1e3), 6)
    cells = torch.stack(torch.meshgrid(*map(torch.arange, held.shape), indexing="ij"), dim=-1).view(-1, 3).float()
    nearest = torch.cdist(cells, held.nonzero().float()).square().amin(dim=1).view(held.shape)
    close = nearest <= 36
    assert close.sum() > 300 and torch.allclose(found[close], nearest[close], atol=1e-3)


def test_a_field_tells_distances_in_metres() -> None:
    field = DistanceField(torch.tensor([[0.01, 0.01, 0.01], [3.0, -2.0, 0.5]]), 10.0)
    voxel = 10 / CELLS
    places = torch.tensor([[0.3, 0.0, 0.0], [3.0, -2.2, 0.5], [9.0, 9.0, 0.0]])
    assert field(places).tolist() == pytest.approx([0.3, 0.2, REACH * voxel], abs=1.5 * voxel)
    assert (
        DistanceField(torch.tensor([[1.0, 10.0, 0.0], [-10.0, 2.0, 0.0]]), 10.0)(torch.tensor([[-10.0, 2.0, 0.0]]))
        < voxel
    )
    assert field.covers(torch.tensor([[9.9, -9.9, 0.2], [10.1, 0.0, 0.2]])).tolist() == [True, False]


def test_the_ground_is_found_and_levelled() -> None:
    tilt = torch.eye(4, dtype=torch.float64)
    tilt[0, 0] = tilt[2, 2] = math.cos(0.05)
    tilt[0, 2], tilt[2, 0] = math.sin(0.05), -math.sin(0.05)
    points = act(tilt, walls(0))
    to_level, ground = level(points)
    assert ground[:2000].all() and ground[2000:].float().mean() < 0.15
    assert float(act(to_level, points)[:2000, 2].abs().max()) < 0.02
    planar = torch.cat([torch.rand(200, 2), torch.zeros(200, 1)], dim=1)
    to_level, ground = level(planar)
    assert torch.equal(to_level, torch.eye(4, dtype=torch.float64)) and not ground.any()


def test_the_own_motion_is_found() -> None:
    truth = motion(0.04, -0.9, 0.2)
    before, now = walls(0)[2000:], act(truth, walls(1))[2000:]
    found = ego_motion(before, DistanceField(now, 20.0))
    error = (act(found, before) - act(truth, before)).norm(dim=1)
    assert float(error.mean()) < 0.05 < float((act(truth, before) - before).norm(dim=1).mean())


def test_what_moves_by_itself_is_found_and_what_stands_stays() -> None:
    truth = motion(0.02, -0.8, 0.0)
    before = torch.cat([walls(0), car(2, 5.0, 0.0)])
    now = act(truth, torch.cat([walls(1), car(3, 6.0, 0.3)]))
    flow = torch.from_numpy(estimate_flow(before.numpy(), now.numpy(), QUICK))
    mine = torch.arange(len(before)) >= 5000
    expected = act(truth, before + torch.tensor([1.0, 0.3, 0.0]) * mine[:, None]) - before
    error = (flow - expected).norm(dim=1)
    assert float(error[mine].mean()) < 0.35  # with the sensor's motion alone it would be 1.04
    assert float(error[~mine].mean()) < 0.08
    again = torch.from_numpy(estimate_flow(before.numpy(), now.numpy(), QUICK))
    assert torch.equal(flow, again)
    with pytest.raises(ValueError, match="5800 and 0 points"):
        estimate_flow(before.numpy(), now.numpy()[:0])


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sequence of two sweeps."""
    out = tmp_path_factory.mktemp("streets")
    write_sequence(SimulateOptions(scenes=1, frames=2, sensor="vlp-16", seed=3), out, 0)
    return out / "0000"


def test_simulated_sweeps_flow_nearly_as_the_truth_says(street: Path) -> None:
    before, now = (read_cloud(street / "velodyne" / f"00000{k}.bin") for k in (0, 1))
    truth = read_flow_truth(street / "flow" / "000000.npz")
    errors = []
    for flow in (
        estimate_flow(before.xyz, now.xyz, FlowSettings(points=2000, steps=60)),
        np.zeros((len(before), 3), np.float32),
    ):
        metric = FlowMetric()
        metric.add("0", truth, flow)
        errors.append({m.name: m.value for m in metric.result().metrics})
    assert errors[0]["EPE"] < 0.5 * errors[1]["EPE"]


def test_flow_is_kept_under_what_the_sweeps_hold(street: Path, tmp_path: Path) -> None:
    before, now = (read_cloud(street / "velodyne" / f"00000{k}.bin") for k in (0, 1))
    quick = FlowSettings(points=100, steps=2)
    cache = FlowCache(tmp_path / "flow", quick)
    first = cache(before, now)
    assert cache.estimated == 1 and np.array_equal(cache(before, now), first) and cache.estimated == 1
    other = PointCloud(before.xyz[:-1])
    paths = {cache.path(before, now), cache.path(now, before), cache.path(other, now)}
    paths.add(FlowCache(tmp_path, FlowSettings(points=100, steps=3)).path(before, now))
    assert len({path.name for path in paths}) == 4
    write_arrays(cache.path(other, now), {"flow": read_arrays(cache.path(before, now))["flow"]})
    with pytest.raises(UsageError, match="is the flow of another sweep"):
        cache(other, now)


def test_pretraining_estimates_flow_where_there_is_no_truth(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBOVISION_CACHE", str(tmp_path / "cache"))
    for path in (street / "flow").iterdir():
        path.unlink()
    arguments = ["pretrain", "lidar", "--data", str(street), "--model", "tiny", "--objectives", "flow", "--steps", "1"]
    arguments += ["--batch", "1", "--threads", "1", "--width", "8", "--flow", "estimated"]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    assert len(list((tmp_path / "cache" / "flow").glob("*.npz"))) == 1
    assert (tmp_path / "run" / "backbone.safetensors").is_file()
