"""What `robovision lidar simulate` is told."""

from __future__ import annotations

from dataclasses import dataclass

from robovision.errors import UsageError
from robovision.lidar.sensors import make_sensor


@dataclass(frozen=True)
class SimulateOptions:
    """What is simulated."""

    scenes: int = 10
    """How many sequences."""
    frames: int = 20
    """Frames a sequence."""
    sensor: str = "hdl-64e"
    """hdl-64e, hdl-32e, vlp-16, vlp-32c, os1-64, os1-128, an OS1's mode such as os1-64-2048x10, solid-state, planar,
    mini-16, or a file of your own, FILE.json."""
    seed: int = 0
    """Chooses the scenes."""

    def __post_init__(self) -> None:
        make_sensor(self.sensor)
        for name, value, least in (("scenes", self.scenes, 1), ("frames", self.frames, 1), ("seed", self.seed, 0)):
            if value < least:
                raise UsageError(f"--{name} must be at least {least}, got {value}")
