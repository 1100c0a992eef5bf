"""Rays against boxes, ellipsoids, cylinders, capsules and planes, in plain torch: all rays and shapes at once.

Shapes and sizes are MuJoCo's, and so are the answers: a ray that starts inside a shape hits it from inside, a plane is
hit from above only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BOX, ELLIPSOID, CYLINDER, CAPSULE, PLANE = range(5)
CHUNK = 2048
"""Rays that are cast at once: neighbours, if rays come in the order in which a sensor fires, that see few shapes."""

SLACK = 1e-3
"""Relative margin around a shape's sphere, which float32 needs far from the origin."""


@dataclass(frozen=True, eq=False)
class Primitives:
    """G shapes in the world.

    Convention:
        kind: int64 [G], one of `BOX` to `PLANE`.
        center: [G, 3], metres.
        rotation: [G, 3, 3]; its columns are the shape's axes in the world.
        size: [G, 3], metres: half lengths of a box, radii of an ellipsoid; radius, half length (and nothing) of
            cylinders and of capsules, whose round ends come on top; of planes, which are infinite, nothing.
    """

    kind: Tensor
    center: Tensor
    rotation: Tensor
    size: Tensor

    def __len__(self) -> int:
        return len(self.kind)

    def to(self, device: str | torch.device) -> Primitives:
        """The same shapes on another device."""
        return Primitives(*(t.to(device) for t in (self.kind, self.center, self.rotation, self.size)))


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
        i, near = _near(shapes.center[seen], _reach(shapes)[seen], origins[part], directions[part])
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
    kind, size = shapes.kind[index], shapes.size[index]
    local = torch.einsum("pji,pj->pi", shapes.rotation[index], points - shapes.center[index])
    radial = torch.stack([local[:, 0], local[:, 1], torch.zeros_like(local[:, 2])], dim=1)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=local.dtype, device=local.device).expand_as(local)
    height = size[:, 1]
    axis = (local.abs() / size.clamp(min=1e-9)).argmax(dim=1, keepdim=True)
    face = torch.zeros_like(local).scatter(1, axis, local.gather(1, axis).sign())
    on_cap = (local[:, 2].abs() - height) > (radial.norm(dim=1) - size[:, 0])
    ends = torch.maximum(torch.minimum(local[:, 2], height), -height)
    choices = {
        BOX: face,
        ELLIPSOID: local / size.clamp(min=1e-9).square(),
        CYLINDER: torch.where(on_cap[:, None], up * local[:, 2:].sign(), radial),
        CAPSULE: torch.stack([local[:, 0], local[:, 1], local[:, 2] - ends], dim=1),
        PLANE: up,
    }
    result = torch.zeros_like(local)
    for k, normal in choices.items():
        result = torch.where((kind == k)[:, None], normal, result)
    turned = torch.einsum("pij,pj->pi", shapes.rotation[index], result)
    unit: Tensor = turned / turned.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return unit


def _reach(shapes: Primitives) -> Tensor:
    """The radius [G] of the sphere around each shape; of planes it is infinite."""
    size, kind = shapes.size, shapes.kind
    radius = torch.where(kind == BOX, size.norm(dim=1), size.amax(dim=1))
    radius = torch.where(kind == CYLINDER, size[:, :2].norm(dim=1), radius)
    radius = torch.where(kind == CAPSULE, size[:, 0] + size[:, 1], radius)
    return torch.where(kind == PLANE, torch.inf, radius)


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
    reach = _reach(shapes) * (1 + SLACK) + (origins - middle).norm(dim=1).max() + 0.01
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
    start = torch.einsum("pji,pj->pi", rotation, origins - shapes.center[j])
    step = torch.einsum("pji,pj->pi", rotation, directions)
    result = torch.full_like(start[:, 0], torch.inf)
    for kind, hit in _HITS.items():
        chosen = (kinds == kind).nonzero()[:, 0]
        if len(chosen):
            result[chosen] = hit(start[chosen], step[chosen], shapes.size[j[chosen]])
    return result


def _box(start: Tensor, step: Tensor, size: Tensor) -> Tensor:
    inverse = 1 / torch.where(step.abs() < 1e-12, 1e-12, step)
    one, other = (-size - start) * inverse, (size - start) * inverse
    enter = torch.minimum(one, other).amax(dim=1)
    leave = torch.maximum(one, other).amin(dim=1)
    return _first(torch.where(enter <= leave, torch.stack([enter, leave]), torch.inf))


def _ellipsoid(start: Tensor, step: Tensor, size: Tensor) -> Tensor:
    return _first(_roots(start / size, step / size))


def _cylinder(start: Tensor, step: Tensor, size: Tensor) -> Tensor:
    sides = _side(start, step, size)
    caps = torch.stack([_cap(start, step, size, 1.0), _cap(start, step, size, -1.0)])
    return _first(torch.cat([sides, caps]))


def _capsule(start: Tensor, step: Tensor, size: Tensor) -> Tensor:
    found = [_side(start, step, size)]
    for sign in (1.0, -1.0):
        offset = start.clone()
        offset[:, 2] -= sign * size[:, 1]
        roots = _roots(offset / size[:, :1], step / size[:, :1])
        found.append(torch.where(sign * (offset[:, 2] + roots * step[:, 2]) >= 0, roots, torch.inf))
    return _first(torch.cat(found))


def _plane(start: Tensor, step: Tensor, size: Tensor) -> Tensor:
    time = -start[:, 2] / torch.where(step[:, 2] < -1e-12, step[:, 2], -1e-12)
    return torch.where((step[:, 2] < -1e-12) & (time >= 0), time, torch.inf)


def _side(start: Tensor, step: Tensor, size: Tensor) -> Tensor:
    """Where rays meet the round sides [2, P] of cylinders; inf for never."""
    flat = torch.tensor([1.0, 1.0, 0.0], dtype=start.dtype, device=start.device) / size[:, :1]
    roots = _roots(start * flat, step * flat)
    return torch.where((start[:, 2] + roots * step[:, 2]).abs() <= size[:, 1], roots, torch.inf)


def _cap(start: Tensor, step: Tensor, size: Tensor, sign: float) -> Tensor:
    time = (sign * size[:, 1] - start[:, 2]) / torch.where(step[:, 2].abs() < 1e-12, 1e-12, step[:, 2])
    inside = (start[:, :2] + time[:, None] * step[:, :2]).square().sum(dim=1) <= size[:, 0].square()
    return torch.where(inside, time, torch.inf)


def _roots(start: Tensor, step: Tensor) -> Tensor:
    """The times [2, P] at which start + time * step has length 1; inf for never.

    The middle of the chord is found first: far from a small sphere the textbook formula would lose all digits.
    """
    square = step.square().sum(dim=1).clamp(min=1e-24)
    middle = -(start * step).sum(dim=1) / square
    room = 1 - (start + middle[:, None] * step).square().sum(dim=1)
    half = (room.clamp(min=0) / square).sqrt()
    return torch.where(room >= 0, torch.stack([middle - half, middle + half]), torch.inf)


def _first(times: Tensor) -> Tensor:
    """The smallest time [P] of [K, P] that is not negative."""
    return torch.where(times >= 0, times, torch.inf).amin(dim=0)


_HITS = {BOX: _box, ELLIPSOID: _ellipsoid, CYLINDER: _cylinder, CAPSULE: _capsule, PLANE: _plane}
