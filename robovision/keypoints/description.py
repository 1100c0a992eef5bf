"""S-TREK's descriptor: 128 numbers for each keypoint, from a patch that is turned by the detector's own orientation.

The detector answers in kind when the image turns, its orientation too; so the turned patch stays the same at every
angle, and the descriptor needs no symmetry of its own. This replaces the paper's U-Net, which has none. Trained with
the detector fixed, at its points only ("detect, then describe"), on the hardest negatives (Mishchuk et al., "Working
hard to know your neighbor's margins", NIPS 2017).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import fuse_conv_bn_eval

from robovision.keypoints.detector import Detection, Detector
from robovision.keypoints.objectives import Points, judge
from robovision.keypoints.pairs import Pairs
from robovision.keypoints.sampling import Rewards, draw
from robovision.keypoints.strek_config import SamplingOptions
from robovision.symmetry.claims import Symmetry
from robovision.symmetry.data import Image, Same
from robovision.symmetry.groups import turns

SIDE = 32
"""Samples on each side of a patch."""
SPACING = 1.5
"""Pixels between two samples: a patch shows 48 x 48 pixels."""
WIDTH = 128
"""Numbers of a descriptor."""
MARGIN = 0.5
"""By how much the cosine of a match must be over that of the nearest other point."""
APART = 5.0
"""Pixels from which on two points are different ones."""


def patches(images: Tensor, xy: Tensor, directions: Tensor) -> Tensor:
    """Patches [B * N, 1, SIDE, SIDE] around points, turned so that their direction points to the right.

    Args:
        images: [B, 1, H, W] after `soften`; pixels outside repeat the edge.
        xy: [B, N, 2], pixels.
        directions: [B, N, 2], unit vectors (x, y).
    """
    axis = (torch.arange(SIDE, device=images.device, dtype=images.dtype) - (SIDE - 1) / 2) * SPACING
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    along, across = directions[:, :, None], torch.stack([-directions[..., 1], directions[..., 0]], -1)[:, :, None]
    source = xy[:, :, None] + u.flatten()[:, None] * along + v.flatten()[:, None] * across
    rows, columns = images.shape[-2:]
    where = torch.stack([(source[..., 0] + 0.5) * 2 / columns - 1, (source[..., 1] + 0.5) * 2 / rows - 1], -1)
    found = functional.grid_sample(images, where, padding_mode="border", align_corners=False)
    return found.transpose(1, 2).reshape(-1, 1, SIDE, SIDE)


def soften(images: Tensor) -> Tensor:
    """Images under a binomial filter of 3 x 3, so that sampling at `SPACING` loses little."""
    weight = images.new_tensor([1.0, 2.0, 1.0]) / 4
    padded = functional.pad(images, [1] * 4, mode="replicate")
    return functional.conv2d(padded, (weight[:, None] * weight)[None, None])


class Descriptor(nn.Module):
    """Patches [N, 1, SIDE, SIDE] to descriptors [N, WIDTH] of norm 1."""

    def __init__(self) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for inputs, outputs, stride in ((1, 16, 1), (16, 16, 2), (16, 32, 1), (32, 32, 2), (32, 64, 1), (64, 64, 1)):
            parts += [
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
        self.layers = nn.Sequential(*parts, nn.Conv2d(64, WIDTH, SIDE // 4, bias=False), nn.BatchNorm2d(WIDTH))

    def symmetries(self) -> tuple[Symmetry, ...]:
        """None: a turned patch has another descriptor, so that patches must be cut along their orientation."""
        return (Symmetry(turns("C4"), "none", Image(), Same()),)

    def forward(self, patches: Tensor) -> Tensor:
        deviation, mean = torch.std_mean(patches, (2, 3), keepdim=True)
        normal = ((patches - mean) / (deviation + 1e-3)).contiguous(memory_format=torch.channels_last)
        described: Tensor = self.layers(normal).to(patches)
        return functional.normalize(described.flatten(1), dim=1)

    def exported(self) -> Descriptor:
        """The same descriptor in evaluation, batch normalisation folded in: faster, but it can't be trained."""
        layers: list[nn.Module] = []
        for layer in self.eval().layers:
            if isinstance(layer, nn.BatchNorm2d):
                convolution = layers.pop()
                assert isinstance(convolution, nn.Conv2d)
                folded = fuse_conv_bn_eval(convolution, layer)
                folded.weight = nn.Parameter(folded.weight.contiguous(memory_format=torch.channels_last))
                layers.append(folded)
            else:
                layers.append(layer)
        plain = Descriptor()
        plain.layers = nn.Sequential(*layers)
        return plain.eval().requires_grad_(False)


