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

from robovision.lidar.primitives import (
    BOX,
    CAPSULE,
    CYLINDER,
    ELLIPSOID,
    HITS,
    NORMALS,
    PLANE,
    SLACK,
    Primitives,
    reaches,
    time_to_plane,
)

NOTHING = 0x7F800000 << 32
"""What stands for a ray that hits nothing: the bits of an infinite distance, before any number of a pair."""

SCALED = (BOX, ELLIPSOID)
"""Shapes that are cast at where they are cubes and balls of size 1: their sizes need not be looked up for each ray."""

PORTION = 1 << 15
"""Rays that are cast at once."""


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


def cast_fans(worlds: Sequence[Primitives], fans: Fans) -> tuple[Tensor, Tensor, Tensor]:
    """What the rays hit, as `primitives.cast` tells.

    Args:
        worlds: the same shapes, at one or several times; the fans are split evenly among them, in order.
        fans: all rays.

    Returns:
        Distances [C, L], inf where nothing is hit; the shapes hit, int64 [C, L], -1 for none; and the cosines
        [C, L] of incidence there, 0..1, or 0.
    """
    _keep_pages()
    rising, order = fans.elevations.sort()
    rays, lasers, ones = (
        torch.stack([rising.cos(), rising.sin()]),
        len(rising),
        torch.ones_like(rising[:1]).expand(3, 1),
    )
    fan, shape = _pairs(worlds, fans)
    world = Primitives(*(torch.cat([getattr(w, n) for w in worlds]) for n in ("kind", "center", "rotation", "size")))
    kind, size = world.kind[shape], _take(world.size.T, shape)
    planes = _planes(world, fans, fan, shape)
    first, counts = _rings(kind, size, planes, _reach(world)[shape], rising)
    nearest = torch.full((len(fans.origin) * lasers,), NOTHING, device=fan.device)
    _cast_at_planes(nearest.view(-1, lasers), fans.elevations, fan, planes, (kind == PLANE).nonzero()[:, 0])
    for k, hit in HITS.items():
        for mine in _portions(((kind == k) & (counts > 0)).nonzero()[:, 0], counts):
            many = counts[mine]
            row = torch.arange(len(mine), device=mine.device).repeat_interleave(many)
            ring = (first[mine] - many.cumsum(0) + many).index_select(0, row)
            ring += torch.arange(len(row), device=row.device)
            own, extent = planes.index_select(1, mine), size.index_select(1, mine)
            if k in SCALED:
                own, extent = (own.view(3, 3, -1) / extent).view(9, -1), ones
            else:
                extent = _take(extent, row)
            distance = hit(*_along(own, rays, row, ring), extent)
            slot = (fan[mine] * lasers).index_select(0, row) + order.index_select(0, ring)
            nearest.scatter_reduce_(0, slot, _packed(distance, mine.index_select(0, row)), "amin")
    distance = (nearest >> 32).to(torch.int32).view(torch.float32)
    hits = distance.isfinite().nonzero()[:, 0]
    row = nearest.index_select(0, hits) & 0xFFFFFFFF
    index = torch.full_like(nearest, -1)
    index.index_copy_(0, hits, (shape % max(1, len(worlds[0]))).index_select(0, row))
    found = _facing(kind, size, planes, fans.elevations, row, hits % lasers, distance.index_select(0, hits))
    facing = torch.zeros_like(distance).index_copy_(0, hits, found)
    distance, index, facing = (values.view(-1, lasers) for values in (distance, index, facing))
    return distance, index, facing


@cache
def _keep_pages() -> None:
    """Have glibc keep what is freed, up to 64 MB, for the next cast: fresh pages cost as much as the rays.

    It raises that limit by itself, to twice the largest block of up to 32 MB that was ever given back.
    """
    torch.empty(31 << 20, dtype=torch.uint8)


def _portions(pairs: Tensor, counts: Tensor) -> Sequence[Tensor]:
    """Pairs a portion at a time, each of about `PORTION` rays, so that what is computed of them stays in the cache."""
    if not len(pairs):
        return []
    portion = counts[pairs].cumsum(0) // PORTION
    return torch.split(pairs, torch.unique_consecutive(portion, return_counts=True)[1].tolist())


def _cast_at_planes(nearest: Tensor, elevations: Tensor, fan: Tensor, planes: Tensor, mine: Tensor) -> None:
    """Cast all rays at the planes of pairs `mine`: each sees a plane, so that no ray need be looked up."""
    if not len(mine):
        return
    height, ahead, up = (planes[k].index_select(0, mine)[:, None] for k in (2, 5, 8))
    distance = time_to_plane(height, torch.addcmul(ahead * elevations.cos(), up, elevations.sin()))
    slot = fan.index_select(0, mine)[:, None].expand_as(distance)
    nearest.scatter_reduce_(0, slot, _packed(distance, mine[:, None]), "amin")


def _packed(distance: Tensor, row: Tensor) -> Tensor:
    """One number for both: distances are not negative, and their bits rise with them."""
    return ((distance + 0.0).view(torch.int32).to(torch.int64) << 32) | row


