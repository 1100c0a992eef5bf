"""Rays against boxes, ellipsoids, cylinders, capsules, planes and a height field, in plain torch: all rays and shapes
at once.

Shapes and sizes are MuJoCo's, and so are the answers: a ray that starts inside a shape hits it from inside, a plane is
hit from above only; so is the height field, which MuJoCo's rays hit from below and at its sides too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import threshold

from robovision.lidar.height_fields import HeightField

BOX, ELLIPSOID, CYLINDER, CAPSULE, PLANE, FIELD = range(6)
CHUNK = 2048
"""Rays that are cast at once: neighbours, if rays come in the order in which a sensor fires, that see few shapes."""

SLACK = 1e-3
"""Relative margin around a shape's sphere, which float32 needs far from the origin."""

TINY = 1e-30
"""Seconds or metres that change nothing but a zero."""


@dataclass(frozen=True, eq=False)
class Primitives:
    """G shapes in the world.

    Convention:
        kind: int64 [G], one of `BOX` to `FIELD`.
        center: [G, 3], metres.
        rotation: [G, 3, 3]; its columns are the shape's axes in the world.
        size: [G, 3], metres: half lengths of a box, radii of an ellipsoid; radius, half length (and nothing) of
            cylinders and of capsules, whose round ends come on top; of planes, which are infinite, nothing.
        field: the heights of what is of kind `FIELD`, in its frame; None where nothing is.
    """

    kind: Tensor
    center: Tensor
    rotation: Tensor
    size: Tensor
    field: HeightField | None = None

    def __len__(self) -> int:
        return len(self.kind)

    def to(self, device: str | torch.device) -> Primitives:
        """The same shapes on another device."""
        kind, center, rotation, size = (t.to(device) for t in (self.kind, self.center, self.rotation, self.size))
        return Primitives(kind, center, rotation, size, None if self.field is None else self.field.to(device))


