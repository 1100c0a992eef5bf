from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robovision.errors import UsageError
from robovision.lidar.boxes import points_in_boxes
from robovision.lidar.detectors import anchor_head, anchors, center_head
from robovision.lidar.detectors.anchor_head import AnchorHead
from robovision.lidar.detectors.augment_options import AugmentOptions
from robovision.lidar.detectors.augmentation import augment
from robovision.lidar.detectors.center_head import CenterHead
from robovision.lidar.detectors.config import BevOptions, DetectorConfig, Grid
from robovision.lidar.detectors.detector import Detector, detect, ground_level
from robovision.lidar.detectors.files import load_detector, save_detector
from robovision.lidar.detectors.folding import fold
from robovision.lidar.detectors.heads import Found, Maps, Objects, choose
from robovision.lidar.detectors.models import MODELS, make_config
from robovision.lidar.detectors.openpcdet import load_openpcdet
from robovision.lidar.detectors.pillars import PillarEncoder, PillarLayer, describe
from robovision.lidar.voxels import voxelise
from robovision.types import PointCloud
from tests.lidar_scenes import ANCHORED, AXES, CENTER, RESIDUAL, SECOND, TWO_STAGES, boxes, scene


def same_boxes(one: Tensor, other: Tensor, at: float = 1e-4) -> None:
    """Equal boxes, yaw up to whole turns."""
    assert torch.allclose(one[:, :6], other[:, :6], atol=at)
    assert torch.allclose((one[:, 6] - other[:, 6]).cos(), torch.ones(len(one)), atol=at)


