"""What S-TREK's detector is trained for: points that the other picture has, and an orientation that turns along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision.keypoints.detector import Detection, Detector
from robovision.keypoints.pairs import Pairs, transform, transform_directions
from robovision.keypoints.places import misplacement
from robovision.keypoints.sampling import Draws, Rewards, draw, repeatability_reward
from robovision.keypoints.strek_config import SamplingOptions


class Objective(Protocol):
    """A network, and the loss of a step."""

    @property
    def module(self) -> nn.Module: ...

    def __call__(self, pairs: Pairs, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The loss, and numbers for the curve."""
        ...


@dataclass(frozen=True)
class Points:
    """Points [B, N, 2] that were drawn in one picture, in pixels, and which of them exist."""

    xy: Tensor
    drawn: Tensor

    @classmethod
    def of(cls, draws: Draws, columns: int, margin: int) -> Points:
        """Where the cells of a map lie in the picture."""
        xy = torch.stack([draws.cells % columns, draws.cells // columns], -1).float() + margin
        return cls(xy, draws.drawn)

    @classmethod
    def all_of(cls, maps: Tensor, margin: int) -> Points:
        """Every pixel of maps [B, H, W]."""
        y, x = torch.meshgrid(*(torch.arange(n).float() for n in maps.shape[1:]), indexing="ij")
        xy = (torch.stack([x, y], -1).flatten(0, 1) + margin).expand(len(maps), -1, -1)
        return cls(xy, torch.ones(xy.shape[:2], dtype=torch.bool))


def judge(
    points: Points, others: Points, homographies: Tensor, size: int, margin: int, options: SamplingOptions
) -> Rewards:
    """Rewards for points of a picture, against those of the other one."""
    warped = transform(points.xy, homographies)
    inside = ((warped >= margin) & (warped <= size - 1 - margin)).all(-1) & points.drawn
    return repeatability_reward(warped, inside, others.xy, others.drawn, options)


class Repeatability:
    """The objective of the detector: policy gradient of the repeatability, the orientation's consistency, and places.

    Each draw's gradient is averaged over all pixels that it could have chosen, not taken at the one that it chose: the
    same in the mean, with less noise (Ciosek and Whiteson, "Expected policy gradients", AAAI 2018).

    The mean reward is taken off: while it is negative, it would raise what is probable already, and the policy
    collapses to a few points.

    The reward moves whole pixels. What is used later is the mean of the policy around a maximum, which has a gradient
    of its own: how far it lies from its counterpart.
    """

    def __init__(self, detector: Detector, options: SamplingOptions, half: bool = False) -> None:
        self.module = detector
        self._options = options
        self._half = half

    def __call__(self, pairs: Pairs, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        with torch.autocast("cpu", torch.bfloat16, enabled=self._half):
            maps = self.module.layers(torch.cat([pairs.first, pairs.second]))
        detection: Detection = self.module.read(maps.float())
        draws = draw(detection.logits, self._options, generator)
        margin, size, columns = self.module.options.margin, pairs.first.shape[-1], detection.logits.shape[-1]
        points = Points.of(draws, columns, margin)
        others = Points(points.xy.roll(len(pairs.first), 0), points.drawn.roll(len(pairs.first), 0))
        homographies = torch.cat([pairs.homographies, torch.linalg.inv(pairs.homographies)])
        rewards = judge(points, others, homographies, size, margin, self._options)
        pixels = Points.all_of(detection.logits, margin)
        everywhere = judge(pixels, others, homographies, size, margin, self._options)
        weight = draws.visits * everywhere.judged
        mean = (weight * everywhere.values).sum() / weight.sum().clamp(min=1e-6)
        policy = -(weight * (everywhere.values - mean) * draws.log_policy).sum() / weight.sum().clamp(min=1e-6)
        turning = self._orientation(detection, draws, points, rewards, homographies)
        apart = misplacement(detection.logits, pairs.homographies, margin, self._options.within)
        judged = rewards.judged.sum().clamp(min=1)
        numbers = {"reward": float(rewards.values.sum() / judged)}
        numbers |= {
            "repeatability": float(rewards.matched.sum() / judged),
            "orientation": float(turning.detach()),
            "misplacement": float(apart.detach()),
            "points": float(draws.drawn.sum(1).float().mean()),
        }
        return policy + turning + self._options.localisation * apart, numbers

    def _orientation(
        self, detection: Detection, draws: Draws, points: Points, rewards: Rewards, homographies: Tensor
    ) -> Tensor:
        """Mean of 1 - cos of the angle between a matched point's orientation, turned along, and its counterpart's."""
        cells = draws.cells[:, None].expand(-1, 2, -1)
        found = functional.normalize(detection.vectors.flatten(2).gather(2, cells).mT, dim=-1)
        turned = transform_directions(points.xy, found, homographies)
        nearest = rewards.nearest[..., None].expand(-1, -1, 2)
        theirs = found.roll(len(found) // 2, 0).gather(1, nearest)
        apart = (1 - (turned * theirs).sum(-1)) * rewards.matched
        return apart.sum() / rewards.matched.sum().clamp(min=1)
