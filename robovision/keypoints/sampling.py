"""How keypoints are drawn in training, and what they are rewarded for.

A map of logits is a policy over all its pixels, softmax(logits / temperature). A whole batch is drawn at once: the
only loop is over the draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from robovision.keypoints.strek_config import SamplingOptions

MOST_EQUAL = 3
"""Equal maxima that may lie side by side, the pixel itself included."""
LEVEL = 1e-5
"""Logits that differ by no more are equal but for rounding: that is no maximum."""


@dataclass(frozen=True)
class Draws:
    """Points drawn from maps [B, H, W].

    Convention:
        cells: int64 [B, N], row * W + column of the map.
        drawn: bool [B, N], False where an image had no more points to draw.
        visits: [B, H * W], how often each pixel is drawn on average, given what had been drawn before each draw.
        log_policy: [B, H * W], under the policy that was not masked, with its gradient.
    """

    cells: Tensor
    drawn: Tensor
    visits: Tensor
    log_policy: Tensor


def draw(logits: Tensor, options: SamplingOptions, generator: torch.Generator) -> Draws:
    """Points of each map [B, H, W]. The gradient is that of the policy of the sampler, off-policy if sequential."""
    if options.sampler == "grid":
        return _grid(logits, options, generator)
    policy = functional.log_softmax(logits.flatten(1) / options.temperature, dim=1)
    with torch.no_grad():
        if options.sampler == "top-k":
            return Draws(*_strongest(logits, options), policy)
        return Draws(*_sequence(policy.view_as(logits), options, generator), policy)


def _sequence(policy: Tensor, options: SamplingOptions, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw, take the probability out of a disc around the point, and so on until little is left.

    Drawing from what is left is the greedy choice by log-probability plus one Gumbel noise for all draws (Kool, van
    Hoof and Welling, "Stochastic beams and where to find them", ICML 2019): removing some leaves the order of the rest.
    """
    batch, rows, columns = policy.shape
    dy, dx = disc(options.radius, policy.device)
    width = columns + 2 * options.radius
    near = dy * width + dx
    size = (rows + 2 * options.radius) * width
    noise = torch.empty_like(policy).exponential_(generator=generator).log_()
    keys, share = (_framed(t, options.radius, f) for t, f in ((policy - noise, -torch.inf), (policy.exp(), 0.0)))
    inverse = torch.zeros(batch)
    waited = torch.full((batch, size), -1.0)
    places: list[Tensor] = []
    drawn: list[Tensor] = []
    for _ in range(options.most):
        highest, place = keys.max(1)
        left = (share * (waited < 0)).sum(1)
        alive = (left > options.remaining) & highest.isfinite()
        if not alive.any():
            break
        inverse = inverse + alive / left.clamp(min=1e-30)
        around = (place[:, None] + near).clamp(0, size - 1)
        here = waited.gather(1, around)
        waited.scatter_(1, around, torch.where(here < 0, inverse[:, None], here))
        keys.scatter_(1, around, -torch.inf)
        places.append(place)
        drawn.append(alive)
    visits = share * torch.where(waited < 0, inverse[:, None], waited)
    place, alive = torch.stack(places, 1), torch.stack(drawn, 1)
    cells = (place // width - options.radius) * columns + place % width - options.radius
    inner = slice(options.radius, -options.radius)
    return cells.where(alive, 0), alive, visits.view(batch, -1, width)[:, inner, inner].flatten(1)


def _framed(maps: Tensor, border: int, value: float) -> Tensor:
    return functional.pad(maps, [border] * 4, value=value).flatten(1)


def _grid(logits: Tensor, options: SamplingOptions, generator: torch.Generator) -> Draws:
    """One point in each cell; the policy is the softmax within the cell."""
    batch, rows, columns = logits.shape
    side = options.radius + 2
    down, right = rows // side, columns // side
    numbers = torch.arange(rows * columns).view(rows, columns)[: down * side, : right * side]
    order = numbers.reshape(down, side, right, side).permute(0, 2, 1, 3).reshape(-1, side * side)
    policy = functional.log_softmax(logits.flatten(1)[:, order] / options.temperature, dim=2)
    share = policy.detach().exp()
    choice = torch.multinomial(share.flatten(0, 1), 1, generator=generator).view(batch, -1, 1)
    cells = order.expand(batch, -1, -1).gather(2, choice)[..., 0]
    everywhere = torch.zeros(batch, rows * columns)
    whole = (everywhere.index_copy(1, order.flatten(), t.flatten(1)) for t in (share, policy))
    return Draws(cells, torch.ones_like(cells, dtype=torch.bool), *whole)


def _strongest(logits: Tensor, options: SamplingOptions) -> tuple[Tensor, Tensor, Tensor]:
    peaks = local_maxima(logits, options.radius).flatten(1)
    scores = logits.flatten(1).masked_fill(~peaks, -torch.inf)
    found = scores.topk(min(options.most, scores.shape[1]), dim=1)
    drawn = found.values.isfinite()
    return found.indices, drawn, torch.zeros_like(scores).scatter(1, found.indices, drawn.to(scores))


def disc(radius: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The rows and columns of the pixels within a radius, from the middle."""
    axis = torch.arange(-radius, radius + 1, device=device)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    inside = y**2 + x**2 <= radius**2
    return y[inside], x[inside]


def local_maxima(logits: Tensor, radius: int) -> Tensor:
    """Where maps [B, H, W] are largest within a square of this radius, but neither level nor the rim of a level area.

    Two or three equal maxima side by side are all taken, so that the answer turns with the map; pixels with more of
    them around are a level area, where there is nothing to see. So are those that are above their neighbours by
    rounding alone.
    """
    highest = logits == functional.max_pool2d(logits[:, None], 2 * radius + 1, 1, radius)[:, 0]
    equal = functional.avg_pool2d(highest.float()[:, None], 3, 1, 1)[:, 0] * 9
    lowest = -functional.max_pool2d(-logits[:, None], 3, 1, 1)[:, 0]
    return highest & (equal < MOST_EQUAL + 0.5) & (logits - lowest > LEVEL)


@dataclass(frozen=True)
class Rewards:
    """What the points of one image earned.

    Convention:
        values: [B, N], 0 where nothing can be said: not drawn, or outside the other map.
        judged: bool [B, N], where something can be said.
        nearest: int64 [B, N], the number of the other image's nearest point.
        matched: bool [B, N], where that one lies within reach.
    """

    values: Tensor
    judged: Tensor
    nearest: Tensor
    matched: Tensor


def repeatability_reward(
    warped: Tensor, inside: Tensor, others: Tensor, drawn: Tensor, options: SamplingOptions
) -> Rewards:
    """Rewards for points that the other image has, too.

    Args:
        warped: [B, N, 2], an image's points in pixels of the other one.
        inside: bool [B, N], whether they were drawn and lie in what the other one's map covers.
        others: [B, M, 2], the other one's points.
        drawn: bool [B, M], whether these were drawn.
        options: reward and reach.
    """
    distance = torch.cdist(warped, others).masked_fill(~drawn[:, None], torch.inf)
    shortest, nearest = distance.min(2)
    matched = inside & (shortest <= options.within)
    gain = torch.ones_like(shortest) if options.reward == "step" else 1 - shortest / options.within
    values = torch.where(matched, gain, -options.penalty) * inside
    return Rewards(values, inside, nearest, matched)