def cast(shapes: Primitives, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Distances [R], inf where nothing is hit, and the shape hit, int64 [R], -1 for none.

    Args:
        shapes: in the world.
        origins: [R, 3], metres.
        directions: [R, 3], of length 1.
    """
    distance = torch.full_like(origins[:, 0], torch.inf)
    index = torch.full(origins.shape[:1], -1, dtype=torch.int64, device=origins.device)
    for first in range(0, len(origins), CHUNK):
        part = slice(first, first + CHUNK)
        seen = _in_view(shapes, origins[part], directions[part])
        i, near = _near(shapes.center[seen], reaches(shapes)[seen], origins[part], directions[part])
        j = seen[near]
        found = _hit(shapes, j, origins[part][i], directions[part][i])
        closest = distance[part].scatter_reduce(0, i, found, "amin")
        best = (found == closest[i]) & found.isfinite()
        distance[part] = closest
        chosen = torch.full_like(index[part], len(shapes)).scatter_reduce(0, i[best], j[best], "amin")
        index[part] = torch.where(chosen < len(shapes), chosen, -1)
    return distance, index


def normals(shapes: Primitives, index: Tensor, points: Tensor) -> Tensor:
    """Outward unit normals [P, 3] of the shapes index[p] >= 0 at points [P, 3] of their surfaces."""
    rotation = shapes.rotation[index]
    local = torch.einsum("pji,pj->ip", rotation, points - shapes.center[index]).contiguous()
    kinds, size = shapes.kind[index], shapes.size[index].T.contiguous()
    unit = torch.zeros_like(local)
    unit[2] = 1  # as of planes
    for kind, normal in normals_of(shapes.field).items():
        mine = (kinds == kind).nonzero()[:, 0]
        if len(mine):
            found = normal(local.index_select(1, mine), size.index_select(1, mine))
            unit[:, mine] = found / found.square().sum(dim=0).sqrt().clamp(min=1e-12)
    return torch.einsum("pij,jp->pi", rotation, unit)


def normals_of(field: HeightField | None) -> dict[int, Callable[[Tensor, Tensor], Tensor]]:
    """`NORMALS`, and those of a height field if there is one."""
    if field is None:
        return NORMALS
    return {**NORMALS, FIELD: lambda point, size: field.normal(point[0], point[1])}


def reaches(shapes: Primitives) -> Tensor:
    """The radius [G] of the sphere around each shape; of planes and height fields it is infinite."""
    size, kind = shapes.size, shapes.kind
    radius = torch.where(kind == BOX, size.norm(dim=1), size.amax(dim=1))
    radius = torch.where(kind == CYLINDER, size[:, :2].norm(dim=1), radius)
    radius = torch.where(kind == CAPSULE, size[:, 0] + size[:, 1], radius)
    return torch.where(kind >= PLANE, torch.inf, radius)


def _in_view(shapes: Primitives, origins: Tensor, directions: Tensor) -> Tensor:
    """Indices, int64 [S], of the shapes whose spheres reach into the pyramid around rays; all if they spread far."""
    middle = origins.mean(dim=0)
    ahead = directions.mean(dim=0)
    ahead = ahead / ahead.norm().clamp(min=1e-9)
    left = torch.linalg.cross(torch.eye(3, dtype=ahead.dtype, device=ahead.device)[2], ahead)
    left = left / left.norm().clamp(min=1e-9)
    depth = directions @ ahead
    if depth.min() < 0.2 or left.norm() < 0.5:
        return torch.arange(len(shapes), device=origins.device)
    reach = reaches(shapes) * (1 + SLACK) + (origins - middle).norm(dim=1).max() + 0.01
    offset = shapes.center - middle
    keep = offset @ ahead >= -reach
    for across in (left, torch.linalg.cross(ahead, left)):
        slope = (directions @ across) / depth
        for sign, most in ((1, slope.max()), (-1, -slope.min())):
            outward = (sign * across - most * ahead) / (1 + most.square()).sqrt()
            keep &= offset @ outward <= reach
    seen: Tensor = keep.nonzero()[:, 0]
    return seen


def _near(center: Tensor, reach: Tensor, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of pairs of a ray and a sphere, of centers [S, 3] and radii [S], that the ray comes near."""
    # Distances from a middle keep the numbers small.
    middle = origins.mean(dim=0)
    start, center = origins - middle, center - middle
    along = directions @ center.T - (start * directions).sum(dim=1, keepdim=True)
    square = torch.addmm(start.square().sum(dim=1, keepdim=True), start, center.T, alpha=-2)
    square += center.square().sum(dim=1)
    limit = (reach * (1 + SLACK) + 0.01).square() + SLACK * center.square().sum(dim=1) * 0.01
    near = (square - along.square() <= limit) & (along >= -(reach + 0.01))
    i, j = near.nonzero().unbind(dim=1)
    return i, j


def _hit(shapes: Primitives, j: Tensor, origins: Tensor, directions: Tensor) -> Tensor:
    """The distance [P] at which ray p hits shape j[p], inf for never."""
    rotation, kinds = shapes.rotation[j], shapes.kind[j]
    start = torch.einsum("pji,pj->ip", rotation, origins - shapes.center[j])
    step = torch.einsum("pji,pj->ip", rotation, directions)
    size = shapes.size[j].T
    result = torch.full_like(start[0], torch.inf)
    for kind, hit in HITS.items():
        chosen = (kinds == kind).nonzero()[:, 0]
        if len(chosen):
            result[chosen] = hit(start[:, chosen], step[:, chosen], size[:, chosen])
    if shapes.field is not None:
        chosen = (kinds == FIELD).nonzero()[:, 0]
        result[chosen] = shapes.field.cast(start[:, chosen], step[:, chosen])
    return result


# In a shape's own frame; the coordinates come first, so that every operation runs along memory. Nothing is chosen by
# `torch.where`, which takes as long as thirty sums: what does not hold is divided by 0.


def _box(start: Tensor, step: Tensor, size: Tensor) -> Tensor:
    inverse = (step + 1e-20).reciprocal_()  # so much changes nothing but zeros
    return _slabs(-start * inverse, size * inverse.abs())


def _cube(start: Tensor, step: Tensor) -> Tensor:
    inverse = (step + 1e-20).reciprocal_()
    return _slabs(-start * inverse, inverse.abs())


def _slabs(middle: Tensor, half: Tensor) -> Tensor:
    """The time [P] at which rays that are between pairs of planes at times `middle` +- `half`, [3, P], enter all."""
    enter, leave = (middle - half).amax(dim=0), middle.add_(half).amin(dim=0)
    return _only(_first(enter, leave), _holds(torch.le, enter, leave))


def _ellipsoid(start: Tensor, step: Tensor, size: Tensor) -> Tensor:
    return _ball(start / size, step / size)


def _ball(start: Tensor, step: Tensor) -> Tensor:
    return _first(*_roots(start, step))


def _cylinder(start: Tensor, step: Tensor, size: Tensor) -> Tensor:
    sides = _side(start, step, size)
    return _first(*sides, *(_cap(start, step, size, sign) for sign in (1.0, -1.0)))


def _capsule(start: Tensor, step: Tensor, size: Tensor) -> Tensor:
    found = [*_side(start, step, size)]
    for sign in (1.0, -1.0):
        offset = start.clone()
        offset[2] -= sign * size[1]
        roots = _roots(offset / size[0], step / size[0])
        found += [_only(root, _holds(torch.ge, sign * (offset[2] + root * step[2]), 0.0)) for root in roots]
    return _first(*found)


def _plane(start: Tensor, step: Tensor, size: Tensor) -> Tensor:
    return time_to_plane(start[2], step[2])


def time_to_plane(height: Tensor, slope: Tensor) -> Tensor:
    """When what rises by `slope` from a height above a plane meets it from above; inf for never. Shapes broadcast."""
    return _only(_first(-height / slope.clamp(max=-1e-12)), _holds(torch.lt, slope, -1e-12))


def _side(start: Tensor, step: Tensor, size: Tensor) -> list[Tensor]:
    """Where rays meet the round sides of cylinders, twice [P]; infinite for never."""
    roots = _roots(start[:2] / size[0], step[:2] / size[0])
    return [_only(root, _holds(torch.le, (start[2] + root * step[2]).abs_(), size[1])) for root in roots]


def _cap(start: Tensor, step: Tensor, size: Tensor, sign: float) -> Tensor:
    time = (sign * size[1] - start[2]) / (step[2] + 1e-20)
    apart = (start[:2] + time * step[:2]).square_().sum(dim=0)
    return _only(time, _holds(torch.le, apart, size[0].square()))


def _roots(start: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """The times [P] and [P] at which start + time * step, [2 or 3, P], has length 1; infinite for never.

    The middle of the chord is found first: far from a small sphere the textbook formula would lose all digits.
    """
    square = step.square().sum(dim=0).clamp_(min=1e-24)
    middle = -(start * step).sum(dim=0) / square
    room = 1 - (start + middle * step).square_().sum(dim=0)
    half = (room.clamp(min=0) / square).sqrt_()
    middle = _only(middle, _holds(torch.ge, room, 0.0))
    return middle - half, middle + half


def _first(*times: Tensor) -> Tensor:
    """The smallest time [P] that is not negative; inf where all are."""
    result = threshold(times[0], -TINY, torch.inf)
    for time in times[1:]:
        result = torch.minimum(result, threshold(time, -TINY, torch.inf))
    return result


def _holds(compare: Callable[..., Tensor], one: Tensor, other: Tensor | float) -> Tensor:
    """1 where a comparison holds and 0 elsewhere, of the numbers' own type."""
    return compare(one, other, out=torch.empty_like(one))


def _only(time: Tensor, holds: Tensor) -> Tensor:
    """The times where `holds` is 1; where it is 0 infinity, or minus infinity for what was negative."""
    return (time + TINY).div_(holds)


HITS = {BOX: _box, ELLIPSOID: _ellipsoid, CYLINDER: _cylinder, CAPSULE: _capsule, PLANE: _plane}
"""By kind, the distance [P], inf for never, of a start, along a direction, to shapes of sizes, all [3, P]."""

UNIT_HITS = {BOX: _cube, ELLIPSOID: _ball}
"""The same of shapes of sizes 1: what any box and ellipsoid is to a start and a direction that are divided by its."""


def _box_normal(point: Tensor, size: Tensor) -> Tensor:
    share = point.abs() / size.clamp(min=1e-9)
    return _holds(torch.eq, share, share.amax(dim=0)).mul_(point.sign())


def _ellipsoid_normal(point: Tensor, size: Tensor) -> Tensor:
    return point / size.clamp(min=1e-9).square()


def _cylinder_normal(point: Tensor, size: Tensor) -> Tensor:
    x, y, z = point
    on_cap = z.abs() - size[1] > (x.square() + y.square()).sqrt() - size[0]
    return torch.stack([torch.where(on_cap, 0.0, x), torch.where(on_cap, 0.0, y), torch.where(on_cap, z.sign(), 0.0)])


def _capsule_normal(point: Tensor, size: Tensor) -> Tensor:
    x, y, z = point
    return torch.stack([x, y, z - torch.maximum(torch.minimum(z, size[1]), -size[1])])


NORMALS: dict[int, Callable[[Tensor, Tensor], Tensor]] = {
    BOX: _box_normal,
    ELLIPSOID: _ellipsoid_normal,
    CYLINDER: _cylinder_normal,
    CAPSULE: _capsule_normal,
}
"""By kind, a vector [3, P] that points outwards at points of the surface of shapes of sizes, all [3, P]; planes: z."""
