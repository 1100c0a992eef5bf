"""A detector: points to a map of the ground, features of it, and boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from robovision.lidar.detectors.anchor_head import AnchorHead
from robovision.lidar.detectors.bev import BevBackbone
from robovision.lidar.detectors.center_head import CenterHead
from robovision.lidar.detectors.config import DetectorConfig
from robovision.lidar.detectors.ground import Ground, Sweep
from robovision.lidar.detectors.heads import Found, Head, Maps, Objects
from robovision.lidar.detectors.pillars import PillarEncoder
from robovision.lidar.detectors.roi_head import RoiHead
from robovision.lidar.detectors.sparse_backbones import VoxelEncoder
from robovision.lidar.sparse import SparseMap
from robovision.symmetry.claims import Symmetry
from robovision.symmetry.groups import CLOUD_SCALE, GROUND, MIRROR, PERMUTATION, YAW
from robovision.types import Boxes3D, PointCloud

NEAR = 25.0
"""Metres to each side within which the ground is looked for."""
PROPOSED_OVERLAP = 0.8
"""Of two proposals that overlap by more, the better one stays while the second stage is taught."""
STEP = 0.1
"""Metres by which heights are told apart there."""


Stages = tuple[SparseMap, ...]


@dataclass(frozen=True, eq=False)
class Seen:
    """The head's maps of sweeps and, if there is a second stage, the sparse backbone's features of each stage."""

    maps: Maps
    stages: Stages = ()


class Detector(nn.Module):
    """The network that a config describes, with its first weights."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = (PillarEncoder if config.encoder == "pillars" else VoxelEncoder)(config)
        self.backbone = BevBackbone(self.encoder.channels, config.bev)
        self.head: Head = (AnchorHead if config.anchors else CenterHead)(self.backbone.channels, config)
        self.roi_head = None if config.roi is None else RoiHead(config, config.roi)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def symmetries(self) -> tuple[Symmetry, ...]:
        """The points' order is nothing to it. If it sees absolute coordinates, nothing else is kept; without them,
        shifts by the cells of its coarsest map are, which is declared of pillars.

        Of one sweep's points alone: of the function `points -> self(points, zeros, 1)`.
        """
        config, ground = self.config, Ground(self.config.grid)
        shift = config.grid.voxel[0] * (config.stride if config.absolute else 0.5)
        kept = [Symmetry(PERMUTATION, "exact", Sweep(), ground, part=_scores)]
        if config.encoder == "pillars" and not config.absolute:
            coarse = GROUND.of(config.grid.voxel[0] * self.backbone.coarsest)
            margin = self.backbone.reach + self.head.reach
            kept.append(Symmetry(coarse, "interior", Sweep(), ground, margin, part=_scores))
        broken = YAW.of(90.0), MIRROR, CLOUD_SCALE.of(1.1), GROUND.of(shift)
        lost = (Symmetry(group, "none", Sweep(), ground, part=_scores) for group in broken)
        return *kept, *lost

    def features(self, points: Tensor, sample: Tensor, size: int) -> tuple[Tensor, Stages]:
        """What the head reads, [B, C, H, W], of points [P, 3 or 4] of `size` sweeps; and what a second stage does."""
        if self.roi_head is None:
            return self.backbone(self.encoder(points, sample, size)), ()
        assert isinstance(self.encoder, VoxelEncoder)
        stages = self.encoder.stages(points, sample, size)
        return self.backbone(stages[-1].dense().flatten(1, 2)), tuple(stages)

    def forward(self, points: Tensor, sample: Tensor, size: int) -> Seen:
        """What is seen of points [P, 3 or 4], in the frame that the detector was taught, of `size` sweeps."""
        features, stages = self.features(points, sample, size)
        return Seen(self.head(features), stages)

    def losses(self, seen: Seen, truth: list[Objects]) -> dict[str, Tensor]:
        """The terms of the loss of sweeps whose true objects are these."""
        terms = self.head.losses(seen.maps, truth)
        if self.roi_head is None:
            return terms
        options = self.roi_head.options
        with torch.no_grad():
            proposals = self._propose(seen, PROPOSED_OVERLAP, options.proposed)
        return terms | self.roi_head.losses(seen.stages, proposals, truth)

    def decode(self, seen: Seen) -> list[Found]:
        """The detections of each sweep."""
        if self.roi_head is None:
            return self.head.decode(seen.maps)
        options = self.roi_head.options
        return self.roi_head.refine(seen.stages, self._propose(seen, options.overlap, options.proposals))

    def _propose(self, seen: Seen, overlap: float, most: int) -> list[Found]:
        assert isinstance(self.head, AnchorHead)
        return self.head.read(seen.maps, 0.0, overlap, most)


