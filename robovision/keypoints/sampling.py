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


@dataclass(frozen=True)
class Draws:
    """Points drawn from maps [B, H, W].

    Convention:
        cells: int64 [B, N], row * W + column of the map.
        drawn: bool [B, N], False where an image had no more points to draw.
        log_probabilities: [B, N], under the policy that was not masked, with its gradient.
    """

    cells: Tensor
    drawn: Tensor
    log_probabilities: Tensor


def draw(logits: Tensor, options: SamplingOptions, generator: torch.Generator) -> Draws:
    """Points of each map [B, H, W]. The gradient is that of the policy of the sampler, off-policy if sequential."""
    if options.sampler == "grid":
        return _grid(logits, options, generator)
    policy = functional.log_softmax(logits.flatten(1) / options.temperature, dim=1)
    with torch.no_grad():
        if options.sampler == "top-k":
            cells, drawn = _strongest(logits, options)
        else:
            cells, drawn = _sequence(policy.exp().view_as(logits), options, generator)
    return Draws(cells, drawn, policy.gather(1, cells))


def _sequence(left: Tensor, options: SamplingOptions, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw, take the probability out of a disc around the point, and so on until little is left."""
    batch, _, columns = left.shape
    dy, dx = disc(options.radius)
    padded = functional.pad(left, [options.radius] * 4)
    width = padded.shape[2]
    everyone = torch.arange(batch)[:, None]
    cells: list[Tensor] = []
    drawn: list[Tensor] = []
    middle = (slice(None), slice(options.radius, -options.radius), slice(options.radius, -options.radius))
    for _ in range(options.most):
        rest = padded[middle].flatten(1)
        alive = rest.sum(1) > options.remaining
        if not alive.any():
            break
        cell = torch.multinomial(rest + (~alive[:, None]).to(rest), 1, generator=generator)[:, 0]
        y, x = cell // columns + options.radius, cell % columns + options.radius
        near = (y[:, None] + dy) * width + x[:, None] + dx
        flat = padded.flatten(1)
        flat[everyone, near] = 0
        padded = flat.view_as(padded)
        cells.append(cell)
        drawn.append(alive)
    return torch.stack(cells, 1), torch.stack(drawn, 1)


def _grid(logits: Tensor, options: SamplingOptions, generator: torch.Generator) -> Draws:
    """One point in each cell; the policy is the softmax within the cell."""
    batch, rows, columns = logits.shape
    side = options.radius + 2
    down, right = rows // side, columns // side
    numbers = torch.arange(rows * columns).view(rows, columns)[: down * side, : right * side]
    order = numbers.reshape(down, side, right, side).permute(0, 2, 1, 3).reshape(-1, side * side)
    policy = functional.log_softmax(logits.flatten(1)[:, order] / options.temperature, dim=2)
    choice = torch.multinomial(policy.detach().exp().flatten(0, 1), 1, generator=generator).view(batch, -1, 1)
    cells = order.expand(batch, -1, -1).gather(2, choice)[..., 0]
    return Draws(cells, torch.ones_like(cells, dtype=torch.bool), policy.gather(2, choice)[..., 0])


def _strongest(logits: Tensor, options: SamplingOptions) -> tuple[Tensor, Tensor]:
    peaks = local_maxima(logits, options.radius).flatten(1)
    scores = logits.flatten(1).masked_fill(~peaks, -torch.inf)
    found = scores.topk(min(options.most, scores.shape[1]), dim=1)
    return found.indices, found.values.isfinite()


def disc(radius: int) -> tuple[Tensor, Tensor]:
    """The rows and columns of the pixels within a radius, from the middle."""
    axis = torch.arange(-radius, radius + 1)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    inside = y**2 + x**2 <= radius**2
    return y[inside], x[inside]


def local_maxima(logits: Tensor, radius: int) -> Tensor:
    """Where maps [B, H, W] are largest within a square of this radius, and not level; bool [B, H, W].

    Equal maxima are all taken, so that the answer turns with the map.
    """
    highest = functional.max_pool2d(logits[:, None], 2 * radius + 1, 1, radius)[:, 0]
    lowest = -functional.max_pool2d(-logits[:, None], 2 * radius + 1, 1, radius)[:, 0]
    return (logits == highest) & (highest > lowest)


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
