"""Where keypoints lie between pixels, and how far apart these places are in two pictures of the same."""

from __future__ import annotations

import torch
from torch import Tensor

from robovision.keypoints.pairs import transform
from robovision.keypoints.sampling import disc, local_maxima

TEMPERATURE = 0.05
"""Of the policy whose mean a place is."""
REACH = 3
"""Pixels around a maximum that the mean is taken of."""
STRONGEST = 80
"""Maxima of a picture that are compared in training."""
SMOOTH = 0.1
"""Pixels below which a distance counts less, so that its derivative is bounded."""


def refine(logits: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Sub-pixel offsets (x, y) [N, 2] of maxima of a map [H, W], and their uncertainty [N] in pixels.

    The policy, a softmax at TEMPERATURE, has its mean there within REACH of the maximum; the uncertainty is the
    standard deviation about it, the root of the covariance's mean eigenvalue. A disc of pixels turns with the map, so
    the offsets do. Maxima must be REACH away from the map's edge.
    """
    down, right = disc(REACH, logits.device)
    policy = torch.softmax(logits[rows[:, None] + down, columns[:, None] + right] / TEMPERATURE, dim=1)
    places = torch.stack([right, down], 1).to(logits)
    offset = policy @ places
    variance = (policy @ places.square() - offset.square()).mean(1)
    return offset, variance.clamp(min=1e-8).sqrt()


def strongest_places(logits: Tensor, margin: int) -> tuple[Tensor, Tensor]:
    """The places [B, N, 2] of the strongest maxima of maps [B, H, W], in pixels, and which of them exist, bool [B, N].

    The places have gradients.
    """
    batch, rows, columns = logits.shape
    peaks = torch.zeros_like(logits, dtype=torch.bool)
    inner = slice(REACH, -REACH)
    peaks[:, inner, inner] = local_maxima(logits.detach(), 1)[:, inner, inner]
    scores = logits.detach().masked_fill(~peaks, -torch.inf).flatten(1)
    found, cells = scores.topk(min(STRONGEST, scores.shape[1]), dim=1)
    down, right = (
        (cells // columns).clamp(REACH, rows - 1 - REACH),
        (cells % columns).clamp(REACH, columns - 1 - REACH),
    )
    across = torch.arange(batch).repeat_interleave(cells.shape[1]) * rows
    offset, _ = refine(logits.flatten(0, 1), across + down.flatten(), right.flatten())
    xy = torch.stack([right, down], -1) + offset.view(batch, -1, 2) + margin
    return xy, found.isfinite()


def misplacement(logits: Tensor, homographies: Tensor, margin: int, within: float) -> Tensor:
    """Mean distance in pixels from the first pictures' places, warped, to their counterparts in the second ones.

    Counterparts are each other's nearest and closer than `within`; 0 without any.

    Args:
        logits: [2 B, H, W], of the first pictures, then of the second ones.
        homographies: [B, 3, 3], from the first to the second.
        margin: pixels that the maps lack on each side.
        within: pixels.
    """
    xy, exists = strongest_places(logits, margin)
    first, second = xy.chunk(2)
    warped = transform(first, homographies)
    there = exists[: len(first), :, None] & exists[len(first) :, None]
    distance = torch.cdist(warped.detach(), second.detach()).masked_fill(~there, torch.inf)
    shortest, nearest = distance.min(2)
    back = distance.min(1).indices.gather(1, nearest)
    mutual = (shortest < within) & (back == torch.arange(back.shape[1]))
    theirs = second.gather(1, nearest[..., None].expand(-1, -1, 2))
    apart = ((warped - theirs).square().sum(-1) + SMOOTH**2).sqrt()
    return (apart * mutual).sum() / mutual.sum().clamp(min=1)
