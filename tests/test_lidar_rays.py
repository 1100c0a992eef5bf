from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from robovision.errors import UsageError
from robovision.lidar.boxes import bev_iou, corners, iou_3d, nms_bev, points_in_boxes
from robovision.lidar.fans import Fans, cast_fans
from robovision.lidar.height_fields import HeightField
from robovision.lidar.mujoco_rays import Open3DScene, mujoco_cast, shapes_of
from robovision.lidar.primitives import FIELD, PLANE, Primitives, cast, normals

mujoco: Any = pytest.importorskip("mujoco", reason="needs MuJoCo; pip install 'robovision[sim]'")
KINDS = ("box", "sphere", "ellipsoid", "cylinder", "capsule")


def random_model(count: int, seed: int, kinds: tuple[str, ...] = KINDS) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    geoms = ["<geom type='plane' size='0 0 1'/>"]
    for n in range(count):
        size, at, turn = rng.uniform(0.2, 2, 3), rng.uniform([-30, -30, 0], [30, 30, 4]), rng.uniform(-180, 180, 3)
        text = [" ".join(map(str, v)) for v in (size, at, turn)]
        geoms.append(f"<geom type='{kinds[n % len(kinds)]}' size='{text[0]}' pos='{text[1]}' euler='{text[2]}'/>")
    model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{''.join(geoms)}</worldbody></mujoco>")
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def rays(count: int, seed: int) -> np.ndarray:
    directions = np.random.default_rng(seed).normal(size=(count, 3)) * [1, 1, 0.2]
    unit: np.ndarray = (directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32)
    return unit


@pytest.mark.parametrize("seed", range(4))
def test_the_torch_kernel_agrees_with_mujoco(seed: int) -> None:
    model, data = random_model(60, seed)
    origin, directions = np.array([0.5, 0.2, 1.7], np.float32), rays(20000, seed)
    theirs, geoms = mujoco_cast(model, data, origin, directions)
    ours, index = cast(shapes_of(model, data), torch.tensor(origin).expand(20000, 3), torch.tensor(directions))
    both = np.isfinite(theirs) & np.isfinite(ours.numpy())
    assert both.mean() > 0.5
    # Rays that graze an edge may differ: float32 against float64.
    same = (np.isfinite(theirs) == np.isfinite(ours.numpy())) & (geoms == index.numpy())
    assert same.mean() > 0.9995
    np.testing.assert_allclose(ours.numpy()[both & same], theirs[both & same], rtol=2e-4, atol=2e-3)


def tilted_fans(count: int, seed: int) -> Fans:
    rng = np.random.default_rng(seed)
    turns = np.linalg.qr(np.eye(3) + rng.normal(0, 0.15, (count, 3, 3)))[0]
    turns *= np.sign(np.linalg.diagonal(turns))[:, None]
    angle = np.linspace(np.pi, -np.pi, count)[:, None]
    ahead = np.cos(angle) * turns[:, :, 0] + np.sin(angle) * turns[:, :, 1]
    origin = np.array([0.5, 0.2, 1.7]) + np.linspace(0, 1, count)[:, None] * [1, 1, 0]
    parts = (origin, ahead, turns[:, :, 2], rng.uniform(-1.2, 1.2, 48))
    return Fans(*(torch.from_numpy(np.ascontiguousarray(part, np.float32)) for part in parts))


@pytest.mark.parametrize("seed", range(3))
def test_fans_hit_what_single_rays_hit(seed: int) -> None:
    worlds = [shapes_of(*random_model(60, n)) for n in (seed, seed + 10)]
    fans = tilted_fans(401, seed)
    hits = cast_fans(worlds, fans)
    distance, index, facing = hits.distance, hits.index, hits.facing()
    ways = fans.elevations.cos()[:, None] * fans.ahead[:, None] + fans.elevations.sin()[:, None] * fans.up[:, None]
    for shapes, part in zip(worlds, (slice(0, 201), slice(201, 401)), strict=True):
        rays, starts = ways[part].reshape(-1, 3), fans.origin[part].repeat_interleave(48, dim=0)
        expected, hit = cast(shapes, starts, rays)
        same = index[part].flatten() == hit
        assert same.float().mean() > 0.9995
        torch.testing.assert_close(distance[part].flatten()[same], expected[same], rtol=2e-4, atol=2e-3)
        seen = same & (hit >= 0)
        normal = normals(shapes, hit[seen], starts[seen] + expected[seen, None] * rays[seen])
        cosine = (normal * rays[seen]).sum(dim=1).abs()
        assert ((facing[part].flatten()[seen] - cosine).abs() < 0.01).float().mean() > 0.999
        assert (facing[part].flatten()[hit < 0] == 0).float().mean() > 0.999


