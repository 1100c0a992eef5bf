"""What is pretrained, a detector's encoder and backbone, and what is put on it: projections and a target."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision.lidar.detectors.config import DetectorConfig, Grid
from robovision.lidar.detectors.detector import Detector
from robovision.lidar.pretraining.views import View


class Trunk(nn.Module):
    """A detector without its head; its tensors have the names that they have in the detector."""

    def __init__(self, config: DetectorConfig, half: bool = False) -> None:
        super().__init__()
        detector = Detector(config)
        self.config, self._half = config, half
        self.encoder, self.backbone = detector.encoder, detector.backbone
        self.channels = detector.backbone.channels

    def forward(self, view: View) -> Tensor:
        """The features float32 [B, C, H, W] of a view's sweeps; `half`: the convolutions in bfloat16."""
        with torch.autocast(view.points.device.type, torch.bfloat16, enabled=self._half):
            features = self.features(view.points, view.sample, len(view))
        return features.float()

    def features(self, points: Tensor, sample: Tensor, size: int) -> Tensor:
        """The features [B, C, H, W] of points [P, 3 or 4] of `size` sweeps."""
        features: Tensor = self.backbone(self.encoder(points, sample, size))
        return features


class Target(nn.Module):
    """A moving average of modules, which gradients do not reach (BYOL, Grill et al., 2020)."""

    def __init__(self, modules: Sequence[nn.Module], share: float) -> None:
        super().__init__()
        self.averages = nn.ModuleList(copy.deepcopy(module) for module in modules).requires_grad_(False)
        self.share = share

    def __getitem__(self, number: int) -> nn.Module:
        return self.averages[number]

    @torch.no_grad()
    def follow(self, modules: Sequence[nn.Module]) -> None:
        """Move the average towards the modules; statistics of normalisations are its own."""
        for mine, theirs in zip(self.averages, modules, strict=True):
            for average, value in zip(mine.parameters(), theirs.parameters(), strict=True):
                average.lerp_(value, 1 - self.share)


def projector(width: int, channels: int) -> nn.Sequential:
    """Two convolutions of one cell, [B, width, H, W] to [B, channels, H, W]."""
    return nn.Sequential(
        nn.Conv2d(width, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 1),
    )


def vector_projector(width: int, channels: int, out: int) -> nn.Sequential:
    """Two layers over vectors, [B, width] to [B, out]."""
    return nn.Sequential(nn.Linear(width, channels), nn.ReLU(), nn.Linear(channels, out))


def at_points(features: Tensor, xyz: Tensor, sample: Tensor, grid: Grid) -> Tensor:
    """The features [P, C] of maps [B, C, H, W] under places [P, 3], between cells bilinear."""
    low = xyz.new_tensor(grid.low[:2])
    at = (xyz[:, :2] - low) / (xyz.new_tensor(grid.high[:2]) - low) * 2 - 1
    found = features.new_zeros(len(xyz), features.shape[1])
    for number, single in enumerate(features):
        mine = (sample == number).nonzero()[:, 0]
        read = functional.grid_sample(single[None], at[mine][None, None], "bilinear", "border", align_corners=False)
        found = found.index_copy(0, mine, read[0, :, 0].T)
    return found


def cells_of(xyz: Tensor, sample: Tensor, grid: Grid, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Which places [P, 3] lie over a map of a shape, bool [P], and the number of the cell [.] of each that does."""
    height, width = shape
    low = xyz.new_tensor(grid.low[:2])
    cell = ((xyz[:, :2] - low) / (xyz.new_tensor(grid.high[:2]) - low) * xyz.new_tensor([width, height])).floor()
    over = ((cell >= 0) & (cell < cell.new_tensor([width, height]))).all(dim=1)
    x, y = cell[over].long().unbind(dim=1)
    return over, (sample[over] * height + y) * width + x


def inside(xyz: Tensor, grid: Grid) -> Tensor:
    """Which places [P, 3] lie in a grid, bool [P]."""
    return ((xyz >= xyz.new_tensor(grid.low)) & (xyz < xyz.new_tensor(grid.high))).all(dim=1)
