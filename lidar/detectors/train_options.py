"""What one training of a detector is: the options, without importing torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from robovision import recorded
from robovision.errors import UsageError, unknown
from robovision.lidar.detectors.augment_options import AugmentOptions
from robovision.lidar.detectors.config import DetectorConfig
from robovision.lidar.detectors.fit_options import FitOptions


@dataclass(frozen=True)
class TrainOptions(FitOptions):
    """Training of a detector on labelled sweeps."""

    classes: tuple[str, ...] = ()
    """Only these of the model's classes, or, for a centre head, any; by default the model's."""
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

    def __post_init__(self) -> None:
        self.check(("least",), ("paste",))
        if not 0 < self.fraction <= 1:
            raise UsageError(f"fraction must be above 0 and at most 1, got {self.fraction:g}")
        if self.start is not None and self.pretrained is not None:
            raise UsageError("--start gives a whole detector and --pretrained its backbone: give one of them")
        super().__post_init__()

    def resolved(self) -> Self:
        start = None if self.start is None else recorded.record(self.start)
        pretrained = None if self.pretrained is None else self.pretrained.resolve()
        return dataclasses.replace(super().resolved(), start=start, pretrained=pretrained)

    def detector(self) -> DetectorConfig:
        """The detector that is trained."""
        config = super().detector()
        return choose_classes(config, self.classes) if self.classes else config


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
