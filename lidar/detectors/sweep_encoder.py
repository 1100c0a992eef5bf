"""A detector's backbone as an encoder: distances that a LiDAR measures in, tokens on the ground and a vector out.

It is what `robovision pretrain lidar` pretrains and `robovision lidar train` puts a head on, so that an agent can see
with the same weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robovision.encoders.base import Encoder, Features
from robovision.errors import UsageError
from robovision.lidar.detectors.config import DetectorConfig
from robovision.lidar.pretraining.network import Trunk
from robovision.lidar.sensors import make_sensor
from robovision.symmetry import claims
from robovision.symmetry.claims import Symmetry
from robovision.symmetry.data import Kind, Tokens
from robovision.symmetry.elements import Element
from robovision.symmetry.groups import turns
from robovision.symmetry.plane import Motion


class SweepEncoder(Encoder):
    """One token for each cell of the ground that a detector's backbone has features of.

    Convention:
        sweeps: float [B, rings, columns], metres, as the observation `lidar` of an environment; the sensor's farthest
            distance where nothing comes back. In the place of the contract's images.
        tokens: [B, rows * columns, D], from the grid's low corner, x rising along a row, y from row to row.
        pooled: [B, D], the mean token.

    Args:
        config: the detector.
        sensor: name of the LiDAR, which says where its rays go.

    Raises:
        UsageError: for an unknown sensor, and for a detector that sees intensity, which distances do not have.
    """

    rays: Tensor

    def __init__(self, config: DetectorConfig, sensor: str) -> None:
        if config.intensity:
            raise UsageError("this detector sees intensity, and distances have none: choose a model without")
        trunk = Trunk(config)
        super().__init__(trunk.channels)
        self.trunk, self.config = trunk, config
        made = make_sensor(sensor)
        self.reach = made.reach[1]
        shape = len(made.azimuths), len(made.elevations), 3
        directions = torch.from_numpy(made.directions()).view(shape).transpose(0, 1).contiguous()
        self.register_buffer("rays", directions, persistent=False)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the tokens, for sweeps of so many rings and columns.

        Raises:
            ValueError: if the sensor has others.
        """
        if (height, width) != self.rays.shape[:2]:
            rings, columns = self.rays.shape[:2]
            raise ValueError(f"this sensor has {rings} rings of {columns} columns, got sweeps of {height} x {width}")
        _, rows, columns = self.config.grid.shape
        return rows // self.config.stride, columns // self.config.stride

    def symmetries(self) -> tuple[Symmetry, ...]:
        """None: it sees where points are. Pretraining and augmentation teach what it has of turns and flips."""
        return (Symmetry(turns("D4"), "none", Rings(self.rays), Tokens(1.0), part=claims.tokens),)

    def normalise(self, images: Tensor) -> Tensor:
        """The sweeps, checked.

        Raises:
            ValueError: unless they are [B, rings, columns] of this sensor, floating point, and without NaN.
        """
        if images.ndim != 3 or not images.is_floating_point():
            raise ValueError(
                f"sweeps must be floating point [B, rings, columns], got {images.dtype} {list(images.shape)}"
            )
        self.grid(images.shape[1], images.shape[2])
        if images.isnan().any():
            raise ValueError(f"sweeps hold NaN: {int(images.isnan().sum())} of {images.numel()} distances")
        return images

    def encode(self, images: Tensor) -> Features:
        sample, ring, column = (images < self.reach).nonzero().unbind(dim=1)
        points = images[sample, ring, column][:, None] * self.rays[ring, column]
        features = self.trunk.features(points, sample, len(images))
        tokens = features.flatten(2).transpose(1, 2)
        return Features(tokens, tokens.mean(dim=1))


@dataclass(frozen=True, eq=False)
class Rings(Kind):
    """Sweeps [B, rings, columns] of a LiDAR whose rays [rings, columns, 3] a turn or flip takes to one another."""

    rays: Tensor

    def act(self, element: Element, data: Tensor) -> Tensor:
        if not isinstance(element, Motion):
            raise element.refuses("sweeps")
        ground = self.rays[0, :, :2].double().flip(-1)  # y, x
        found = torch.cdist(element.move(ground), ground).min(dim=1)
        if float(found.values.max()) > 1e-4:
            raise UsageError(f"{element} takes the rays of this LiDAR to none of its own")
        moved = torch.empty_like(data)
        moved[..., found.indices] = data
        return moved
