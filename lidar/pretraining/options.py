"""What one pretraining of a LiDAR backbone is: the options, without importing torch."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from robovision.errors import UsageError
from robovision.lidar.detectors.augment_options import MoveOptions
from robovision.lidar.detectors.fit_options import FitOptions

Name = Literal["contrast", "rotation", "flow", "pointcontrast", "strl", "also"]


@dataclass(frozen=True)
class MotionOptions(MoveOptions):
    """How far sweeps are moved, uniformly up to these numbers; turned only where an objective turns them."""

    turn: float = math.pi / 2
    shift: float = 0.2
    """Metres along each axis, either way."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.shift >= 0 or self.turn == 0:
            raise UsageError(f"shift must not be negative and turn positive, got {self}")


@dataclass(frozen=True)
class Weights:
    """What each objective's loss is multiplied by; the first three as in the paper."""

    contrast: float = 0.01
    rotation: float = 1.0
    flow: float = 300.0
    pointcontrast: float = 0.01
    strl: float = 1.0
    also: float = 1.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not value > 0:
                raise UsageError(
                    f"weights.{name} must be positive, got {value:g}; leave it out of --objectives instead"
                )


@dataclass(frozen=True)
class PretrainOptions(FitOptions):
    """Pretraining of what a detector has before its head."""

    objectives: tuple[Name, ...] = ("contrast", "rotation", "flow")
    """contrast, rotation and flow are the method's; pointcontrast, strl and also are baselines."""
    flow: Literal["truth", "estimated"] = "truth"
    """Where the objective flow has it from: beside the sweeps, as the simulator writes it, or estimated of each pair of
    sweeps and kept in $ROBOVISION_CACHE/flow."""
    weights: Weights = Weights()
    motion: MotionOptions = MotionOptions()
    temperature: float = 0.07
    """Of the contrast between points."""
    points: int = 2048
    """Points of a sweep that are contrasted, or asked for their occupancy."""
    width: int = 64
    """Channels of what is compared."""
    pair: bool = False
    """Whether the rotation is told from the sweep before and after it, instead of after alone."""
    ema: float = 0.999
    """Share of the target's weights that stays in a step."""
    absolute: bool = False
    """Whether a model that sees where points lie along x and y may. By default not: from places alone the objectives
    can be answered without knowing any shape. `robovision lidar train --pretrained` then trains a detector without."""
    lr: float = 1e-3
    """Peak learning rate of AdamW."""

    def __post_init__(self) -> None:
        self.check(("temperature", "points", "width"))
        if not 0 <= self.ema < 1:
            raise UsageError(f"ema must be at least 0 and below 1, got {self.ema:g}")
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise UsageError(f"name at least one objective, each once, got {', '.join(self.objectives) or 'none'}")
        super().__post_init__()
