"""Rays of a spinning sensor against shapes, in plain torch: a column of lasers is a fan of rays in one plane.

A shape takes up an interval of angles in each fan that passes near it, and only rays within are cast at it: the work
is the number of rays that see each shape's enclosing box, not rays times shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from robovision.lidar.height_fields import HeightField
from robovision.lidar.primitives import (
    CAPSULE,
    CYLINDER,
    FIELD,
    HITS,
    NORMALS,
    PLANE,
    SLACK,
    UNIT_HITS,
    Primitives,
    normals_of,
    reaches,
    time_to_plane,
)

NOTHING = 0x7F800000 << 32
"""What stands for a ray that hits nothing: the bits of an infinite distance, before the number of any pair."""

NEIGHBOURS = 16
"""Fans that are first looked at together for the shapes that they may pass."""

RINGS = 8
"""Neighbouring rays of a fan that are cast at a shape together; some of the last ones in vain."""

PORTION = 1 << 13
"""Groups of such rays that are cast at once, so that what is computed of them stays in a core's cache."""


@dataclass(frozen=True, eq=False)
class Fans:
    """C fans of L rays from points in the world; ray l of fan c is `cos(elevation[l]) ahead[c] + sin(..) up[c]`.

    Convention:
        origin: float32 [C, 3], metres.
        ahead, up: float32 [C, 3], of length 1 and at right angles.
        elevations: float32 [L], radians, in -pi/2..pi/2.
    """

    origin: Tensor
    ahead: Tensor
    up: Tensor
    elevations: Tensor


@dataclass(frozen=True, eq=False)
class _Pairs:
    """N pairs of a fan and a shape that it comes near.

    Convention:
        fan: int64 [N], of all C.
        index: int64 [N], the shape's place in its world.
        kind: int64 [N], of the shape.
        size: [3, N], of the shape.
        planes: [9, N], the fan's origin, ahead and up in the frame of the shape.
        extent, reach: [3, N] and [N], half the sides of the box, and the radius of the sphere, around the shape.
        field: the heights of what is a height field.
    """

    fan: Tensor
    index: Tensor
    kind: Tensor
    size: Tensor
    planes: Tensor
    extent: Tensor
    reach: Tensor
    field: HeightField | None

    @classmethod
    def of(cls, worlds: Sequence[Primitives], fans: Fans) -> _Pairs:
        kind, center, rotation, size = (
            torch.cat([getattr(w, n) for w in worlds]) for n in ("kind", "center", "rotation", "size")
        )
        world = Primitives(kind, center, rotation, size)
        fan, shape = _near(world, fans, len(worlds))
        index = shape.remainder(len(worlds[0]))
        turn = world.rotation.view(-1, 9).T.index_select(1, shape).view(3, 3, -1)
        ways = torch.stack([fans.origin.T, fans.ahead.T, fans.up.T]).view(9, -1).index_select(1, fan).view(3, 3, -1)
        ways[0] -= world.center.T.index_select(1, shape)
        planes = turn[0] * ways[:, :1]
        planes = planes.addcmul_(turn[1], ways[:, 1:2]).addcmul_(turn[2], ways[:, 2:]).view(9, -1)
        kind, size = world.kind.index_select(0, shape), world.size.T.index_select(1, shape)
        extent, reach = _extents(world).index_select(1, shape), _reach(world).index_select(0, shape)
        return cls(fan, index, kind, size, planes, extent, reach, worlds[0].field)


