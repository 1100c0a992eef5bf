"""Detectors by name, in the sizes in which they were published, without importing torch.

Sources: PointPillars (Lang et al., 2019), SECOND (Yan et al., 2018), Voxel R-CNN
(Deng et al., 2021) and CenterPoint (Yin et al., 2021), with the numbers
of OpenPCDet's settings: KITTI's for the first three, Waymo's for the last. small, tiny and room are this library's own:
around a car, before one, and around a robot in a room.
"""

from __future__ import annotations

from robovision.errors import unknown
from robovision.lidar.detectors.config import Anchor, BevOptions, CenterOptions, DetectorConfig, Grid, RoiOptions

KITTI = ("Car", "Pedestrian", "Cyclist")
WAYMO = ("Vehicle", "Pedestrian", "Cyclist")
ANCHORS = (
    Anchor((3.9, 1.6, 1.56), -1.78, 0.6, 0.45),
    Anchor((0.8, 0.6, 1.73), -0.6, 0.5, 0.35),
    Anchor((1.76, 0.6, 1.73), -0.6, 0.5, 0.35),
)

MODELS: dict[str, DetectorConfig] = {
    "small": DetectorConfig(
        ("Car", "Truck", "Pedestrian", "Cyclist"),
        Grid((-40.96, -40.96, -3.0), (40.96, 40.96, 2.0), (0.32, 0.32, 5.0)),
        BevOptions((3, 4, 4), (2, 2, 2), (32, 64, 128), (1, 2, 4), (64, 64, 64)),
        pillars=(32,),
        padding=0,
        intensity=False,
        center=CenterOptions(48, bias=False, axis=True),
        overlap=0.2,
        most=200,
        merged=(("Van", "Car"), ("Person_sitting", "Pedestrian")),
    ),
    "tiny": DetectorConfig(
        KITTI,
        Grid((0.0, -20.48, -3.0), (40.96, 20.48, 1.0), (0.32, 0.32, 4.0)),
        BevOptions((1, 2, 2), (2, 2, 2), (16, 32, 64), (1, 2, 4), (16, 16, 16)),
        pillars=(16,),
        padding=0,
        intensity=False,
        absolute=False,
        center=CenterOptions(32, bias=False),
        overlap=0.2,
        most=200,
        merged=(("Van", "Car"), ("Person_sitting", "Pedestrian")),
    ),
    "room": DetectorConfig(
        ("Pedestrian",),
        Grid((-4.8, -4.8, -1.0), (4.8, 4.8, 1.0), (0.4, 0.4, 2.0)),
        BevOptions((1, 1), (2, 2), (16, 32), (1, 2), (16, 16)),
        pillars=(16,),
        padding=0,
        intensity=False,
        center=CenterOptions(32, bias=False),
        overlap=0.2,
        most=50,
        ground=-0.28,
    ),
    "pointpillars": DetectorConfig(
        KITTI,
        Grid((0.0, -39.68, -3.0), (69.12, 39.68, 1.0), (0.16, 0.16, 4.0)),
        BevOptions((3, 5, 5), (2, 2, 2), (64, 128, 256), (1, 2, 4), (128, 128, 128)),
        anchors=ANCHORS,
    ),
    "second": DetectorConfig(
        KITTI,
        Grid((0.0, -40.0, -3.0), (70.4, 40.0, 1.0), (0.05, 0.05, 0.1)),
        BevOptions((5, 5), (1, 2), (128, 256), (1, 2), (256, 256)),
        encoder="second",
        anchors=ANCHORS,
    ),
    "voxel-rcnn": DetectorConfig(
        ("Car",),
        Grid((0.0, -40.0, -3.0), (70.4, 40.0, 1.0), (0.05, 0.05, 0.1)),
        BevOptions((5, 5), (1, 2), (64, 128), (1, 2), (128, 128)),
        encoder="second",
        anchors=ANCHORS[:1],
        roi=RoiOptions(),
        score=0.3,
        overlap=0.1,
    ),
    "centerpoint-pillar": DetectorConfig(
        WAYMO,
        Grid((-74.88, -74.88, -2.0), (74.88, 74.88, 4.0), (0.32, 0.32, 6.0)),
        BevOptions((3, 5, 5), (1, 2, 2), (64, 128, 256), (1, 2, 4), (128, 128, 128)),
        pillars=(64, 64),
        padding=20,
        overlap=0.7,
    ),
    "centerpoint-voxel": DetectorConfig(
        WAYMO,
        Grid((-75.2, -75.2, -2.0), (75.2, 75.2, 4.0), (0.1, 0.1, 0.15)),
        BevOptions((5, 5), (1, 2), (128, 256), (1, 2), (256, 256)),
        encoder="residual",
        overlap=0.7,
    ),
}


def make_config(name: str) -> DetectorConfig:
    """The detector of this name.

    Raises:
        UsageError: for an unknown name, with the nearest ones.
    """
    if name not in MODELS:
        raise unknown("detector", name, MODELS)
    return MODELS[name]
