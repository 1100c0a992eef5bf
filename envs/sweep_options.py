"""Which sweeps of a robot's LiDAR to record, without importing a simulator."""

from __future__ import annotations

from dataclasses import dataclass

from robovision.errors import UsageError


@dataclass(frozen=True)
class SweepOptions:
    """Which sweeps to record."""

    task: str = "lidar/navigate"
    """A task with an expert."""
    lidar: str = "default"
    """The LiDAR and where it is, as `--env.lidar` of `robovision rl`; by default the task's own."""
    episodes: int = 20
    """Sequences, each an episode of its own."""
    frames: int = 40
    """Sweeps of each, at most."""
    noise: float = 0.5
    """Standard deviation of the noise on the expert's actions, so that more is seen than the way to the goal."""
    seed: int = 0
    """Chooses episodes and noise."""

    def __post_init__(self) -> None:
        for name in ("episodes", "frames"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.noise <= 1:
            raise UsageError(f"noise must lie in 0..1 (actions lie in -1..1), got {self.noise}")