def uneven(seed: int) -> Primitives:
    """Shapes on ground that waves, up to 8 degrees steep, in a frame that is turned and raised."""
    shapes = shapes_of(*random_model(30, seed))
    x, y = torch.meshgrid(torch.linspace(-60, 60, 241), torch.linspace(-60, 60, 241), indexing="xy")
    field = HeightField(0.4 * torch.sin(x / 5) + 0.5 * torch.cos(y / 9 + seed), (60.0, 60.0))
    center, rotation = shapes.center.clone(), shapes.rotation.clone()
    center[0] = torch.tensor([1.0, 2.0, -0.8])
    rotation[0] = torch.tensor([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    kind = torch.where(shapes.kind == PLANE, FIELD, shapes.kind)
    return Primitives(kind, center, rotation, shapes.size, field)


@pytest.mark.parametrize("seed", range(3))
def test_fans_meet_uneven_ground_where_single_rays_do(seed: int) -> None:
    world, fans = uneven(seed), tilted_fans(200, seed)
    upright = torch.zeros_like(fans.up)
    upright[:, 2] = 1
    flat = torch.nn.functional.normalize(fans.ahead * torch.tensor([1.0, 1, 0]), dim=1)
    # Upright, and leaning by up to 20 degrees, where the horizon is only nearly that of each ray.
    for each, exact in ((Fans(fans.origin, flat, upright, fans.elevations), 0.01), (fans, 1.0)):
        hits = cast_fans([world], each)
        way = each.elevations.cos()[:, None] * each.ahead[:, None] + each.elevations.sin()[:, None] * each.up[:, None]
        rays, starts = way.reshape(-1, 3), each.origin.repeat_interleave(48, dim=0)
        expected, hit = cast(world, starts, rays)
        distance = hits.distance.flatten()
        near = torch.minimum(expected, distance) < 60
        assert (hit == 0)[near].float().mean() > 0.5
        same = hits.index.flatten() == hit
        assert same[near].float().mean() > 0.995
        error = (distance - expected)[near & same].abs()
        assert error.quantile(0.99) < exact
        assert error.median() < 1e-3
        seen = near & same & ((distance - expected).abs() < 0.05)
        normal = normals(world, hit[seen], (starts + expected[:, None] * rays)[seen])
        cosine = (normal * rays[seen]).sum(dim=1).abs()
        assert ((hits.facing().flatten()[seen] - cosine).abs() < 0.02).float().mean() > 0.99


def test_fans_that_start_below_the_ground_never_meet_it() -> None:
    field = HeightField(torch.tensor([[0.0, 1.0], [1.0, 2.0]]), (50.0, 50.0))
    eye = torch.eye(3).repeat(4, 1, 1)
    origin = eye[:, 2] * torch.tensor([0.5, 0.9, 1.1, 3.0])[:, None]  # the ground is 1 m high there
    distance = field.cast_fans(origin.T, eye[:, 0].T, eye[:, 2].T, torch.linspace(-1.2, -0.1, 20))
    assert distance[:2].isinf().all()
    assert distance[2:].isfinite().all()
    assert (distance[2:] > 0).all()


def test_single_rays_meet_uneven_ground_on_its_surface_and_not_behind_it() -> None:
    world = uneven(0)
    starts, ways = torch.tensor([[0.5, 0.2, 1.7]], dtype=torch.float64), torch.from_numpy(rays(4000, 3)).double()
    center, rotation, size = (part[:1].double() for part in (world.center, world.rotation, world.size))
    ground = Primitives(world.kind[:1], center, rotation, size, world.field)
    distance, index = cast(ground, starts.expand(4000, 3), ways)
    hit = index == 0
    assert 0.2 < hit.double().mean() < 0.8
    field = world.field
    assert field is not None

    def above(points: torch.Tensor) -> torch.Tensor:
        x, y, z = ((points - ground.center[0]) @ ground.rotation[0]).unbind(dim=-1)
        return z - field.at(x, y)

    met = above(starts + distance[hit, None] * ways[hit])
    assert met.abs().max() < 2e-4
    # All the way there, and for 200 m where nothing is met, the ray is above the ground.
    share = torch.linspace(0, 0.999, 400, dtype=torch.float64)[:, None, None]
    length = torch.where(hit, distance, torch.tensor(200.0, dtype=torch.float64))[:, None]
    assert above(starts + share * length * ways).min() > -0.02
    assert cast(ground, torch.tensor([[0.0, 0, -9]], dtype=torch.float64), ways[:1])[0].isinf().all()


def test_fans_in_an_empty_world_hit_nothing() -> None:
    plane = shapes_of(*random_model(0, 0))
    nothing = Primitives(plane.kind[:0], plane.center[:0], plane.rotation[:0], plane.size[:0])
    hits = cast_fans([nothing], tilted_fans(5, 0))
    assert hits.distance.isinf().all()
    assert (hits.index == -1).all()
    assert (hits.facing() == 0).all()


@pytest.mark.parametrize(("count", "times"), [(0, 1), (0, 3), (3, 5), (33, 2)])
def test_each_fan_is_cast_at_the_world_of_its_own_time(count: int, times: int) -> None:
    worlds = [shapes_of(*random_model(20, seed)) for seed in range(times)]
    fans = tilted_fans(count, 0)
    hits = cast_fans(worlds, fans)
    assert hits.distance.shape == (count, 48)
    for world, part in zip(worlds, np.array_split(np.arange(count), times), strict=True):
        alone = cast_fans([world], Fans(fans.origin[part], fans.ahead[part], fans.up[part], fans.elevations))
        torch.testing.assert_close(hits.distance[part], alone.distance)
        assert (hits.index[part] == alone.index).float().mean() > 0.999 or not len(part)


class NoOwnDevice(TorchFunctionMode):
    """Refuses tensors that are made on no device in particular, and those that are taken to the CPU."""

    MAKERS = ("arange", "empty", "eye", "full", "linspace", "ones", "rand", "tensor", "zeros", "from_numpy")

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        assert name not in self.MAKERS or (kwargs or {}).get("device") is not None, f"torch.{name} without a device"
        assert name not in ("cpu", "numpy"), f"{name}() leaves the device"
        return func(*args, **(kwargs or {}))


def test_rays_and_boxes_stay_on_the_device_of_their_inputs() -> None:
    worlds, fans = [uneven(n) for n in (0, 0)], tilted_fans(40, 0)
    starts, ways = fans.origin, fans.ahead
    boxes = torch.rand(30, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4
    points = boxes[:, :3].contiguous()
    cast_fans(worlds, fans)  # what is done once in a process
    with NoOwnDevice():
        hits = cast_fans(worlds, fans)
        assert (hits.facing() >= 0).all()
        distance, index = cast(worlds[0], starts, ways)
        seen = index >= 0
        normals(worlds[0], index[seen], starts[seen] + distance[seen, None] * ways[seen])
        assert len(nms_bev(boxes, boxes[:, 0], 0.1)) > 0
        for measure in (bev_iou, iou_3d):
            assert (measure(boxes, boxes) > 0).any()
        assert points_in_boxes(points, boxes).any()
        assert corners(boxes).shape == (30, 8, 3)
        with pytest.raises(AssertionError, match="zeros without a device"):
            torch.zeros(3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_rays_on_a_gpu_hit_what_they_hit_on_the_cpu() -> None:
    world, fans = uneven(4), tilted_fans(500, 4)
    starts, ways = torch.tensor([[0.5, 0.2, 1.7]]).expand(20000, 3), torch.from_numpy(rays(20000, 4))
    distance, index = cast(world, starts, ways)
    there = [part.cpu() for part in cast(world.to("cuda"), starts.cuda(), ways.cuda())]
    hits = cast_fans([world], fans)
    moved = cast_fans([world.to("cuda")], Fans(*(part.cuda() for part in vars(fans).values())))
    pairs = [(distance, index, *there), (hits.distance, hits.index, moved.distance.cpu(), moved.index.cpu())]
    for here, which, found, other in pairs:
        same = which == other
        assert same.double().mean() > 0.999
        near = same & (here < 100)
        assert torch.isclose(here[near], found[near], rtol=1e-3, atol=1e-2).double().mean() > 0.999
    assert ((hits.facing() - moved.facing().cpu()).abs() < 0.01).double().mean() > 0.99


def test_double_precision_agrees_with_mujoco_and_open3d() -> None:
    model, data = random_model(60, 5)
    shapes = shapes_of(model, data)
    size = model.geom_size.copy()
    size[model.geom_type == 2] = size[model.geom_type == 2, :1]
    exact = (data.geom_xpos.copy(), data.geom_xmat.reshape(-1, 3, 3).copy(), size)
    center, rotation, sizes = (torch.from_numpy(values) for values in exact)
    precise = Primitives(shapes.kind, center, rotation, sizes)
    origin, directions = np.array([0.5, 0.2, 1.7]), rays(5000, 5).astype(np.float64)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    theirs, geoms = mujoco_cast(model, data, origin, directions)
    ours, index = cast(precise, torch.from_numpy(origin).expand(5000, 3), torch.from_numpy(directions))
    assert ours.dtype == torch.float64
    assert (index.numpy() == geoms).all()
    hit = np.isfinite(theirs)
    assert hit.mean() > 0.5
    # MuJoCo's distances are kept in single precision.
    np.testing.assert_allclose(ours.numpy()[hit], theirs[hit], rtol=2e-7)
    pytest.importorskip("open3d", reason="needs Open3D; pip install 'robovision[lidar]'")
    found, _ = Open3DScene(model, data).cast(np.tile(origin, (5000, 1)), directions)
    flat = (
        hit & (theirs < 400) & np.isin(model.geom_type[geoms], (0, 6))
    )  # planes and boxes, which triangles make exactly
    np.testing.assert_allclose(found[flat], ours.numpy()[flat], rtol=1e-5, atol=1e-4)


def test_open3d_agrees_with_both() -> None:
    pytest.importorskip("open3d", reason="needs Open3D; pip install 'robovision[lidar]'")
    model, data = random_model(40, 7)
    origin, directions = np.array([0.5, 0.2, 1.7], np.float32), rays(5000, 7)
    theirs, geoms = mujoco_cast(model, data, origin, directions)
    found, ids = Open3DScene(model, data).cast(np.tile(origin, (5000, 1)), directions)
    theirs[theirs > 400] = np.inf
    found[found > 400] = np.inf
    close = np.isclose(found, theirs, rtol=5e-3, atol=2e-2) | (np.isinf(found) & np.isinf(theirs))
    assert close.mean() > 0.99
    assert (ids == geoms)[close & np.isfinite(theirs)].mean() > 0.99
    boxes, state = random_model(40, 8, ("box",))
    theirs, _ = mujoco_cast(boxes, state, origin, directions)
    found, _ = Open3DScene(boxes, state).cast(np.tile(origin, (5000, 1)), directions)
    near = theirs < 400
    close = np.isclose(found[near], theirs[near], rtol=1e-4, atol=1e-3)
    assert close.mean() > 0.999


def test_normals_point_outwards_and_stand_on_the_surface() -> None:
    model, data = random_model(60, 9)
    shapes = shapes_of(model, data)
    origins, directions = torch.tensor([[0.5, 0.2, 6.0]]).expand(5000, 3), torch.tensor(rays(5000, 9))
    distance, index = cast(shapes, origins, directions)
    hit = index >= 0
    points = (origins + distance[:, None] * directions)[hit]
    normal = normals(shapes, index[hit], points)
    assert ((normal * directions[hit]).sum(dim=1) < 1e-3).float().mean() > 0.999
    assert torch.allclose(normal.norm(dim=1), torch.ones(len(normal)), atol=1e-5)
    # From just outside, the way back along the normal leads to the same shape at once.
    back, same = cast(shapes, points + 0.01 * normal, -normal)
    assert ((back < 0.02) & (same == index[hit])).float().mean() > 0.97


def test_meshes_are_named_and_no_shapes_hit_nothing() -> None:
    tetrahedron = "<mesh name='m' vertex='0 0 0 1 0 0 0 1 0 0 0 1'/>"
    body = "<worldbody><geom type='mesh' mesh='m'/></worldbody>"
    model = mujoco.MjModel.from_xml_string(f"<mujoco><asset>{tetrahedron}</asset>{body}</mujoco>")
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    with pytest.raises(UsageError, match="geoms of type mesh are none of our shapes"):
        shapes_of(model, data)
    distance, _ = mujoco_cast(model, data, np.array([0.2, 0.2, -2.0]), np.array([[0, 0, 1.0]]))
    assert distance[0] == pytest.approx(2.0)
    empty = shapes_of(*random_model(0, 0))
    none, index = cast(empty, torch.tensor([[0.0, 0, 2]]), torch.tensor([[0.0, 0, 1]]))
    assert none.isinf().all()
    assert index.tolist() == [-1]
