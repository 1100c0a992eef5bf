"""What reads the parts of an observation that are no images: vectors, LiDAR rings, sets of points."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from robovision.agents.reinforcement.config import LidarOptions
from robovision.lidar.detectors.models import make_config
from robovision.lidar.detectors.sweep_encoder import SweepEncoder

WIDTH = 64
"""Numbers that are made of a LiDAR's rings or of a set of points."""
CHANNELS = 16
"""Numbers that are read of each token."""


class VectorReader(nn.Module):
    """A vector [B, D] as it is; `VecNormalize` brings it to unit scale."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.width = count

    def forward(self, vectors: Tensor) -> Tensor:
        return vectors


class RingReader(nn.Module):
    """Distances of a LiDAR, [B, rings, columns] in metres, as a vector.

    Convolutions along the columns wrap around, so that turning the robot turns the map; what is near counts most.

    Args:
        rings, columns: of the LiDAR.
        reach: its farthest distance in metres.
    """

    def __init__(self, rings: int, columns: int, reach: float) -> None:
        super().__init__()
        self.width = WIDTH
        self.reach = reach
        kernel, padding = (5, 2) if columns >= 8 else (1, 0)
        self.layers = nn.Sequential(
            nn.Conv1d(rings, 32, kernel, 2, padding, padding_mode="circular"),
            nn.ReLU(),
            nn.Conv1d(32, 32, kernel, 2, padding, padding_mode="circular"),
            nn.ReLU(),
            nn.Flatten(),
            nn.LazyLinear(WIDTH),
            nn.LayerNorm(WIDTH),
            nn.Tanh(),
        )
        with torch.no_grad():
            self.layers(torch.zeros(1, rings, columns))

    def forward(self, distances: Tensor) -> Tensor:
        return cast(Tensor, self.layers(1 - distances / self.reach))


class SweepReader(nn.Module):
    """Distances of a LiDAR, [B, rings, columns] in metres, as a vector, by a detector's backbone over the ground.

    A few numbers are read of each token. Batch norms use the statistics that they hold, in training too.

    Args:
        options: which backbone, and whether it learns.
        sensor: name of the LiDAR.
    """

    def __init__(self, options: LidarOptions, sensor: str) -> None:
        super().__init__()
        self.width = WIDTH
        self.encoder = SweepEncoder(make_config(options.model), sensor)
        self.encoder.requires_grad_(not options.frozen).eval()
        rings, columns = self.encoder.rays.shape[:2]
        rows, places = self.encoder.grid(rings, columns)
        self.readout = nn.Linear(self.encoder.width, CHANNELS)
        self.all = nn.Sequential(nn.Linear(CHANNELS * rows * places, WIDTH), nn.LayerNorm(WIDTH), nn.Tanh())

    def train(self, mode: bool = True) -> SweepReader:
        """As in torch, but the encoder's batch norms keep the statistics that they hold."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, distances: Tensor) -> Tensor:
        return cast(Tensor, self.all(self.readout(self.encoder(distances).tokens).flatten(1)))


class PointReader(nn.Module):
    """A set of points [B, N, D] as a vector that does not depend on their order (Qi et al., CVPR 2017, PointNet).

    Rows of zeros are no points; a set without points gives the same vector as one of zeros alone.
    """

    def __init__(self, count: int, channels: int) -> None:
        super().__init__()
        self.width = WIDTH
        self.each = nn.Sequential(nn.Linear(channels, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
        self.all = nn.Sequential(nn.LayerNorm(WIDTH), nn.Tanh())

    def forward(self, points: Tensor) -> Tensor:
        absent = (points == 0).all(-1, keepdim=True)
        made = self.each(points).masked_fill(absent, -torch.inf).amax(1)
        return cast(Tensor, self.all(made.masked_fill(absent.all(1), 0.0)))
