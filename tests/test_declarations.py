"""Every model keeps its word: what it declares of its symmetry is measured in float64.

To add a model: give it a method `symmetries()` and add a line to CASES.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from robovision.encoders.base import Encoder
from robovision.encoders.build import build
from robovision.encoders.cnn import CNN
from robovision.encoders.coin import CoIn, SpatialPrior
from robovision.encoders.dualtoken import DualTokenSize, DualTokenViT
from robovision.encoders.lookhere import LookHere
from robovision.encoders.names import ENCODERS
from robovision.encoders.nat import NAT, NATSize
from robovision.encoders.resnet import ResNet50
from robovision.encoders.smoe import SMoE, SpatialMixture
from robovision.encoders.strek import StrekEncoder
from robovision.encoders.swin import Swin, SwinSize
from robovision.encoders.vit import PatchEmbed, ViT, ViTSize
from robovision.errors import UsageError
from robovision.keypoints.description import Descriptor
from robovision.keypoints.detector import Detector
from robovision.keypoints.strek_config import DetectorOptions
from robovision.lidar.detectors.config import DetectorConfig
from robovision.lidar.detectors.detector import Detector as LidarDetector
from robovision.lidar.detectors.models import MODELS
from robovision.lidar.detectors.sweep_encoder import SweepEncoder
from robovision.symmetry.aliasfree import (
    FilteredActivation,
    IdealDownsample,
    IdealUpsample,
    KaiserDownsample,
    KaiserUpsample,
)
from robovision.symmetry.claims import Symmetry, check, declared, whole
from robovision.symmetry.data import Items, Points, Same
from robovision.symmetry.groupconv import FieldNorm, GroupMax, LiftingConv, PlaneGroup, RegularConv
from robovision.symmetry.groups import O3, PERMUTATION, SE3, SO3, cyclic_shifts, shifts
from robovision.testing import assert_declared
from tests.lidar_scenes import ANCHORED, CENTER, RESIDUAL, SECOND, TWO_STAGES, scene

C8, D4 = PlaneGroup.parse("C8"), PlaneGroup.parse("D4")
SMALL = ViTSize(32, 2, 2)
DETECTOR = DetectorOptions(fields=2, layers=3, kernel=3)


def image(side: int, channels: int = 3) -> Tensor:
    return torch.rand(1, channels, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def short_resnet() -> ResNet50:
    """With one block a stage, so that a small image has cells that don't see the border."""
    resnet = ResNet50()
    for name in ("layer1", "layer2", "layer3", "layer4"):
        setattr(resnet, name, getattr(resnet, name)[:1])
    return resnet


