"""Every model keeps its word: what it declares of its symmetry is measured in float64.

To add a model: give it a method `symmetries()` and add a line to CASES. What is only a part of a model stands in PARTS.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable, Iterator
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

import robovision
from robovision.agents.reinforcement.readers import PointReader, RingReader, Rings
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
from robovision.lidar.detectors import detector as lidar
from robovision.lidar.detectors.bev import BevBackbone
from robovision.lidar.detectors.config import BevOptions, DetectorConfig
from robovision.lidar.detectors.ground import Ground
from robovision.lidar.detectors.models import MODELS
from robovision.lidar.detectors.sweep_encoder import SweepEncoder
from robovision.symmetry.aliasfree import (
    FilteredActivation,
    IdealDownsample,
    IdealUpsample,
    KaiserDownsample,
    KaiserUpsample,
)
from robovision.symmetry.claims import Declares, Symmetry, check, declared, whole
from robovision.symmetry.data import Items, Points, Same
from robovision.symmetry.elements import Permutation
from robovision.symmetry.groupconv import FieldNorm, GroupMax, LiftingConv, PlaneGroup, RegularConv
from robovision.symmetry.groups import O3, PERMUTATION, SE3, SO3, cyclic_shifts, shifts, turns
from robovision.symmetry.space import Isometry, Similarity
from robovision.testing import assert_declared
from tests.lidar_scenes import ANCHORED, CENTER, PLACELESS, RESIDUAL, SECOND, TWO_STAGES, scene

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


def on_sweep(config: DetectorConfig) -> tuple[nn.Module, Tensor, Callable[[Tensor], object]]:
    """A detector as a function of one sweep's points."""
    detector = lidar.Detector(config).double()
    points = scene().points.double()
    return detector, points, lambda points: detector(points, torch.zeros(len(points), dtype=torch.int64), 1)


