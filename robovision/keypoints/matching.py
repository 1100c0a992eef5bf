"""Which keypoints of two images show the same thing: nearest neighbours among their descriptors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robovision.errors import UsageError
from robovision.types import Array, Keypoints

CHUNK = 2048
"""Descriptors of the first image whose distances to all of the second are in memory at once."""


@dataclass(frozen=True)
class MatchOptions:
    """Which nearest neighbours count as matches."""

    mutual: bool = True
    """Only those that are each other's nearest neighbours."""
    ratio: float | None = None
    """Only those that are nearer than this share of the distance to the second nearest (Lowe, 2004, section 7.1);
    usual is 0.8 for SIFT and 0.95 for learned descriptors."""

    def __post_init__(self) -> None:
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise UsageError(f"ratio must be in 0..1, above 0, got {self.ratio}")


@dataclass(frozen=True, eq=False)
class Matches:
    """M pairs of keypoints of two images, in the order of the first one's keypoints.

    Convention:
        indices: int64 [M, 2], a keypoint of the first image and one of the second.
        distances: float32 [M], Euclidean, of their descriptors.
    """

    indices: Array
    distances: Array

    def __len__(self) -> int:
        return len(self.indices)


def match(first: Keypoints, second: Keypoints, options: MatchOptions = MatchOptions()) -> Matches:
    """The matches of two images' keypoints, from the same extractor.

    Raises:
        ValueError: if they have no descriptors, or of different width.
    """
    described = []
    for which, keypoints in (("first", first), ("second", second)):
        if keypoints.descriptors is None:
            raise ValueError(f"the {which} keypoints have no descriptors")
        described.append(torch.from_numpy(keypoints.descriptors.copy()))
    partners, distances = match_descriptors(described[0], described[1], options)
    found = np.flatnonzero((partners >= 0).numpy())
    return Matches(np.stack([found, partners.numpy()[found]], 1), distances.numpy()[found])


@torch.inference_mode()
def match_descriptors(
    first: Tensor, second: Tensor, options: MatchOptions = MatchOptions(), chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """The match of each descriptor of the first images among those of the second, for single images or batches.

    The memory is that of `chunk` * M distances for each image of the batch. Of equal distances the first counts.

    Args:
        first: [N, D] or [B, N, D].
        second: [M, D] or [B, M, D], of the same type and on the same device.
        options: which neighbours count.
        chunk: rows of `first` that are compared at once.

    Returns:
        int64 [N] or [B, N], indices into `second`, -1 where there is no match; and the Euclidean distances to the
        nearest neighbours, infinite where there are none.

    Raises:
        ValueError: for shapes that don't go together, NaN or infinite numbers.
    """
    _check(first, second)
    if first.ndim == 2:
        partners, distances = match_descriptors(first[None], second[None], options, chunk)
        return partners[0], distances[0]
    nearest, best, runner_up, back = _neighbours(first, second, chunk)
    kept = best.isfinite()
    if options.mutual and second.shape[1]:
        rows = torch.arange(first.shape[1], device=first.device)
        kept &= back.gather(1, nearest) == rows
    if options.ratio is not None:
        kept &= best < options.ratio * runner_up
    return torch.where(kept, nearest, -1), best


def _neighbours(first: Tensor, second: Tensor, chunk: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each row of `first`: nearest, its distance, the second nearest's; of each row of `second`: the nearest."""
    batch, count, others = *first.shape[:2], second.shape[1]
    nearest = first.new_zeros(batch, count, dtype=torch.int64)
    best, runner_up = (first.new_full((batch, count), torch.inf) for _ in range(2))
    back = first.new_zeros(batch, others, dtype=torch.int64)
    shortest = first.new_full((batch, others), torch.inf)
    for start in range(0, count if others else 0, chunk):
        rows = slice(start, start + chunk)
        squares = _squared_distances(first[:, rows], second)
        low, row = squares.min(1)
        closer = low < shortest
        shortest, back = torch.where(closer, low, shortest), torch.where(closer, row + start, back)
        low, nearest[:, rows] = squares.min(2)
        best[:, rows] = low.sqrt()
        squares.scatter_(2, nearest[:, rows, None], torch.inf)
        runner_up[:, rows] = squares.amin(2).sqrt()
    return nearest, best, runner_up, back


def _squared_distances(first: Tensor, second: Tensor) -> Tensor:
    """[B, N, M]; exact for whole numbers below 2^24, such as those of SIFT and ORB."""
    squares = first.square().sum(-1)[:, :, None] + second.square().sum(-1)[:, None]
    return torch.baddbmm(squares, first, second.mT, alpha=-2).clamp_(min=0)


def _check(first: Tensor, second: Tensor) -> None:
    shapes = f"{list(first.shape)} and {list(second.shape)}"
    if first.ndim not in (2, 3) or first.ndim != second.ndim or first.shape[:-2] != second.shape[:-2]:
        raise ValueError(f"descriptors must be [N, D] and [M, D], or [B, N, D] and [B, M, D]; got {shapes}")
    if first.shape[-1] != second.shape[-1] and first.shape[-2] and second.shape[-2]:
        raise ValueError(f"descriptors must be of the same width, so of the same extractor; got {shapes}")
    for which, descriptors in (("first", first), ("second", second)):
        if not descriptors.isfinite().all():
            raise ValueError(f"the {which} descriptors hold NaN or infinite numbers")
