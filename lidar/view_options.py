"""What `robovision lidar view` is told."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robovision.errors import UsageError

Colouring = Literal["height", "intensity"]


@dataclass(frozen=True)
class ViewOptions:
    """Where boxes come from, files or folders with a file of each cloud's name, and what is shown."""

    truth: Path | None = None
    """True boxes; by default those that are found where the dataset has them."""
    detections: Path | None = None
    """Detections, shown beside the truth."""
    calibration: Path | None = None
    """KITTI's calibration, a file or folder; by default that in `calib` beside clouds or labels."""
    score: float = -math.inf
    """The least score of the detections that are shown; by default all."""
    color: Colouring = "height"
    """Colour the points by height above the ground, or by the intensity of the returned light."""
    range: float = 0.0
    """Metres around the sensor that are shown; 0: all there is within 75."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.range) and self.range >= 0):
            raise UsageError(f"range must be a positive number of metres, or 0 for all, got {self.range}")
        if math.isnan(self.score):
            raise UsageError("score must be a number, got nan")
