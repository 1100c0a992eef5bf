"""The streets of the simulated LiDAR: their roads, their ground, and what is true of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from robovision.lidar.boxes import points_in_boxes, to_tensor
from robovision.lidar.height_fields import HeightField
from robovision.lidar.mujoco_rays import Open3DScene, mujoco_cast
from robovision.lidar.primitives import BOX, cast
from robovision.lidar.roads import Road, clear_of, make_ground, make_roads
from robovision.lidar.sensors import spinning
from robovision.lidar.simulate import exact_flow
from robovision.lidar.streets import HEIGHT, Actor, Shape, Street
from robovision.lidar.sweep import Sweep, take_sweep
from robovision.lidar.traffic import make_street

EXACT = spinning(np.linspace(2, -24, 48), 900, noise=0.0, loss=0.0, dimmest=1e-9)


@pytest.fixture(scope="module")
def street() -> Street:
    return make_street(np.random.default_rng(2))


@pytest.fixture(scope="module")
def sweeps(street: Street) -> tuple[Sweep, Sweep]:
    """Two sweeps without noise, a tenth of a second apart."""
    return sweep_of(street, 0.0), sweep_of(street, 0.1)


def sweep_of(street: Street, start: float) -> Sweep:
    return take_sweep(EXACT, street.shapes, street.ego, start, street.albedo, np.random.default_rng(0))


def in_world(street: Street, xyz: np.ndarray, time: float) -> np.ndarray:
    pose = street.ego(np.array([time]))[0]
    world: np.ndarray = xyz.astype(np.float64) @ pose[:3, :3].T + pose[:3, 3]
    return world


@pytest.mark.parametrize("bend", [0.0, 0.012, -0.012])
def test_what_is_placed_on_a_road_is_found_there(bend: float) -> None:
    road = Road((3.0, -2.0), 0.7, bend, (-70, 70))
    for far, left in ((0, 0), (60, 4), (-50, -8), (-70, 1.75)):
        x, y, heading = road.at(far, left)
        np.testing.assert_allclose(np.array(road.find(np.array([x, y]))), [far, left], atol=1e-9)
        assert heading == pytest.approx(0.7 + bend * far)
    # Whoever drives in a lane stays in it.
    for speed, aside in ((12.0, -1.75), (-9.0, 1.75)):
        x, y, heading = road.at(5, aside)
        yaw = heading + (speed < 0) * np.pi
        car = Street((Actor((), (x, y), yaw, speed=abs(speed), turn=road.turn(speed, aside)),), 0, 0)
        along, there = road.find(car.poses(2.0)[0, :2, 3])
        assert there == pytest.approx(aside, abs=1e-9)
        assert along == pytest.approx(5 + 2 * speed / (1 - bend * aside), abs=1e-6)


def test_streets_bend_cross_slope_and_hold_vehicles_that_face_every_way() -> None:
    roads = [make_roads(np.random.default_rng(seed), 80.0) for seed in range(40)]
    assert 10 < sum(each[0].bend != 0 for each in roads) < 38
    assert 10 < sum(len(each) == 2 for each in roads) < 38
    turned, heights = [], []
    for seed in range(8):
        street = make_street(np.random.default_rng(seed))
        boxes = street.boxes(0.0)
        vehicles = boxes.yaw[(boxes.labels < 3) & (np.linalg.norm(boxes.centers, axis=1) < 60)]
        turned += (np.degrees(np.abs((vehicles + np.pi / 2) % np.pi - np.pi / 2))).tolist()
        bottoms = boxes.centers[:, 2] - boxes.sizes[:, 2] / 2 + HEIGHT
        heights.append(np.ptp(bottoms))
    # Off the x axis of the sensor, and across it.
    assert np.mean(np.array(turned) > 15) > 0.2
    assert np.mean(np.array(turned) > 45) > 0.08
    assert np.median(heights) > 0.7


def test_the_ground_slopes_as_roads_do() -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        roads = make_roads(rng, 80.0)
        ground = make_ground(rng, roads)
        along = np.linspace(-80, 80, 400)
        places = np.array([roads[0].at(s, 0)[:2] for s in along])
        heights = ground.at(*torch.from_numpy(places.T.copy())).numpy()
        slopes = np.diff(heights) / np.diff(along)
        assert 0.01 < np.abs(slopes).max() < 0.12
        assert np.ptp(slopes) > 0.01
        assert float(ground.at(torch.zeros(1), torch.zeros(1))) == 0
        assert not clear_of(roads, places, 5.0).any()


def test_a_street_is_the_same_in_mujoco_and_open3d(street: Street) -> None:
    mujoco: Any = pytest.importorskip("mujoco", reason="needs MuJoCo; pip install 'robovision[sim]'")
    model = mujoco.MjModel.from_xml_string(street.mjcf())
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    directions = EXACT.directions()[::7]
    origin = street.ego(np.zeros(1))[0, :3, 3]
    theirs, geoms = mujoco_cast(model, data, origin, directions)
    start = torch.from_numpy(origin.astype(np.float32)).expand(len(directions), 3)
    ours, index = cast(street.shapes(0.0), start, torch.from_numpy(directions))
    close = np.isclose(ours.numpy(), theirs, rtol=1e-3, atol=1e-2) & (geoms == index.numpy())
    # Our ground goes on where MuJoCo's ends, and a ray that grazes it may meet the next wave.
    near = theirs < 60
    assert near.mean() > 0.5
    assert close[near].mean() > 0.995
    fans = sweep_of(Street(street.actors, 0.0, 0.0, street.ground), 0.0)
    assert len(fans.cloud) > 0.6 * len(EXACT)
    pytest.importorskip("open3d", reason="needs Open3D; pip install 'robovision[lidar]'")
    found, _ = Open3DScene(model, data).cast(np.tile(origin, (len(directions), 1)), directions)
    assert np.isclose(found, theirs, rtol=5e-3, atol=2e-2)[near].mean() > 0.99


def test_points_on_the_ground_and_on_what_stands_lie_where_they_must(
    street: Street, sweeps: tuple[Sweep, Sweep]
) -> None:
    sweep = sweeps[0]
    actor = street.owner[sweep.shape]
    world = in_world(street, sweep.cloud.xyz, 0.0)
    ground = (actor == 0) & (sweep.ideal < 40)
    assert ground.sum() > 5000
    above = world[ground, 2] - street.heights(world[ground, :2])
    assert np.abs(above).max() < 0.02
    assert np.ptp(world[ground, 2]) > 0.3
    users = [k for k, a in enumerate(street.actors) if a.name]
    still = np.flatnonzero([street.actors[k].speed == 0 for k in users])
    boxes = to_tensor(street.boxes(0.0))[still] + torch.tensor([0, 0, 0, 0.02, 0.02, 0.02, 0])
    inside = points_in_boxes(torch.from_numpy(sweep.cloud.xyz.copy()).double(), boxes).numpy()
    seen = 0
    for row, k in enumerate(np.array(users)[still]):
        assert inside[row, actor == k].all()
        seen += (actor == k).sum()
    assert seen > 300


def test_flow_carries_points_onto_the_next_sweep(street: Street, sweeps: tuple[Sweep, Sweep]) -> None:
    now, later = sweeps
    flow = exact_flow(street, now, 0.0, 0.1)
    moved = now.cloud.xyz + flow.flow
    actor, other = street.owner[now.shape], street.owner[later.shape]
    world = in_world(street, moved, 0.1)
    ground = (actor == 0) & (now.ideal < 40)
    assert np.abs(world[ground, 2] - street.heights(world[ground, :2])).max() < 0.03
    moving = [k for k in np.unique(actor) if street.moving[k] and street.actors[k].speed > 2]
    errors: list[float] = []
    without: list[float] = []
    for k in moving:
        target = torch.from_numpy(later.cloud.xyz[other == k].copy())
        if (actor == k).sum() < 20 or len(target) < 20:
            continue
        for points, found in ((moved, errors), (now.cloud.xyz, without)):
            found.append(float(torch.cdist(torch.from_numpy(points[actor == k].copy()), target).amin(dim=1).median()))
    assert len(errors) >= 2
    # As close as the points of a sweep lie, and the half of an eighth of a turn within which the world stands still.
    assert np.median(errors) < 0.15 < np.median(without)
    for k in moving:
        if not street.actors[k].name:
            continue
        # In its box, a tenth of a second after each point was measured.
        assert now.cloud.time is not None
        times = now.cloud.time[actor == k].astype(np.float64) + 0.1
        pose = street.motion(np.full(len(times), k), times)
        local = np.einsum("nji,nj->ni", pose[:, :3, :3], world[actor == k] - pose[:, :3, 3])
        # The world stands still for an eighth of a sweep.
        room = np.array([street.actors[k].speed / 80, 0, 0]) + 0.02
        half = np.array(street.actors[k].size) / 2
        assert (np.abs(local - [0, 0, half[2]]) <= half + room).all()


def test_the_sensor_and_all_others_follow_the_ground_upright() -> None:
    line = torch.linspace(-20, 20, 41)
    ramp = HeightField((0.05 * line).expand(41, 41).contiguous(), (20.0, 20.0))
    car = Actor((Shape(BOX, (0, 0, 1), (2, 1, 1), 0.5),), (8, 3), 0.0, "Car", (4, 2, 2), speed=10.0)
    kerb = Actor((Shape(BOX, (0, 0, 0), (2, 2, 0.1), 0.5),), (4, 0), 0.0, stance="flush")
    street = Street((car, kerb), 4.0, 0.0, ramp)
    np.testing.assert_allclose(street.ego(np.array([0.0, 1.0]))[:, 2, 3], [HEIGHT, HEIGHT + 0.2], atol=1e-6)
    np.testing.assert_allclose([street.poses(t)[0, 2, 3] for t in (0.0, 0.5)], [0.4, 0.65], atol=1e-6)
    assert street.poses(0.5)[0, 2, 2] == 1
    np.testing.assert_allclose(street.poses(0.0)[1, :3, 2], np.array([-0.05, 0, 1]) / np.hypot(1, 0.05), atol=1e-6)
    np.testing.assert_allclose(street.boxes(1.0).centers[0], [14, 4.75, 1 + 0.9 - 0.2 - HEIGHT], atol=1e-5)


def test_the_same_seed_makes_the_same_street() -> None:
    first, again, other = (make_street(np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert first.actors == again.actors
    assert (first.speed, first.turn) == (again.speed, again.turn)
    assert first.ground is not None and again.ground is not None
    assert torch.equal(first.ground.heights, again.ground.heights)
    assert first.actors != other.actors
    assert dataclasses.replace(first, turn=0.0).actors is first.actors