def _scores(seen: Seen) -> Tensor:
    return seen.maps["cls" if "cls" in seen.maps else "hm"]


def ground_level(cloud: PointCloud) -> float:
    """The height, metres, at which the ground near the sensor most likely is; 0 for a cloud without points.

    It is where most of the lowest points are, of squares of a metre within 25 m.
    """
    xyz = cloud.xyz[np.abs(cloud.xyz[:, :2]).max(axis=1, initial=0) <= NEAR]
    if not len(xyz):
        return 0.0
    squares = (xyz[:, :2] + NEAR).astype(np.int64) @ np.array([2 * int(NEAR) + 1, 1])
    lowest = np.full(squares.max() + 1, np.inf, np.float32)
    np.minimum.at(lowest, squares, xyz[:, 2])
    lowest = lowest[np.isfinite(lowest)]
    steps = np.round(lowest / STEP).astype(np.int64)
    most = np.convolve(np.bincount(steps - steps.min()), np.ones(3, np.int64), mode="same").argmax() + steps.min()
    return float(np.median(lowest[np.abs(steps - most) <= 1]))


@torch.no_grad()
def detect(detector: Detector, cloud: PointCloud, ground: float | None = None) -> Boxes3D:
    """What a detector finds in a cloud, best first, in the cloud's frame.

    Args:
        detector: in evaluation mode.
        cloud: in the frame of a LiDAR that stands upright.
        ground: height of the ground in the cloud's frame, metres; None if it is where the detector was taught it.

    Raises:
        ValueError: if the detector sees intensity and the cloud has none.
    """
    config = detector.config
    rise = 0.0 if ground is None else config.ground - ground
    device = next(detector.parameters()).device
    points = features(cloud, config.intensity)
    points[:, 2] += rise
    points = points[config.grid.holds(points.numpy()[:, :3])]
    if not len(points):
        return _nothing(config, cloud)
    sample = torch.zeros(len(points), dtype=torch.int64, device=device)
    (found,) = detector.decode(detector(points.to(device), sample, 1))
    boxes = found.boxes.cpu().numpy()
    yaw = np.arctan2(np.sin(boxes[:, 6]), np.cos(boxes[:, 6]))
    return Boxes3D(
        boxes[:, :3] - np.array([0, 0, rise], np.float32), boxes[:, 3:6], yaw, found.labels.cpu().numpy(),
        config.classes, found.scores.float().cpu().numpy(), frame=cloud.frame,
    )  # fmt: skip


def _nothing(config: DetectorConfig, cloud: PointCloud) -> Boxes3D:
    none = np.zeros((0, 3))
    return Boxes3D(none, none, none[:, 0], none[:, 0], config.classes, none[:, 0], frame=cloud.frame)


def features(cloud: PointCloud, intensity: bool) -> Tensor:
    """The points as a detector sees them, float32 [P, 3 or 4].

    Raises:
        ValueError: if intensity is wanted and the cloud has none.
    """
    if not intensity:
        return torch.from_numpy(cloud.xyz.copy())
    if cloud.intensity is None:
        raise ValueError("this detector sees intensity, and the point cloud has none")
    return torch.from_numpy(np.concatenate([cloud.xyz, cloud.intensity[:, None]], axis=1))