def distances() -> Tensor:
    return 3 + torch.rand(2, 1, 180, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


Case = tuple[nn.Module, Tensor] | tuple[nn.Module, Tensor, Callable[[Tensor], object]]
CASES: dict[str, Callable[[], Case]] = {
    "PatchEmbed": lambda: (PatchEmbed(32, 8, bias=True), image(64)),
    "ViT": lambda: (ViT(SMALL, 8, 64), image(64)),
    "ViT with CoIn": lambda: (ViT(SMALL, 8, 64, CoIn(32, stem=4, gamma=1.0)), image(64)),
    "SpatialPrior, alias-free": lambda: (SpatialPrior(8, 2, quarter_map=False, aliasfree=True), image(32 * 8)),
    "LookHere": lambda: (LookHere(ViTSize(48, 2, 12), 8, scale=1.0), image(64)),
    "NAT": lambda: (NAT(NATSize(16, 2, (1, 1), 2, kernel=3)), image(96)),
    "DualToken-ViT": lambda: (DualTokenViT(DualTokenSize((8, 16, 24), (1, 1, 1), (2, 2, 2))), image(128)),
    "SMoE": lambda: (SMoE(64), image(64)),
    "SpatialMixture": lambda: (SpatialMixture(3, 2, (12, 12)), image(12)),
    "Swin": lambda: (Swin(SwinSize(8, 2, (2, 2), window=4)), image(32 * 8)),
    "CoSwin": lambda: (Swin(SwinSize(8, 2, (2, 2), window=4), branch=True), image(32 * 8)),
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
    "KaiserUpsample": lambda: (KaiserUpsample(), image(20)),
    "KaiserUpsample, circular": lambda: (KaiserUpsample(border="circular"), image(20)),
    "KaiserDownsample": lambda: (KaiserDownsample(), image(24)),
    "KaiserDownsample, circular": lambda: (KaiserDownsample(border="circular"), image(20)),
    "FilteredActivation": lambda: (FilteredActivation(nn.functional.silu), image(20) - 0.5),
    "FilteredActivation, Kaiser": lambda: (FilteredActivation(nn.functional.silu, filter="kaiser"), image(20) - 0.5),
    "FilteredActivation, Kaiser, circular": lambda: (
        FilteredActivation(nn.functional.silu, filter="kaiser", border="circular"),
        image(20) - 0.5,
    ),
    "LiDAR backbone as encoder": lambda: (SweepEncoder(MODELS["room"], "planar"), distances()),
    "S-TREK detector C8": lambda: (Detector(DETECTOR), image(30, 1)),
    "S-TREK descriptor": lambda: (Descriptor(), torch.cat([image(32, 1), image(33, 1)[..., 1:, 1:]])),
    "PointPillars": lambda: on_sweep(ANCHORED),
    "CenterPoint on pillars": lambda: on_sweep(CENTER),
    "CenterPoint on pillars that don't know their place": lambda: on_sweep(PLACELESS),
    "SECOND": lambda: on_sweep(SECOND),
    "residual voxels": lambda: on_sweep(RESIDUAL),
    "Voxel R-CNN": lambda: on_sweep(TWO_STAGES),
    "BevBackbone": lambda: (BevBackbone(4, BevOptions((1, 1), (1, 2), (8, 8), (1, 2), (8, 8))), image(40, 4)),
    "RingReader": lambda: (RingReader(16, 16, 1.0), image(16)[0, :2]),
    "PointReader": lambda: (PointReader(7, 3), cloud()),
}

PARTS = {
    "robovision.agents.policy.Policy": "its encoder's; an action is not moved by the groups of the image",
    "robovision.agents.reinforcement.extractor.": "its encoder's and readers'",
    "robovision.agents.reinforcement.policies.": "Stable-Baselines3's, around an extractor",
    "robovision.agents.reinforcement.readers.VectorReader": "the identity",
    "robovision.agents.reinforcement.readers.SweepReader": "its encoder's",
    "robovision.agents.distributed.Shared": "batch norms over processes",
    "robovision.agents.export.Step": "a policy's, in a file",
    "robovision.agents.reinforcement.export.": "a policy's, in a file",
    "robovision.bench.": "what models are compared with or by",
    "robovision.encoders.adapters.": "inside of a ViT's blocks, token by token",
    "robovision.encoders.base.Encoder": "abstract",
    "robovision.encoders.coin.CoIn": "tested inside of a ViT",
    "robovision.encoders.coin.DeformableAttention": "CoIn's",
    "robovision.encoders.coin.Rectify": "ReLU, CoIn's",
    "robovision.encoders.dualtoken.": "DualToken-ViT's",
    "robovision.encoders.lookhere.": "LookHere's",
    "robovision.encoders.mae.MaskedAutoencoder": "a loss over a ViT",
    "robovision.encoders.nat.": "NAT's",
    "robovision.encoders.neighborhood.NeighborhoodAttention": "NAT's",
    "robovision.encoders.resnet.Bottleneck": "ResNet's",
    "robovision.encoders.swin.": "Swin's",
    "robovision.encoders.vit.": "the ViT's",
    "robovision.keypoints.onnx.Graph": "S-TREK's, in a file",
    "robovision.lidar.detectors.": "a detector's",
    "robovision.lidar.flow.estimate._Prior": "flow as a function of the place, fitted to one pair of sweeps",
    "robovision.lidar.pretraining.": "a detector without its head, and losses over it",
    "robovision.lidar.sparse.": "equal to dense convolutions, see test_lidar_sparse.py",
    "robovision.symmetry.groupconv._HarmonicConv": "abstract",
}
"""Modules, by the beginning of their names, that declare nothing, and whose symmetry it is."""


@pytest.mark.parametrize("name", CASES)
def test_every_model_keeps_its_word(name: str) -> None:
    torch.manual_seed(0)
    model, inputs, *call = CASES[name]()
    stir(model)
    assert len(assert_declared(model, inputs, *call)) > 0


def stir(model: nn.Module) -> None:
    """Give norms and biases values as after training: at their first ones, which are all alike, faults don't show."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias":
                nn.init.normal_(parameter, std=0.1)
            elif parameter.ndim == 1:
                nn.init.uniform_(parameter, 0.5, 1.5)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


def modules() -> set[type[nn.Module]]:
    """Every module of the package."""
    for found in pkgutil.walk_packages(robovision.__path__, "robovision."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)

    def below(kind: type[nn.Module]) -> Iterator[type[nn.Module]]:
        for sub in kind.__subclasses__():
            yield sub
            yield from below(sub)

    return {kind for kind in below(nn.Module) if kind.__module__.startswith("robovision.")}


def test_every_module_declares_or_is_part_of_one_that_does() -> None:
    tested = {type(make()[0]) for make in CASES.values()}
    names = {kind: f"{kind.__module__}.{kind.__qualname__}" for kind in modules()}
    untold = {name for kind, name in names.items() if kind not in tested and not name.startswith(tuple(PARTS))}
    assert not untold, "give them `symmetries()` and a line in CASES, or name them in PARTS"
    declaring = {kind for kind in names if issubclass(kind, Declares)}
    assert declaring - {Encoder} <= tested
    assert all(any(name.startswith(part) for name in names.values()) for part in PARTS)


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


def test_what_is_broken_at_the_border_only_is_not_none() -> None:
    check(nn.Identity(), image(16), Symmetry(turns("C4"), "exact"))
    with pytest.raises(AssertionError, match=r"none, but 4 cells inside the error is .*: claim interior"):
        check(convolution("zeros"), image(16), Symmetry(shifts(), "none"))


def test_rings_turn_by_whole_columns() -> None:
    rings = torch.arange(8.0).expand(1, 2, 8)
    assert Rings().act(Similarity(yaw=math.pi / 2), rings)[0, 0].tolist() == [6, 7, 0, 1, 2, 3, 4, 5]
    with pytest.raises(UsageError, match="rings of 8 columns only turn, by whole columns"):
        Rings().act(Similarity(yaw=0.1), rings)
    with pytest.raises(UsageError, match="Permutation does not act on rings"):
        Rings().act(Permutation((1, 0)), rings)
    with pytest.raises(UsageError, match="Isometry does not act on maps of the ground"):
        Ground(CENTER.grid).act(Isometry.turn(torch.ones(3), 5.0), torch.zeros(1, 1, 4, 4))


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