@dataclass(frozen=True)
class _Points:
    """Points of both pictures of each pair, one after the other, with directions and rewards."""

    xy: Tensor
    directions: Tensor
    rewards: Rewards


class Description:
    """The objective of the descriptor: a triplet loss at the points of a detector that is not trained."""

    def __init__(
        self, descriptor: Descriptor, detector: Detector, options: SamplingOptions, half: bool = False
    ) -> None:
        self.module = descriptor
        self._detector = detector
        self._options = options
        self._half = half

    def __call__(self, pairs: Pairs, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        images = torch.cat([pairs.first, pairs.second])
        points = self._detect(images, pairs.homographies, generator)
        seen = patches(soften(images), points.xy, points.directions).view(*points.xy.shape[:2], 1, SIDE, SIDE)
        half = len(seen) // 2
        matched = points.rewards.matched[:half]
        nearest = points.rewards.nearest[:half]
        batch = torch.arange(half)[:, None].expand_as(nearest)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._half):
            described = self.module(torch.cat([seen[:half][matched], seen[half:][batch, nearest][matched]]))
        first, second = described.chunk(2)
        same = self._same(points.xy, matched, nearest, batch)
        cosines = first @ second.T
        loss = triplet_loss(cosines, same)
        found = (cosines.argmax(1) == torch.arange(len(cosines))).float().mean() if len(cosines) else torch.tensor(0.0)
        return loss, {"triplet": float(loss.detach()), "found": float(found), "matches": float(len(cosines))}

    @torch.no_grad()
    def _detect(self, images: Tensor, homographies: Tensor, generator: torch.Generator) -> _Points:
        detection: Detection = self._detector(images)
        draws = draw(detection.logits, self._options, generator)
        margin = self._detector.options.margin
        points = Points.of(draws, detection.logits.shape[-1], margin)
        swapped = Points(points.xy.roll(len(homographies), 0), points.drawn.roll(len(homographies), 0))
        both = torch.cat([homographies, torch.linalg.inv(homographies)])
        rewards = judge(points, swapped, both, images.shape[-1], margin, self._options)
        cells = draws.cells[:, None].expand(-1, 2, -1)
        directions = functional.normalize(detection.vectors.flatten(2).gather(2, cells).mT, dim=-1)
        return _Points(points.xy, directions, rewards)

    @staticmethod
    def _same(xy: Tensor, matched: Tensor, nearest: Tensor, batch: Tensor) -> Tensor:
        """Which matches are too close to tell apart: bool [M, M]."""
        half = len(matched)
        close = torch.ones(1, dtype=torch.bool)
        for places in (xy[:half][matched], xy[half:][batch, nearest][matched]):
            apart = torch.cdist(places, places) > APART
            close = close & ~apart
        pair = batch[matched]
        return close & (pair[:, None] == pair[None, :])


def triplet_loss(cosines: Tensor, same: Tensor) -> Tensor:
    """Mean of max(0, MARGIN - match + hardest other), over both directions.

    Args:
        cosines: [M, M] of the first pictures' descriptors with the second ones'; the diagonal holds the matches.
        same: bool [M, M], pairs that are no negatives.
    """
    if len(cosines) < 2:
        return cosines.sum() * 0
    match = cosines.diagonal()
    others = cosines.masked_fill(same | torch.eye(len(cosines), dtype=torch.bool), -1)
    return sum((functional.relu(MARGIN - match + others.amax(k)).mean() for k in (0, 1)), start=match.new_zeros(())) / 2
