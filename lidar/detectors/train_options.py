"""What one training of a detector is: the options, without importing torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from robovision.devices import Device, Precision
from robovision.errors import UsageError, unknown
from robovision.lidar.detectors.augment_options import AugmentOptions
from robovision.lidar.detectors.config import DetectorConfig
from robovision.lidar.detectors.models import make_config


@dataclass(frozen=True)
class TrainOptions:
    """Training of a detector on labelled sweeps."""

    data: tuple[Path, ...] = (Path("lidar-scenes"),)
    """Folders of sequences: KITTI's `training`, what `robovision lidar simulate` writes, or folders of such."""
    model: str = "small"
    """small, tiny, room, pointpillars, second, voxel-rcnn, centerpoint-pillar or centerpoint-voxel."""
    classes: tuple[str, ...] = ()
    """Only these of the model's classes, or, for a centre head, any; by default the model's."""
    intensity: bool = True
    """Whether a model that sees the points' intensity may."""
    view: bool = False
    """Only what the camera sees: where KITTI's real frames have labels."""
    fraction: float = 1.0
    """Share of the labelled sweeps to learn from, as whole sequences."""
    paste: int = 0
    """Objects of each class from other sweeps that are put into each sweep, at most."""
    least: int = 5
    """Points that an object must have to be learnt."""
    augment: AugmentOptions = AugmentOptions()
    start: Path | None = None
    """A detector of this library to start from, of the same model and classes."""
    pretrained: Path | None = None
    """A run of `robovision pretrain lidar`, or its backbone.safetensors, to start from, of the same model."""
    steps: int = 2000
    """Steps of the optimiser."""
    batch: int = 4
    """Sweeps in one step, over all processes."""
    lr: float = 2e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.01
    seed: int = 0
    """Chooses initial weights, sequences, order and augmentation."""
    checkpoint_every: int = 100
    """Steps between two checkpoints."""
    device: Device = "auto"
    precision: Precision = "auto"
    """Of the convolutions; auto: bfloat16 where the device multiplies it natively."""
    threads: int = 0
    """Threads of the processor; 0: as many as there are cores. They decide the last bits."""
    loaders: int = 0
    """Processes that read ahead; 0: none."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "lr", "checkpoint_every", "least"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("threads", "loaders", "paste", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 < self.fraction <= 1:
            raise UsageError(f"fraction must be above 0 and at most 1, got {self.fraction:g}")
        if self.start is not None and self.pretrained is not None:
            raise UsageError("--start gives a whole detector and --pretrained its backbone: give one of them")
        if not self.data:
            raise UsageError("give at least one folder of sequences by --data")
        self.detector()

    def detector(self) -> DetectorConfig:
        """The detector that is trained."""
        config = make_config(self.model)
        if self.classes:
            config = choose_classes(config, self.classes)
        return dataclasses.replace(config, intensity=config.intensity and self.intensity)


def choose_classes(config: DetectorConfig, classes: tuple[str, ...]) -> DetectorConfig:
    """The detector of only these classes, with their anchors; a centre head may be given any.

    Raises:
        UsageError: if a class has no anchor.
    """
    merged = tuple(pair for pair in config.merged if pair[1] in classes and pair[0] not in classes)
    if not config.anchors:
        return dataclasses.replace(config, classes=classes, merged=merged)
    by_name = dict(zip(config.classes, config.anchors, strict=True))
    for name in classes:
        if name not in by_name:
            raise unknown("class with an anchor", name, by_name)
    anchors = tuple(by_name[name] for name in classes)
    return dataclasses.replace(config, classes=classes, anchors=anchors, merged=merged)
