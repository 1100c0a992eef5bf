"""What reads the parts of an observation that are no images: vectors, LiDAR rings, sets of points."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from robovision.agents.reinforcement.config import LidarOptions
from robovision.errors import UsageError
from robovision.lidar.detectors.models import make_config
from robovision.lidar.detectors.sweep_encoder import SweepEncoder
from robovision.symmetry.claims import Symmetry
from robovision.symmetry.data import Items, Kind, Same
from robovision.symmetry.elements import Element
from robovision.symmetry.groups import PERMUTATION, YAW
from robovision.symmetry.space import Similarity

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


@dataclass(frozen=True)
class Rings(Kind):
    """Distances [B, rings, columns] all around a robot: when the scene turns by whole columns, they change places."""

    def act(self, element: Element, data: Tensor) -> Tensor:
        if not isinstance(element, Similarity):
            raise element.refuses("rings")
        steps = element.yaw / (2 * math.pi) * data.shape[2]
        if element != Similarity(yaw=element.yaw) or abs(steps - round(steps)) > 1e-6:
            raise UsageError(f"rings of {data.shape[2]} columns only turn, by whole columns, got {element}")
        return data.roll(round(steps), 2)


class RingReader(nn.Module):
    """Distances of a LiDAR, [B, rings, columns] in metres, as a vector.

    Convolutions along the columns wrap around, so that turning the robot turns the map, from which a linear layer reads
    where things are; what is near counts most.

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

    def symmetries(self) -> tuple[Symmetry, ...]:
        """None, on purpose: a vector that stayed the same when the robot turns could not say where to go."""
        return (Symmetry(YAW.of(90.0, 180.0), "none", Rings(), Same()),)

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

    def symmetries(self) -> tuple[Symmetry, ...]:
        return (Symmetry(PERMUTATION, "exact", Items(), Same()),)

    def forward(self, points: Tensor) -> Tensor:
        absent = (points == 0).all(-1, keepdim=True)
        made = self.each(points).masked_fill(absent, -torch.inf).amax(1)
        return cast(Tensor, self.all(made.masked_fill(absent.all(1), 0.0)))