def _facing(
    kind: Tensor, size: Tensor, planes: Tensor, elevations: Tensor, row: Tensor, laser: Tensor, distance: Tensor
) -> Tensor:
    """The cosines [P] of incidence of lasers [P] on the shapes of pairs [P], hit at distances [P]."""
    rays = torch.stack([elevations.cos(), elevations.sin()])
    # On planes, which most rays hit, it is how steeply the ray falls.
    cos, sin = _take(rays, laser)
    facing = torch.addcmul(planes[5].index_select(0, row) * cos, planes[8].index_select(0, row), sin).abs()
    kinds = kind.index_select(0, row)
    for k, normal in NORMALS.items():
        mine = (kinds == k).nonzero()[:, 0]
        pair = row.index_select(0, mine)
        start, step = _along(planes, rays, pair, laser.index_select(0, mine))
        ways = normal(torch.addcmul(start, step, distance.index_select(0, mine)), _take(size, pair))
        length = ways.square().sum(dim=0).sqrt().clamp(min=1e-12)
        facing.index_copy_(0, mine, (ways * step).sum(dim=0).abs() / length)
    return facing


def _pairs(worlds: Sequence[Primitives], fans: Fans) -> tuple[Tensor, Tensor]:
    """Indices of fans and of shapes, those of all worlds one after the other, whose spheres come near the fans."""
    found = []
    normal = torch.linalg.cross(fans.ahead, fans.up)
    sections = torch.arange(len(fans.origin), device=normal.device).tensor_split(len(worlds))
    for n, (shapes, part) in enumerate(zip(worlds, sections, strict=True)):
        reach = _reach(shapes)[:, None]
        beside, ahead = (
            shapes.center @ way[part].T - (fans.origin[part] * way[part]).sum(dim=1) for way in (normal, fans.ahead)
        )
        shape, fan = ((beside.abs() <= reach) & (ahead >= -reach)).nonzero().unbind(dim=1)
        found.append(torch.stack([part[fan], shape + n * len(shapes)]))
    fan, shape = torch.cat(found, dim=1)
    return fan, shape


def _reach(shapes: Primitives) -> Tensor:
    return reaches(shapes) * (1 + SLACK) + 0.01


def _planes(world: Primitives, fans: Fans, fan: Tensor, shape: Tensor) -> Tensor:
    """Origin, ahead and up of the fans in the frames of the shapes: [9, N]."""
    turn = _take(world.rotation.flatten(1).T, shape).view(3, 3, -1)
    offset = _take(fans.origin.T, fan) - _take(world.center.T, shape)
    ways = (offset, _take(fans.ahead.T, fan), _take(fans.up.T, fan))
    return torch.cat([(turn * way[:, None]).sum(dim=0) for way in ways])


def _rings(kind: Tensor, size: Tensor, planes: Tensor, reach: Tensor, rising: Tensor) -> tuple[Tensor, Tensor]:
    """First ray and number of rays [N] of each fan that may hit each shape: between the lowest and the highest angle.

    None at planes, which all rays may hit. In the plane of the fan, x ahead and z up, a box
    |start + x ahead + z up| <= half leaves an interval of x for all z that its sphere leaves, and then one of z.
    """
    start, ahead, up = planes.view(3, 3, -1)
    half = size.clone()
    half[1] = torch.where((kind == CYLINDER) | (kind == CAPSULE), size[0], size[1])
    half[2] = torch.where(kind == CYLINDER, size[1], torch.where(kind == CAPSULE, size[0] + size[1], size[2]))
    half = half * (1 + SLACK) + 0.01
    x, z = (-(start * way).sum(dim=0) for way in (ahead, up))
    low, high = (x - reach).clamp(min=0), x + reach
    bottom, top = z - reach, z + reach
    least, most = _solve(half, start, up, bottom, top, ahead)
    low, high = torch.maximum(low, least), torch.minimum(high, most)
    least, most = _solve(half, start, ahead, low, high, up)
    bottom, top = torch.maximum(bottom, least), torch.minimum(top, most)
    lowest = torch.atan2(bottom, torch.where(bottom > 0, high, low))
    highest = torch.atan2(top, torch.where(top > 0, low, high))
    first = torch.searchsorted(rising, lowest - 1e-4)
    counts = torch.searchsorted(rising, highest + 1e-4, right=True) - first
    counts = torch.where((low <= high) & (bottom <= top), counts.clamp(min=0), 0)
    return first, torch.where(kind == PLANE, 0, counts)


def _solve(half: Tensor, start: Tensor, given: Tensor, low: Tensor, high: Tensor, way: Tensor) -> tuple[Tensor, Tensor]:
    """The interval [N] of s with |start + t given + s way| <= half in all three coordinates for some t in low..high."""
    one, other = given * low, given * high
    least, most = -half - start - torch.maximum(one, other), half - start - torch.minimum(one, other)
    steep = torch.where(way.abs() < 1e-6, 1e-6, way)
    one, other = least / steep, most / steep
    return torch.minimum(one, other).amax(dim=0), torch.maximum(one, other).amin(dim=0)


def _along(planes: Tensor, rays: Tensor, row: Tensor, ring: Tensor) -> tuple[Tensor, Tensor]:
    """Start and direction [3, P] of rays in the frames of the shapes."""
    start, ahead, up = _take(planes, row).view(3, 3, -1)
    cos, sin = _take(rays, ring)
    return start, torch.addcmul(ahead * cos, up, sin)


def _take(values: Tensor, index: Tensor) -> Tensor:
    """Columns [K, P] of values [K, N]; quicker than indexing."""
    return values.gather(1, index.expand(len(values), -1))
