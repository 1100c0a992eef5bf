"""A detector: points to a map of the ground, features of it, and boxes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from robovision.lidar.detectors.anchor_head import AnchorHead
from robovision.lidar.detectors.bev import BevBackbone
from robovision.lidar.detectors.center_head import CenterHead
from robovision.lidar.detectors.config import DetectorConfig
from robovision.lidar.detectors.heads import Found, Head, Maps, Objects
from robovision.lidar.detectors.pillars import PillarEncoder
from robovision.types import Boxes3D, PointCloud


class Detector(nn.Module):
    """The network that a config describes, with its first weights."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = PillarEncoder(config)
        self.backbone = BevBackbone(self.encoder.channels, config.bev)
        self.head: Head = (AnchorHead if config.anchors else CenterHead)(self.backbone.channels, config)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, points: Tensor, sample: Tensor, size: int) -> Maps:
        """The head's maps of points [P, 3 or 4], in the frame that the detector was taught, of `size` sweeps."""
        maps: Maps = self.head(self.backbone(self.encoder(points, sample, size)))
        return maps

    def losses(self, points: Tensor, sample: Tensor, truth: list[Objects]) -> dict[str, Tensor]:
        """The terms of the loss of sweeps whose true objects are these."""
        return self.head.losses(self(points, sample, len(truth)), truth)

    def decode(self, maps: Maps) -> list[Found]:
        """The detections of each sweep."""
        return self.head.decode(maps)


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
    sample = torch.zeros(len(points), dtype=torch.int64, device=device)
    (found,) = detector.decode(detector(points.to(device), sample, 1))
    boxes = found.boxes.cpu().numpy()
    yaw = np.arctan2(np.sin(boxes[:, 6]), np.cos(boxes[:, 6]))
    return Boxes3D(
        boxes[:, :3] - np.array([0, 0, rise], np.float32), boxes[:, 3:6], yaw, found.labels.cpu().numpy(),
        config.classes, found.scores.float().cpu().numpy(), frame=cloud.frame,
    )  # fmt: skip


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
