"""What training and pretraining of a detector have in common: the options, without importing torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from robovision.devices import Device, Precision
from robovision.errors import UsageError
from robovision.lidar.detectors.config import DetectorConfig
from robovision.lidar.detectors.models import make_config


@dataclass(frozen=True)
class FitOptions:
    """Which model is fitted to which sweeps, and how."""

    data: tuple[Path, ...] = (Path("lidar-scenes"),)
    """Folders of sequences: KITTI's `training`, what `robovision lidar simulate` writes, or folders of such; or
    nuScenes, whose classes are to be named, as in --classes car pedestrian bicycle."""
    model: str = "small"
    """small, tiny, room, pointpillars, second, voxel-rcnn, centerpoint-pillar or centerpoint-voxel."""
    intensity: bool = True
    """Whether a model that sees the points' intensity may."""
    absolute: bool = True
    """Whether a model that sees where points lie along x and y may, beside where they lie in their pillar or voxel;
    pretraining learns more of shapes without."""
    steps: int = 2000
    """Steps of the optimiser."""
    batch: int = 4
    """Sweeps in one step, over all processes."""
    lr: float = 2e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.01
    seed: int = 0
    """Chooses initial weights and everything else that is left to chance."""
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
        self.check(("steps", "batch", "lr", "checkpoint_every"), ("threads", "loaders", "weight_decay"))
        if not self.data:
            raise UsageError("give at least one folder of sequences by --data")
        self.detector()

    def resolved(self) -> Self:
        """The same with every path absolute, and every `auto` and 0 replaced by what it means on this machine."""
        from robovision.devices import resolve_device, resolve_precision, thread_count

        device = resolve_device(self.device)
        return dataclasses.replace(
            self,
            data=tuple(path.resolve() for path in self.data),
            device=device,
            precision=resolve_precision(self.precision, device),
            threads=thread_count(self.threads),
        )

    def check(self, positive: tuple[str, ...], not_negative: tuple[str, ...] = ()) -> None:
        """Raise UsageError unless the options of these names are so."""
        for name in positive:
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} must be positive, got {getattr(self, name)}")
        for name in not_negative:
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} must not be negative, got {getattr(self, name)}")

    def detector(self) -> DetectorConfig:
        """The detector that is fitted."""
        config = make_config(self.model)
        return dataclasses.replace(
            config,
            intensity=config.intensity and self.intensity,
            absolute=config.absolute and self.absolute,
        )