def turned(count: int = 12) -> Objects:
    """Cars and pedestrians that head every way, apart from each other."""
    step = torch.arange(count)
    place = torch.stack([1.2 + step % 4 * 3.1, -4.5 + step // 4 * 4.3, torch.full((count,), -0.9)], dim=1)
    sizes = torch.tensor([[3.7, 1.5, 1.6], [0.7, 0.65, 1.7]])[step % 2]
    yaw = -math.pi + 2 * math.pi * step / count + 0.05
    return Objects(torch.cat([place, sizes, yaw[:, None]], dim=1).float(), step % 2)


def test_anchors_by_hand() -> None:
    found = anchors.make_anchors(MODELS["pointpillars"], (248, 216))
    assert found.shape == (248, 216, 3, 2, 7)
    assert torch.allclose(found[0, 0, 0, 0], torch.tensor([0.0, -39.68, -1.0, 3.9, 1.6, 1.56, 0.0]))
    assert torch.allclose(found[-1, -1, 1, 1], torch.tensor([69.12, 39.68, 0.265, 0.8, 0.6, 1.73, 1.57]))


def test_codes_undo_each_other() -> None:
    truth = turned().boxes
    reference = torch.tensor([[2.0, 1.0, -1.0, 3.9, 1.6, 1.56, 1.57]]).expand_as(truth)
    code = anchors.encode(truth, reference)
    same_boxes(anchors.decode(code, reference), truth)
    by_hand = torch.tensor([[2.0, 1.0, -1.0, 3.9, 1.6, 3.12, 1.57]])
    assert torch.allclose(anchors.encode(by_hand, reference[:1]), torch.tensor([[0, 0, 0, 0, 0, math.log(2), 0]]))


def test_assignment_by_hand() -> None:
    config = dataclasses.replace(ANCHORED, classes=("Car",), anchors=ANCHORED.anchors[:1])
    grid = anchors.make_anchors(config, (4, 4))
    here = grid[1, 2, 0, 0].clone()
    near = here + torch.tensor([0.5, 0, 0, 0, 0, 0, 0])  # overlap (3.9 - 0.5) / (3.9 + 0.5) = 0.77
    match = anchors.assign(config, grid, Objects(torch.stack([near]), torch.tensor([0])))
    assert match[1, 2, 0, 0] == 0 and (match == 0).sum() == 1
    assert (match == anchors.NOTHING).sum() == match.numel() - 1
    far = here + torch.tensor([1.5, 0, 0, 0, 0, 0, 0])  # overlap 0.44, and no anchor overlaps it more
    assert anchors.assign(config, grid, Objects(torch.stack([far]), torch.tensor([0])))[1, 2, 0, 0] == 0
    both = Objects(torch.stack([here, here + torch.tensor([1.2, 0, 0, 0, 0, 0, 0])]), torch.tensor([0, 0]))
    assert anchors.assign(config, grid, both)[1, 2, 0, 0] == 0
    other = anchors.assign(config, grid, Objects(torch.stack([here]), torch.tensor([1])))
    assert (other == anchors.NOTHING).all()
    # A pair of anchors at one place: the one across overlaps 0.26 and stands for nothing.
    exact = anchors.assign(config, grid, Objects(here[None], torch.tensor([0])))
    assert exact[1, 2, 0].tolist() == [0, anchors.NOTHING]


def anchor_maps(head: AnchorHead, objects: Objects, shape: tuple[int, int]) -> Maps:
    """The maps that say exactly these objects."""
    grid = anchors.make_anchors(head.config, shape)
    match = anchors.assign(head.config, grid, objects)
    logits = torch.full((*match.shape, len(head.config.classes)), -9.0)
    box, direction = torch.zeros_like(grid), torch.zeros(*match.shape, 2)
    place = (match >= 0).nonzero(as_tuple=True)
    true = objects.boxes[match[place]]
    logits[(*place, objects.labels[match[place]])] = 9.0
    box[place] = anchors.encode(true, grid[place])
    # The sine can't tell a code from one that is half a turn off; the direction must.
    box[..., 6] += math.pi * (torch.arange(box[..., 6].numel()) % 2).view(box.shape[:-1])
    direction[(*place, anchor_head.direction_of(true[:, 6]))] = 1.0
    return {
        name: values.flatten(2).permute(2, 0, 1)[None]
        for name, values in {"cls": logits, "box": box, "dir": direction}.items()
    }


def test_anchor_head_reads_what_is_written() -> None:
    head = AnchorHead(4, ANCHORED)
    objects = turned()
    maps = anchor_maps(head, objects, (32, 32))
    (found,) = head.decode(maps)
    order = torch.cdist(objects.boxes[:, :2], found.boxes[:, :2]).argmin(dim=1)
    assert len(found.boxes) == len(objects.boxes)
    same_boxes(found.boxes[order], objects.boxes)
    assert torch.equal(found.labels[order], objects.labels)
    losses = head.losses(maps, [objects])
    assert losses["box_loss"] < 1e-4 and losses["class_loss"] < 0.01
    wrong = head.losses({**maps, "cls": -maps["cls"]}, [objects])
    assert wrong["class_loss"] > 100 * losses["class_loss"]


@pytest.mark.parametrize("config", [CENTER, AXES], ids=["directions", "axes"])
def test_center_head_reads_what_is_written(config: DetectorConfig) -> None:
    head = CenterHead(4, config)
    objects = turned()
    heat, cells, code = center_head.peaks(objects, config, (32, 32))
    if config.center.axis:
        code[:, 8] = 20 * code[:, 8] - 10  # chances as logits
    assert heat.shape == (2, 32, 32) and (heat == 1).sum() == len(objects.boxes) and heat.min() >= 0
    flat = torch.zeros(code.shape[1], 32 * 32)
    flat[:, cells] = code.T
    grid = flat.view(1, -1, 32, 32)
    parts = center_head.BOX | (center_head.WAY if config.center.axis else {})
    maps = dict(zip(parts, torch.split(grid, list(parts.values()), dim=1), strict=True))
    maps["hm"] = torch.where(heat == 1, 6.0, -9.0)[None]
    (found,) = head.decode(maps)
    order = torch.cdist(objects.boxes[:, :2], found.boxes[:, :2]).argmin(dim=1)
    assert len(found.boxes) == len(objects.boxes)
    same_boxes(found.boxes[order], objects.boxes)
    assert torch.equal(found.labels[order], objects.labels)
    losses = head.losses(maps, [objects])
    assert losses["box_loss"] < 1e-4
    assert head.losses({**maps, "hm": -maps["hm"]}, [objects])["heat_loss"] > 10 * losses["heat_loss"]
    if config.center.axis:
        back = {**maps, "way": -maps["way"]}
        assert head.losses(back, [objects])["way_loss"] > 1 > 1e3 * losses["way_loss"]
        (found,) = head.decode(back)
        order = torch.cdist(objects.boxes[:, :2], found.boxes[:, :2]).argmin(dim=1)
        assert torch.allclose((found.boxes[order, 6] - objects.boxes[:, 6]).cos(), torch.tensor(-1.0), atol=1e-4)


def test_objects_outside_teach_no_peak() -> None:
    outside = Objects(boxes().boxes + torch.tensor([40.0, 0, 0, 0, 0, 0, 0]), boxes().labels)
    heat, cells, _ = center_head.peaks(outside, CENTER, (32, 32))
    assert heat.max() == 0 and len(cells) == 0


def test_gaussian_radius_by_hand() -> None:
    # A square of side 10 at overlap 0.5: moving by r leaves (10 - r)^2 / (200 - (10 - r)^2).
    (radius,) = center_head.gaussian_radius(torch.tensor([[10.0, 10.0]]), 1 / 3).tolist()
    b, c = -2 / 3 * 20, -2 / 3 * 100
    assert radius <= 10 and radius == pytest.approx((b + math.sqrt(b * b - 4 * 4 / 3 * c)) / 2, rel=1e-5)


def test_choice_is_greedy_and_bounded() -> None:
    table = boxes().boxes[[0, 0, 1]] + torch.tensor([[0.0] * 7, [0.2] + [0.0] * 6, [0.0] * 7])
    found = Found(table, torch.tensor([0, 1, 1]), torch.tensor([0.5, 0.9, 0.4]))
    kept = choose(found, 0.2, 10)
    assert kept.scores.tolist() == pytest.approx([0.9, 0.4]) and kept.labels.tolist() == [1, 1]
    assert len(choose(found, 0.2, 1).boxes) == 1


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


@pytest.mark.parametrize(
    "config",
    [CENTER, AXES, ANCHORED, SECOND, RESIDUAL, TWO_STAGES],
    ids=["center", "axes", "anchors", "second", "residual", "two stages"],
)
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


@pytest.mark.parametrize(
    "config",
    [CENTER, AXES, ANCHORED, SECOND, RESIDUAL, TWO_STAGES],
    ids=["center", "axes", "anchors", "second", "residual", "two stages"],
)
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


def test_augmentation_tells_its_group_element() -> None:
    before = scene()
    options = AugmentOptions(flip=1.0, turn=2.0, scale=0.2, shift=(1.0, 1.0, 0.5))
    after, element = augment(before, options, torch.Generator().manual_seed(3))
    assert element.mirror and element.scale != 1 and element.yaw != 0
    inside = points_in_boxes(before.points[:, :3], before.objects.boxes)
    assert torch.equal(points_in_boxes(after.points[:, :3], after.objects.boxes), inside) and inside.sum() > 300
    back = element.inverse()
    assert torch.allclose(back.points(after.points[:, :3]), before.points[:, :3], atol=1e-4)
    same_boxes(back.boxes(after.objects.boxes), before.objects.boxes)
    assert torch.equal(after.points[:, 3], before.points[:, 3])
    thinned, _ = augment(before, AugmentOptions(thin=0.9), torch.Generator().manual_seed(1))
    assert len(thinned.points) < len(before.points)
    with pytest.raises(UsageError, match="shares"):
        AugmentOptions(flip=2)


def test_a_file_says_which_detector_it_is(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    detector = Detector(ANCHORED).eval()
    save_detector(path, detector)
    again = load_detector(path)
    assert again.config == ANCHORED and not again.training
    for name, value in detector.state_dict().items():
        assert torch.allclose(again.state_dict()[name].float(), value.float(), rtol=1e-3, atol=1e-4)
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


Shapes = dict[str, tuple[int, ...]]


def norm(name: str, channels: int) -> Shapes:
    parts = {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}
    return {**parts, f"{name}.num_batches_tracked": ()}


def bev_shapes(width: int, layers: list[int], channels: list[int], strides: list[int], ups: list[int]) -> Shapes:
    """BaseBEVBackbone, as OpenPCDet writes it."""
    shapes: Shapes = {}
    for i, count in enumerate(layers):
        last = width if i == 0 else channels[i - 1]
        for k in range(count + 1):
            at = 1 + 3 * k
            shapes[f"backbone_2d.blocks.{i}.{at}.weight"] = (channels[i], last if k == 0 else channels[i], 3, 3)
            shapes |= norm(f"backbone_2d.blocks.{i}.{at + 1}", channels[i])
        shapes[f"backbone_2d.deblocks.{i}.0.weight"] = (channels[i], ups[i], strides[i], strides[i])
        shapes |= norm(f"backbone_2d.deblocks.{i}.1", ups[i])
    return shapes


def anchor_shapes(width: int, classes: int = 3) -> Shapes:
    sizes = {"conv_cls": 2 * classes**2, "conv_box": 14 * classes, "conv_dir_cls": 4 * classes}
    shapes: Shapes = {f"dense_head.{name}.weight": (count, width, 1, 1) for name, count in sizes.items()}
    return shapes | {f"dense_head.{name}.bias": (count,) for name, count in sizes.items()}


def center_shapes(width: int) -> Shapes:
    shapes: Shapes = {"dense_head.shared_conv.0.weight": (64, width, 3, 3), "dense_head.shared_conv.0.bias": (64,)}
    shapes |= norm("dense_head.shared_conv.1", 64)
    for name, count in {"center": 2, "center_z": 1, "dim": 3, "rot": 2, "hm": 3}.items():
        start = f"dense_head.heads_list.0.{name}"
        shapes |= {f"{start}.0.0.weight": (64, 64, 3, 3), f"{start}.0.0.bias": (64,), **norm(f"{start}.0.1", 64)}
        shapes |= {f"{start}.1.weight": (count, 64, 3, 3), f"{start}.1.bias": (count,)}
    return shapes


def sparse_shapes(features: int, residual: bool) -> Shapes:
    """VoxelBackBone8x and VoxelResBackBone8x with spconv 2."""
    shapes: Shapes = {}

    def layer(name: str, width: int, channels: int, kernel: tuple[int, int, int] = (3, 3, 3)) -> None:
        shapes[f"backbone_3d.{name}.0.weight"] = (channels, *kernel, width)
        shapes.update(norm(f"backbone_3d.{name}.1", channels))

    def block(name: str, channels: int) -> None:
        for k in (1, 2):
            shapes[f"backbone_3d.{name}.conv{k}.weight"] = (channels, 3, 3, 3, channels)
            shapes[f"backbone_3d.{name}.conv{k}.bias"] = (channels,)
            shapes.update(norm(f"backbone_3d.{name}.bn{k}", channels))

    widths = [16, 32, 64, 128 if residual else 64]
    layer("conv_input", features, 16)
    for stage, channels in enumerate(widths, 1):
        if stage > 1:
            layer(f"conv{stage}.0", widths[stage - 2], channels)
        first = 1 if stage > 1 else 0
        for k in range(first, first + (2 if stage > 1 or residual else 1)):
            if residual:
                block(f"conv{stage}.{k}", channels)
            else:
                layer(f"conv{stage}.{k}", channels, channels)
    layer("conv_out", widths[3], 128, (3, 1, 1))
    return shapes


def pillar_shapes(widths: list[int]) -> Shapes:
    shapes: Shapes = {}
    for k, channels in enumerate(widths):
        last = k == len(widths) - 1
        out = channels if last else channels // 2
        shapes[f"vfe.pfn_layers.{k}.linear.weight"] = (out, 10 if k == 0 else widths[k - 1])
        shapes |= norm(f"vfe.pfn_layers.{k}.norm", out)
    return shapes


def roi_shapes() -> Shapes:
    """VoxelRCNNHead."""
    shapes: Shapes = {}
    for k, width in enumerate((32, 64, 64)):
        for part, inputs, rest in (("in", width, (1,)), ("pos", 3, (1, 1)), ("out", 32, (1,))):
            name = f"roi_head.roi_grid_pool_layers.{k}.mlps_{part}.0"
            shapes |= {f"{name}.0.weight": (32, inputs, *rest), **norm(f"{name}.1", 32)}
    for name, width in {"shared_fc_layer": 6**3 * 96, "cls_fc_layers": 256, "reg_fc_layers": 256}.items():
        for at, inputs in ((0, width), (4, 256)):
            shapes |= {f"roi_head.{name}.{at}.weight": (256, inputs), **norm(f"roi_head.{name}.{at + 1}", 256)}
    for name, count in {"cls": 1, "reg": 7}.items():
        shapes |= {f"roi_head.{name}_pred_layer.weight": (count, 256), f"roi_head.{name}_pred_layer.bias": (count,)}
    return shapes


THREE, TWO = ([3, 5, 5], [64, 128, 256], [1, 2, 4], [128] * 3), ([5, 5], [128, 256], [1, 2], [256] * 2)
PUBLISHED: dict[str, Shapes] = {
    "pointpillars": pillar_shapes([64]) | bev_shapes(64, *THREE) | anchor_shapes(384),
    "second": sparse_shapes(4, False) | bev_shapes(256, *TWO) | anchor_shapes(512),
    "voxel-rcnn": sparse_shapes(4, False)
    | bev_shapes(256, [5, 5], [64, 128], [1, 2], [128] * 2)
    | anchor_shapes(256, 1)
    | roi_shapes(),
    "centerpoint-pillar": pillar_shapes([64, 64]) | bev_shapes(64, *THREE) | center_shapes(384),
    "centerpoint-voxel": sparse_shapes(4, True) | bev_shapes(256, *TWO) | center_shapes(512),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_openpcdet_weights_load(name: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        key: torch.randint(9, shape, generator=generator)
        if key.endswith("tracked")
        else torch.randn(shape, generator=generator)
        for key, shape in PUBLISHED[name].items()
    }
    path = tmp_path / "checkpoint.pth"
    state = {
        "model_state": {**tensors, "global_step": torch.zeros(1, dtype=torch.int64)},
        "epoch": 80,
        "it": 9,
        "version": "pcdet+0.6",
    }
    torch.save(state, path)
    detector = load_openpcdet(path, MODELS[name])
    own = detector.state_dict()
    assert len(own) == len(tensors)
    assert torch.equal(own["backbone.blocks.1.4.weight"], tensors["backbone_2d.blocks.1.4.weight"])
    if name in ("second", "centerpoint-voxel"):
        kernel = tensors["backbone_3d.conv2.0.0.weight"]
        assert torch.equal(own["encoder.conv2.0.0.weight"][1 * 9 + 2 * 3 + 0], kernel[:, 1, 2, 0, :].T)
    if name == "second":
        older = {k: v.permute(1, 2, 3, 4, 0) if v.ndim == 5 else v for k, v in tensors.items()}
        torch.save(older, path)
        assert torch.equal(
            load_openpcdet(path, MODELS[name]).state_dict()["encoder.conv_out.0.weight"],
            own["encoder.conv_out.0.weight"],
        )
        with pytest.raises(UsageError, match=r"another model:\n  encoder\.layers\.0"):
            load_openpcdet(path, MODELS["pointpillars"])
    if name == "voxel-rcnn":
        return  # it has one class
    one = dataclasses.replace(MODELS[name], classes=("Car",), anchors=MODELS[name].anchors[:1])
    with pytest.raises(UsageError, match="another list of classes than Car:"):
        load_openpcdet(path, one)
