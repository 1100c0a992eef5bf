"""How far scenes are moved in training, without importing torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from robovision.errors import UsageError


@dataclass(frozen=True)
class MoveOptions:
    """How far sweeps are turned and scaled, and how often they are flipped."""

    flip: float = 0.5
    """Chance that left and right are swapped."""
    turn: float = math.pi / 4
    """Radians up to which they are turned, either way."""
    scale: float = 0.05
    """Share of the size by which they are scaled at most, up or down."""

    def __post_init__(self) -> None:
        if not 0 <= self.flip <= 1 or not 0 <= self.scale < 1 or not self.turn >= 0:
            raise UsageError(f"flip and scale must be shares in 0..1 and turn not negative, got {self}")


@dataclass(frozen=True)
class AugmentOptions(MoveOptions):
    """How far labelled scenes are moved, and what else is done to them."""

    shift: tuple[float, float, float] = (0.2, 0.2, 0.2)
    """Standard deviation in metres along x, y and z."""
    thin: float = 0.0
    """Share of the points that is taken away at most."""
    hedges: int = 0
    """Hedges, fences and walls that are put into a sweep at most; simulated streets have none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hedges < 0 or not 0 <= self.thin < 1:
            raise UsageError(f"hedges must not be negative and thin be a share in 0..1, got {self}")