@dataclass(frozen=True, eq=False)
class Hits:
    """What L rays of each of C fans hit, as `primitives.cast` tells.

    Convention:
        distance: float32 [C, L], metres; inf where nothing is hit.
        index: int64 [C, L], the shape hit, -1 for none.
        pair: int32 [C, L], the pair of a fan and a shape in `pairs`, from 1; 0 for none.
        elevations: float32 [L], radians, of the rays.
    """

    distance: Tensor
    index: Tensor
    pair: Tensor
    pairs: _Pairs
    elevations: Tensor

    def facing(self) -> Tensor:
        """The cosines of incidence, float32 [C, L], 0..1; 0 where nothing is hit."""
        rays = torch.stack([self.elevations.cos(), self.elevations.sin()])
        pair, planes = self.pair.view(-1), self.pairs.planes
        # On planes, which most rays hit, it is how steeply the ray falls; what hits nothing keeps 0.
        ahead, up = (pad(planes[k], (1, 0)).index_select(0, pair).view_as(self.pair) for k in (5, 8))
        facing = torch.addcmul(ahead * rays[0], up, rays[1]).abs_().view(-1)
        kinds, order = pad(self.pairs.kind, (1, 0), value=PLANE).to(torch.uint8).index_select(0, pair).sort()
        slots = torch.split(order, torch.bincount(kinds, minlength=FIELD + 1).tolist())
        rays = rays.repeat(1, len(self.pair))
        for kind, normal in normals_of(self.pairs.field).items():
            slot = slots[kind]
            mine, (cos, sin) = pair.index_select(0, slot) - 1, rays.index_select(1, slot)
            start, ahead, up = planes.index_select(1, mine).view(3, 3, -1)
            step = torch.addcmul(ahead * cos, up, sin)
            point = torch.addcmul(start, step, self.distance.view(-1).index_select(0, slot))
            ways = normal(point, self.pairs.size.index_select(1, mine))
            length = ways.square().sum(dim=0).sqrt_().clamp_(min=1e-12)
            facing.index_copy_(0, slot, ways.mul_(step).sum(dim=0).abs_().div_(length))
        return facing.view_as(self.pair)


def cast_fans(worlds: Sequence[Primitives], fans: Fans) -> Hits:
    """What the rays hit.

    Args:
        worlds: the same shapes, at one or several times; the fans are split evenly among them, in order, the
            first ones getting one more.
        fans: all rays. At a height field they must stand upright, or lean a little.
    """
    _keep_pages()
    pairs = _Pairs.of(worlds, fans)
    rising, order = fans.elevations.sort()
    nearest = torch.full((len(fans.origin), len(rising)), NOTHING, device=fans.origin.device)
    _cast_at_planes(nearest, rising, pairs)
    if pairs.field is not None:
        _cast_at_field(nearest, rising, pairs, pairs.field)
    seen, first, last = _rings(pairs, rising)
    kinds = pairs.kind.index_select(0, seen)
    for kind in NORMALS:
        mine, *ends = (values[kinds == kind] for values in (seen, first, last))
        _cast_at(nearest, kind, pairs, mine, _groups(*ends), rising)
    nearest = nearest.index_select(1, order.argsort())
    pair, bits = (half.contiguous() for half in nearest.view(torch.int32).view(*nearest.shape, 2).unbind(dim=2))
    index = pad(pairs.index, (1, 0), value=-1).index_select(0, pair.view(-1)).view_as(nearest)
    return Hits(bits.view(torch.float32), index, pair, pairs, fans.elevations)


@cache
def _keep_pages() -> None:
    """Have glibc keep what is freed, up to 64 MB, for the next cast: fresh pages cost as much as the rays.

    It raises that limit by itself, to twice the largest block of up to 32 MB that was ever given back.
    """
    torch.empty(31 << 20, dtype=torch.uint8)


