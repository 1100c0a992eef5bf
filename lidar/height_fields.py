"""Uneven ground as a height field, and where rays meet it, in plain torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

LOOKS = 96
"""Places along a fan at which the ground's profile is looked up."""

FARTHEST = 400.0
"""Metres of the last of these places."""

REFINED = 2
"""Looks at the ground to find where between two places a ray meets it."""

STEEPEST = 1.57
"""Radians of elevation of what counts as vertical."""

CLOSE = 1e-4
"""Metres above the ground at which a ray has met it."""

MARCHES, RELAXED = 200, 16
"""Steps after which a ray that grazes the ground is given up, and after each of how many it steps as far once more."""


@dataclass(frozen=True, eq=False)
class HeightField:
    """Heights at the points of a grid, bilinear in between; beyond the sides it goes on as high as there.

    Convention:
        heights: float [R, C], metres along z; rows rise with y and columns with x, as in MuJoCo.
        half: metres from the middle of the grid to its sides along x and y.
    """

    heights: Tensor
    half: tuple[float, float]

    def __post_init__(self) -> None:
        if self.heights.ndim != 2 or min(self.heights.shape) < 2 or min(self.half) <= 0:
            raise ValueError(
                f"a height field needs at least 2 x 2 heights and sides above 0, got {list(self.heights.shape)} "
                f"heights and {self.half}"
            )

    def to(self, device: str | torch.device) -> HeightField:
        """The same ground on another device."""
        return HeightField(self.heights.to(device), self.half)

    def at(self, x: Tensor, y: Tensor) -> Tensor:
        """Heights at places of any one shape, of their own type."""
        return _sampled(self.heights[None], self.half, x, y)[0]

    def normal(self, x: Tensor, y: Tensor) -> Tensor:
        """Vectors [3, P] that point upwards at places [P], not of length 1."""
        slopes = _sampled(self._slopes, self.half, x, y)
        return torch.cat([-slopes, torch.ones_like(slopes[:1])])

    def cast(self, start: Tensor, step: Tensor) -> Tensor:
        """The distance [P], inf for never, at which rays from above, `start` along `step`, [3, P], meet the ground.

        At first no ray steps farther than the steepest slope allows, so that none passes through a crest. What grazes
        the ground for long takes ever longer steps, and steps back from below.
        """
        low, high = (float(end) for end in torch.aminmax(self.heights))
        sink = -step[2]
        nearing = sink + self._steepest * step[:2].square().sum(dim=0).sqrt()
        time = ((start[2] - high) / sink.clamp(min=1e-9)).clamp(min=0)
        result = torch.full_like(time, torch.inf)
        can_meet = (nearing > 1e-9) & ((sink > 0) | (start[2] <= high))
        left = (can_meet & (self._above(start, step, torch.zeros_like(time)) >= -CLOSE)).nonzero()[:, 0]
        for march in range(MARCHES):
            origin, way, now = start[:, left], step[:, left], time[left]
            room, height = self._above(origin, way, now), origin[2] + now * way[2]
            met = room.abs() <= CLOSE
            result[left[met]] = now[met]
            time[left] = now + room / nearing[left] * torch.where(room > 0, 1 + march / RELAXED, 1.0)
            left = left[~met & torch.where(way[2] < 0, height > low - 1, height <= high + 1)]
            if not len(left):
                break
        return result

    def cast_fans(self, origin: Tensor, ahead: Tensor, up: Tensor, elevations: Tensor) -> Tensor:
        """The distance [P, L], inf for never, of rays of upright fans: `cos(elevation) ahead + sin(elevation) up`.

        In the plane of a fan the ground is a line. The steepest look at it up to each place is the horizon, and a ray
        meets the ground where the horizon first rises to it. The fans may lean, but not lie.

        Args:
            origin, ahead, up: [3, P], in the field's frame.
            elevations: [L], radians.
        """
        far = torch.linspace(0, 1, LOOKS - 1, dtype=origin.dtype, device=origin.device)
        far = torch.cat([far[:1], torch.exp(far * torch.log(far[-1] * FARTHEST))])
        rise = up[2].clamp(min=0.1)[:, None]
        half = torch.tensor(self.half, dtype=origin.dtype, device=origin.device)[:, None, None]
        start, straight, upright = (way[:2, :, None] / half for way in (origin, ahead, up))
        height = origin[2, :, None]
        # Along `up` from a place ahead, the ground is `(ground - height) / rise - slope * place` above the level ray.
        slope = ahead[2, :, None] / rise
        below = (self.at(*origin[:2])[:, None] - height) / rise
        heights = (self._along(start + below * upright, straight, far) - height) / rise - slope * far
        horizon = (heights / far.clamp(min=1e-6)).cummax(dim=1).values
        tangent = elevations.clamp(-STEEPEST, STEEPEST).tan().expand(len(horizon), -1).contiguous()
        after = torch.searchsorted(horizon, tangent)
        # None of the ground is so high, or the fan starts below it.
        never = (tangent > horizon[:, -1:]).logical_or_(tangent <= horizon[:, :1])
        # Between two places at first a straight line, from which the ray's own look at the ground then differs little.
        steep = heights.diff(dim=1) / far.diff()
        apart = heights[:, :-1] - steep * far[:-1]
        after = after.sub_(1).clamp_(0, LOOKS - 2)
        closing = steep.gather(1, after).sub_(tangent).clamp_(min=1e-6)
        place = -apart.gather(1, after) / closing
        way, sink = torch.addcmul(straight, tangent, upright), tangent + slope
        for _ in range(REFINED):
            ground = self._along(start, way, place)
            place.addcdiv_(ground.sub_(height).div_(rise).addcmul_(place, sink, value=-1), closing, value=-1)
        distance: Tensor = place.div_(elevations.clamp(-STEEPEST, STEEPEST).cos()).masked_fill_(never, torch.inf)
        return distance

    def _along(self, start: Tensor, way: Tensor, place: Tensor) -> Tensor:
        """Heights [P, L] of the ground at `start + place way`, both [2, P, 1 or L] and in halves of its sides."""
        return _looked_up(self.heights[None], torch.addcmul(start, way, place))[0]

    def _above(self, start: Tensor, step: Tensor, time: Tensor) -> Tensor:
        x, y, z = start + time * step
        room: Tensor = z - self.at(x, y)
        return room

    @cached_property
    def _slopes(self) -> Tensor:
        rows, columns = self.heights.shape
        spacing = (2 * self.half[1] / (rows - 1), 2 * self.half[0] / (columns - 1))
        along_y, along_x = torch.gradient(self.heights, spacing=spacing)
        return torch.stack([along_x, along_y])

    @cached_property
    def _steepest(self) -> float:
        rows, columns = self.heights.shape
        x, y = (
            self.heights.diff(dim=dim).abs().max() * (count - 1) / (2 * half)
            for dim, count, half in ((1, columns, self.half[0]), (0, rows, self.half[1]))
        )
        return float(torch.hypot(x, y))


def _sampled(grids: Tensor, half: tuple[float, float], x: Tensor, y: Tensor) -> Tensor:
    """Values [K, ...] of grids [K, R, C] at places of any shape."""
    return _looked_up(grids, torch.stack([x / half[0], y / half[1]]))


def _looked_up(grids: Tensor, places: Tensor) -> Tensor:
    """Values [K, ...] of grids [K, R, C] at places [2, ...], -1..1 between its sides."""
    found = grid_sample(
        grids[None].to(places.dtype), places.reshape(1, 1, 2, -1).mT, padding_mode="border", align_corners=True
    )
    return found.view(len(grids), *places.shape[1:])
