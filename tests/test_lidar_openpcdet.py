"""Checkpoints of OpenPCDet, of the exact names and shapes that it writes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from robovision.errors import UsageError
from robovision.lidar.detectors.models import MODELS
from robovision.lidar.detectors.openpcdet import load_openpcdet

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