class OneSweep(nn.Module):
    """The features of a detector that sees one sweep."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.detector = LidarDetector(dataclasses.replace(config, intensity=False))

    def forward(self, points: Tensor) -> Tensor:
        return self.detector.features(points, torch.zeros(len(points), dtype=torch.int64), 1)[0]

    def symmetries(self) -> tuple[Symmetry, ...]:
        return self.detector.symmetries()


def sweep() -> Tensor:
    return scene(3).points.double()


def distances() -> Tensor:
    return 3 + torch.rand(2, 1, 180, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


CASES: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "PatchEmbed": lambda: (PatchEmbed(32, 8, bias=True), image(64)),
    "ViT": lambda: (ViT(SMALL, 8, 64), image(64)),
    "ViT with CoIn": lambda: (ViT(SMALL, 8, 64, CoIn(32, stem=4, gamma=1.0)), image(64)),
    "SpatialPrior, alias-free": lambda: (SpatialPrior(16, 4, quarter_map=False, aliasfree=True), image(160)),
    "LookHere": lambda: (LookHere(ViTSize(48, 2, 12), 8, scale=1.0), image(64)),
    "NAT": lambda: (NAT(NATSize(16, 2, (1, 1), 2, kernel=3)), image(96)),
    "DualToken-ViT": lambda: (DualTokenViT(DualTokenSize((8, 16, 24), (1, 1, 1), (2, 2, 2))), image(128)),
    "SMoE": lambda: (SMoE(64), image(64)),
    "SpatialMixture": lambda: (SpatialMixture(3, 2, (12, 12)), image(12)),
    "Swin": lambda: (Swin(SwinSize(8, 2, (2, 2), window=4)), image(64)),
    "CoSwin": lambda: (Swin(SwinSize(8, 2, (2, 2), window=4), branch=True), image(64)),
    "SpatialPrior": lambda: (SpatialPrior(16, 4, quarter_map=False), image(96)),
    "CNN": lambda: (CNN(), image(6 * 16)),
    "ResNet50": lambda: (short_resnet(), image(8 * 32)),
    "S-TREK encoder": lambda: (StrekEncoder(), image(128)),
    "LiftingConv C8": lambda: (LiftingConv(C8, 3, 2, 5), image(24)),
    "LiftingConv D4": lambda: (LiftingConv(D4, 3, 2, 5), image(24)),
    "RegularConv C8": lambda: (RegularConv(C8, 2, 3, 3), image(24, 16)),
    "RegularConv D4": lambda: (RegularConv(D4, 2, 3, 3), image(24, 16)),
    "FieldNorm": lambda: (FieldNorm(D4, 2), image(24, 16)),
    "GroupMax": lambda: (GroupMax(D4), image(24, 16)),
    "IdealUpsample": lambda: (IdealUpsample(), image(20)),
    "IdealDownsample": lambda: (IdealDownsample(), image(20)),
    "KaiserUpsample, circular": lambda: (KaiserUpsample(border="circular"), image(20)),
    "KaiserDownsample, zeros": lambda: (KaiserDownsample(), image(20)),
    "FilteredActivation": lambda: (FilteredActivation(nn.functional.silu), image(20) - 0.5),
    "FilteredActivation, Kaiser": lambda: (
        FilteredActivation(nn.functional.silu, filter="kaiser", border="circular"),
        image(20) - 0.5,
    ),
    "PointPillars": lambda: (OneSweep(ANCHORED), sweep()),
    "CenterPoint, pillars": lambda: (OneSweep(CENTER), sweep()),
    "SECOND": lambda: (OneSweep(SECOND), sweep()),
    "CenterPoint, voxels": lambda: (OneSweep(RESIDUAL), sweep()),
    "Voxel R-CNN": lambda: (OneSweep(TWO_STAGES), sweep()),
    "LiDAR backbone as encoder": lambda: (SweepEncoder(MODELS["room"], "planar"), distances()),
    "S-TREK detector C8": lambda: (Detector(DETECTOR), image(30, 1)),
    "S-TREK descriptor": lambda: (Descriptor(), torch.cat([image(32, 1), image(33, 1)[..., 1:, 1:]])),
}


@pytest.mark.parametrize("name", CASES)
def test_every_model_keeps_its_word(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = CASES[name]()
    assert len(assert_declared(model, inputs)) > 0


def test_every_encoder_declares_something_that_is_tested() -> None:
    tested = {type(make()[0]) for make in CASES.values()}
    with torch.device("meta"):
        kinds = {
            type(build(name, 224)) for name in {spec.architecture: name for name, spec in ENCODERS.items()}.values()
        }
    assert all(issubclass(kind, Encoder) for kind in kinds)
    assert kinds <= tested


class Claimed(nn.Module):
    def __init__(self, layer: nn.Module, *claims: Symmetry) -> None:
        super().__init__()
        self.layer = layer
        self.claims = claims

    def symmetries(self) -> tuple[Symmetry, ...]:
        return self.claims

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)  # type: ignore[no-any-return]


class Spread(nn.Module):
    """The distances of points [B, N, 3] from their mean, in order."""

    def forward(self, points: Tensor) -> Tensor:
        distances: Tensor = (points - points.mean(1, keepdim=True)).norm(dim=-1)
        return distances.sort(1).values


class Hands(nn.Module):
    """The signed volume of the first three points from the fourth: the mirror changes it."""

    def forward(self, points: Tensor) -> Tensor:
        volume: Tensor = torch.linalg.det(points[:, :3] - points[:, 3:4])
        return volume[:, None]


def cloud() -> Tensor:
    return torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    ("layer", "claims"),
    [
        (Spread(), [(g, "exact") for g in (SO3, SE3, O3, PERMUTATION)]),
        (Hands(), [(SO3, "exact"), (SE3, "exact"), (O3, "none"), (PERMUTATION, "none")]),
    ],
)
def test_invariants_of_clouds(layer: nn.Module, claims: list[tuple[object, str]]) -> None:
    for group, grade in claims:
        inputs = Items() if group is PERMUTATION else Points()
        check(layer, cloud(), Symmetry(group, grade, inputs, Same()))  # type: ignore[arg-type]


def convolution(mode: Literal["zeros", "circular"]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 3, padding=1, padding_mode=mode).double()


def test_who_does_not_keep_its_word_is_told() -> None:
    torus = cyclic_shifts(1, 3)
    assert check(convolution("circular"), image(16), Symmetry(torus, "exact")) < 1e-12
    with pytest.raises(AssertionError, match="declared cyclic shifts: exact, but the error is 0"):
        check(convolution("zeros"), image(16), Symmetry(torus, "exact"))
    with pytest.raises(AssertionError, match="declared cyclic shifts: none, but the error is only"):
        check(convolution("circular"), image(16), Symmetry(torus, "none"))
    with pytest.raises(AssertionError, match="exact, but"):
        check(convolution("zeros"), image(16), Symmetry(shifts(), "exact"))
    check(convolution("zeros"), image(16), Symmetry(shifts(), "interior", margin=1))
    check(convolution("zeros"), image(16), Symmetry(shifts(), "approximate", tolerance=0.9))
    assert str(Symmetry(shifts(8), "interior", margin=2)) == "shifts by 8 px: interior, 2 cells inside"


def test_wrong_declarations_are_named() -> None:
    with pytest.raises(UsageError, match=r"a tolerance belongs to `approximate`; exact came with 0\.1"):
        Symmetry(shifts(), "exact", tolerance=0.1)
    with pytest.raises(UsageError, match="a margin belongs to"):
        Symmetry(shifts(), "none", margin=3)
    with pytest.raises(UsageError, match="Conv2d declares no symmetries"):
        declared(nn.Conv2d(1, 1, 1))
    with pytest.raises(ValueError, match=r"checked in float64, got torch\.float32"):
        check(nn.Identity(), image(8).float(), Symmetry(shifts(), "exact"))
    with pytest.raises(ValueError, match="nothing to compare under shifts of 1"):
        check(nn.Identity(), image(8), Symmetry(shifts(), "interior", margin=4))
    with pytest.raises(UsageError, match="returned tuple, not one tensor"):
        whole((1, 2))
    strided = Claimed(nn.AvgPool2d(2), Symmetry(shifts(), "exact"))
    with pytest.raises(AssertionError, match="but the error is"):
        assert_declared(strided, image(8))
    with pytest.raises(ValueError, match=r"f\(g x\) has shape \[1, 3, 8, 9\], but g f\(x\) has \[1, 3, 8, 8\]"):
        seen = iter([image(8), torch.zeros(1, 3, 8, 9)])
        check(lambda _: next(seen), image(8), Symmetry(shifts(), "exact"))