def _near(shapes: Primitives, fans: Fans, times: int) -> tuple[Tensor, Tensor]:
    """Fans, and shapes whose spheres come near them, [N] each; the shapes are given at T times, one after the other."""
    device = fans.origin.device
    count = len(fans.origin)
    each, more = divmod(count, times)
    ends = torch.tensor([each * k + min(k, more) for k in range(times + 1)], device=device)[:, None, None]
    number = torch.arange(0, -(-count // times), NEIGHBOURS, device=device)[:, None]
    fan = ends[:-1] + number + torch.arange(NEIGHBOURS, device=device)
    real, fan = fan < ends[1:], fan.clamp(max=count - 1)
    middle = fans.origin.mean(dim=0)  # about it numbers stay small
    ways = torch.stack([torch.linalg.cross(fans.ahead, fans.up), fans.ahead, fans.origin - middle])[:, fan]
    center, reach = shapes.center - middle, _reach(shapes)
    shape, group = _near_groups(center.view(times, -1, 3), reach.view(times, -1, 1), ways)
    # Rows of memory in one piece are gathered several times as fast.
    rows = ways.permute(1, 2, 0, 4, 3).reshape(-1, 9 * NEIGHBOURS).index_select(0, group).view(-1, 3, 3, NEIGHBOURS)
    offset = center.index_select(0, shape)[:, :, None] - rows[:, 2]
    beside, front = (rows[:, :2] * offset[:, None]).sum(dim=2).unbind(dim=1)
    limit = reach.index_select(0, shape)[:, None]
    keep = (beside.abs() <= limit) & (front >= -limit) & real.view(-1, NEIGHBOURS).index_select(0, group)
    row, column = keep.nonzero().unbind(dim=1)
    place = NEIGHBOURS * group.index_select(0, row) + column
    return fan.view(-1).index_select(0, place), shape.index_select(0, row)


def _near_groups(center: Tensor, reach: Tensor, ways: Tensor) -> tuple[Tensor, Tensor]:
    """Indices [M] of shapes of all times and of groups of neighbouring fans of all times, of which any may come near.

    Only the middle fan of a group is looked at: what it passes at a distance, none of them comes near.

    Args:
        center, reach: [T, G, 3] and [T, G, 1], of the spheres around the shapes.
        ways: [3, T, groups, `NEIGHBOURS`, 3], the fans' normals, ways ahead and origins.
    """
    among = ways[:, :, :, NEIGHBOURS // 2]
    spread = (ways - among[:, :, :, None]).square().sum(dim=-1).amax(dim=-1).sqrt()[:, :, None]
    normal, ahead, origin = among
    far, room = torch.cdist(center, origin), reach + spread[2] + SLACK
    beside, front = (
        torch.baddbmm((way * origin).sum(dim=-1)[:, None], center, way.mT, beta=-1) for way in (normal, ahead)
    )
    near = (beside.abs_() <= room.addcmul(far, spread[0])) & (front >= -room.addcmul(far, spread[1]))
    time, shape, group = near.nonzero().unbind(dim=1)
    return time * center.shape[1] + shape, time * ways.shape[2] + group


def _reach(shapes: Primitives) -> Tensor:
    """The radius [G] of the sphere around each shape, with a margin."""
    return reaches(shapes) * (1 + SLACK) + 0.01


def _extents(shapes: Primitives) -> Tensor:
    """Half the sides [3, G] of the box around each shape, with a margin."""
    kind, (a, b, c) = shapes.kind, shapes.size.T
    wide = torch.where((kind == CYLINDER) | (kind == CAPSULE), a, b)
    high = torch.where(kind == CYLINDER, b, torch.where(kind == CAPSULE, a + b, c))
    return torch.stack([a, wide, high]) * (1 + SLACK) + 0.01


def _rings(pairs: _Pairs, rising: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs [M] whose fan may hit their shape, no plane, and rays from and until which it may [M], by their angles.

    In the plane of the fan, x ahead and z up, a box |start + x ahead + z up| <= half leaves an interval of x for all z
    that its sphere leaves, and then one of z.
    """
    start, ahead, up = pairs.planes.view(3, 3, -1)
    x, z = (-(start * way).sum(dim=0) for way in (ahead, up))
    low, high = (x - pairs.reach).clamp_(min=0), x + pairs.reach
    bottom, top = z - pairs.reach, z + pairs.reach
    least, most = _solve(pairs.extent, start, up, bottom, top, ahead)
    low, high = torch.maximum(low, least), torch.minimum(high, most)
    least, most = _solve(pairs.extent, start, ahead, low, high, up)
    bottom, top = torch.maximum(bottom, least), torch.minimum(top, most)
    seen = ((low <= high) & (bottom <= top) & (pairs.kind < PLANE)).nonzero()[:, 0]
    low, high, bottom, top = (values.index_select(0, seen) for values in (low, high, bottom, top))
    lowest = torch.minimum(torch.atan2(bottom, low), torch.atan2(bottom, high))
    highest = torch.maximum(torch.atan2(top, low), torch.atan2(top, high))
    first = torch.searchsorted(rising, lowest - 1e-4)
    return seen, first, torch.searchsorted(rising, highest + 1e-4, right=True)


def _solve(half: Tensor, start: Tensor, given: Tensor, low: Tensor, high: Tensor, way: Tensor) -> tuple[Tensor, Tensor]:
    """The interval [N] of s with |start + t given + s way| <= half in all three coordinates for some t in low..high."""
    one, other = given * low, given * high
    least, most = -half - start - torch.maximum(one, other), half - start - torch.minimum(one, other)
    steep = way + 1e-20  # so much changes nothing but zeros
    one, other = least / steep, most / steep
    return torch.minimum(one, other).amax(dim=0), torch.maximum(one, other).amin(dim=0)


def _cast_at_planes(nearest: Tensor, elevations: Tensor, pairs: _Pairs) -> None:
    """Cast all rays at the planes among the shapes: each sees them, so that no ray need be looked up."""
    mine = (pairs.kind == PLANE).nonzero()[:, 0]
    height, ahead, up = (pairs.planes[k].index_select(0, mine)[:, None] for k in (2, 5, 8))
    distance = time_to_plane(height, torch.addcmul(ahead * elevations.cos(), up, elevations.sin()))
    slot = pairs.fan.index_select(0, mine)[:, None].expand_as(distance)
    nearest.scatter_reduce_(0, slot, _packed(distance, mine[:, None]), "amin")


def _cast_at_field(nearest: Tensor, elevations: Tensor, pairs: _Pairs, field: HeightField) -> None:
    """Cast all rays at the height field, which each fan sees as a line."""
    mine = (pairs.kind == FIELD).nonzero()[:, 0]
    origin, ahead, up = pairs.planes.index_select(1, mine).view(3, 3, -1)
    distance = field.cast_fans(origin, ahead, up, elevations)
    slot = pairs.fan.index_select(0, mine)[:, None].expand_as(distance)
    nearest.scatter_reduce_(0, slot, _packed(distance, mine[:, None]), "amin")


def _cast_at(
    nearest: Tensor, kind: int, pairs: _Pairs, mine: Tensor, groups: tuple[Tensor, Tensor], rising: Tensor
) -> None:
    """Cast groups of rays, as of `_groups`, at the shapes of pairs `mine`, all of one kind."""
    planes, size = pairs.planes.index_select(1, mine), pairs.size.index_select(1, mine)
    if kind in UNIT_HITS:
        planes = (planes.view(3, 3, -1) / size).view(9, -1)
    ways, ends = torch.stack([rising.cos(), rising.sin()]), pairs.fan.index_select(0, mine) * len(rising)
    within = torch.arange(min(RINGS, len(rising)), device=mine.device)[:, None]
    for pair, first in zip(*(torch.split(values, PORTION) for values in groups), strict=True):
        # The last group of a fan begins so early that it ends with the fan.
        laser = first.clamp(max=len(rising) - len(within)) + within
        start, ahead, up = planes.index_select(1, pair).view(3, 3, 1, -1)
        cos, sin = ways.index_select(1, laser.view(-1)).view(2, *laser.shape)
        step = (ahead * cos).addcmul_(up, sin)
        if kind in UNIT_HITS:
            distance = UNIT_HITS[kind](start, step)
        else:
            distance = HITS[kind](start, step, size.index_select(1, pair)[:, None])
        slot = laser.add_(ends.index_select(0, pair))
        packed = _packed(distance, mine.index_select(0, pair))
        nearest.view(-1).scatter_reduce_(0, slot.view(-1), packed.view(-1), "amin")


def _groups(first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs [M] and first rays [M] of groups of `RINGS` rays that together reach from `first` to `last` [N]."""
    many = torch.div(last - first + RINGS - 1, RINGS, rounding_mode="floor")
    pair = torch.arange(len(first), device=first.device).repeat_interleave(many)
    before = (first - RINGS * (many.cumsum(0) - many)).index_select(0, pair)
    return pair, before + RINGS * torch.arange(len(pair), device=first.device)


def _packed(distance: Tensor, pair: Tensor) -> Tensor:
    """One number for both: distances are not negative, and their bits rise with them; 0 stands for no pair.

    The distances are the caller's to give away: they change.
    """
    bits = distance.abs_().view(torch.int32)
    return bits.to(torch.int64).bitwise_left_shift_(32).bitwise_or_(pair + 1)
