"""A model's meshes with fewer triangles, for drawing only."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import mujoco
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

TOLERANCE = 0.003
"""How far a surface may move, as a share of its mesh's diagonal: under a pixel until the mesh fills 330 of them."""
OVERVIEW, COARSEST = 0.0005, 0.02
"""Small meshes may move by more: by a share of the model's extent, under a pixel until the model fills 2000 of them,
but not by more than this share of their diagonal."""
ROUNDS = (1 / 16,) * 3 + (1 / 4,) * 3 + (1,) * 4
"""Shares of the squared tolerance that one round after another allows, so that the cheapest go first."""
UPPER = np.triu_indices(4)
TWICE = np.where(UPPER[0] == UPPER[1], 1.0, 2.0)


def coarsened(model: mujoco.MjModel, geomgroups: Sequence[int]) -> mujoco.MjModel:
    """A copy of the model whose shown meshes are drawn with fewer triangles; not for physics.

    Meshes with texture coordinates keep all of theirs. Vertices keep their numbers and places, so triangles and the
    choice of their corners' normals are all that changes.
    """
    coarse = copy.copy(model)
    shown = (model.geom_type == mujoco.mjtGeom.mjGEOM_MESH) & np.isin(model.geom_group, geomgroups)
    chosen = np.unique(model.geom_dataid[shown])
    chosen = chosen[model.mesh_texcoordadr[chosen] < 0]
    if not len(chosen):
        return coarse
    owner = np.repeat(np.arange(model.nmesh), model.mesh_facenum)
    rows = np.flatnonzero(np.isin(owner, chosen))
    owner = owner[rows]
    vertices = model.mesh_vert.astype(np.float64)
    faces = _welded(model)[model.mesh_face[rows] + model.mesh_vertadr[owner, None]]
    normals = model.mesh_facenormal[rows] + model.mesh_normaladr[owner, None]

    low, high = (f.reduceat(vertices, model.mesh_vertadr) for f in (np.minimum, np.maximum))
    diagonal = np.sqrt(((high - low) ** 2).sum(1))
    allowed = np.maximum(TOLERANCE * diagonal, np.minimum(OVERVIEW * model.stat.extent, COARSEST * diagonal))
    fewer = simplify(vertices, faces, np.repeat(allowed, model.mesh_vertnum))
    nearest = _nearest_normals(model.mesh_normal, faces, normals, fewer, _unit(_cross(vertices, fewer)))
    mesh = np.repeat(np.arange(model.nmesh), model.mesh_vertnum)[fewer[:, 0]]
    for i in chosen:
        mine = np.flatnonzero(mesh == i)
        where = slice(model.mesh_faceadr[i], model.mesh_faceadr[i] + len(mine))
        coarse.mesh_face[where] = fewer[mine] - model.mesh_vertadr[i]
        coarse.mesh_facenormal[where] = nearest[mine] - model.mesh_normaladr[i]
        coarse.mesh_facenum[i] = len(mine)
    return coarse


def simplify(vertices: Floats, faces: Indices, tolerance: Floats) -> Indices:
    """A coarser triangulation of a surface by some of its vertices, [F', 3].

    Quadric error metrics (Garland and Heckbert, SIGGRAPH 1997) with a vertex moved onto a neighbour: it may while the
    squared distances there to the planes of all triangles merged into it, plus the way's square times one less the
    cosine of the normals (so that shading stays), sum to at most its tolerance squared. Many move at once, by lot, but
    never two of one triangle.

    Args:
        vertices: places [V, 3].
        faces: each triangle's vertices [F, 3]; vertices at one place must share a number, or the surface tears.
        tolerance: [V], in the unit of the places.
    """
    quadrics = _quadrics(vertices, faces)
    powers = _powers(vertices)
    normals = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], _cross(vertices, faces))
    normals = _unit(normals)
    count = len(vertices)
    random = np.random.default_rng(0)
    for share in ROUNDS:
        source, target = faces.ravel(), faces[:, [1, 2, 0]].ravel()  # the way back is in the neighbouring triangle
        error = np.einsum("ni,ni->n", quadrics[source], powers[target])
        bend = 1 - np.einsum("ni,ni->n", normals[source], normals[target])
        error += bend * ((vertices[source] - vertices[target]) ** 2).sum(1)
        least = np.full(count, np.inf)
        np.minimum.at(least, source, error)
        goal = np.arange(count)
        best = error <= least[source]
        goal[source[best]] = target[best]
        allowed = (least <= share * tolerance**2) & ~_turned(vertices, faces, goal)
        lot = np.where(allowed, random.permutation(count), count)
        lowest = np.full(count, count)
        np.minimum.at(lowest, source, lot[target])
        np.minimum.at(lowest, target, lot[source])
        moves = lot < lowest
        goal = np.where(moves, goal, np.arange(count))
        np.add.at(quadrics, goal[moves], quadrics[moves])
        faces = goal[faces]
        faces = faces[(faces != faces[:, [1, 2, 0]]).all(1)]
    return faces


def _welded(model: mujoco.MjModel) -> Indices:
    """For each vertex the first of its mesh at the same place, [V]."""
    mesh = np.repeat(np.arange(model.nmesh), model.mesh_vertnum)
    keys = np.column_stack([mesh, model.mesh_vert])
    order = np.lexsort(keys.T)
    new = np.concatenate([[True], (keys[order[1:]] != keys[order[:-1]]).any(1)])
    first: Indices = np.empty(len(keys), np.intp)
    first[order] = order[new][np.cumsum(new) - 1]
    return first


def _nearest_normals(normals: Floats, old: Indices, old_normals: Indices, new: Indices, facing: Floats) -> Indices:
    """For each corner of the new triangles, of the normals its vertex had, the one nearest the triangle's, [F', 3]."""
    order = np.argsort(old.ravel(), kind="stable")
    vertex, normal = old.ravel()[order], old_normals.ravel()[order]
    start = np.searchsorted(vertex, new.ravel())
    many = np.searchsorted(vertex, new.ravel(), "right") - start
    pick = np.zeros(len(start), np.intp)
    best = np.full(len(start), -np.inf)
    facing = np.repeat(facing, 3, axis=0)
    for k in range(many.max(initial=0)):
        rows = np.flatnonzero(many > k)
        candidate = normal[start[rows] + k]
        cosine = (normals[candidate] * facing[rows]).sum(1)
        better = cosine > best[rows]
        best[rows[better]], pick[rows[better]] = cosine[better], candidate[better]
    return pick.reshape(-1, 3)


def _turned(vertices: Floats, faces: Indices, goal: Indices) -> NDArray[np.bool_]:
    """Vertices whose move to their goal would turn a triangle by over 75 degrees, [V]."""
    turned = np.zeros(len(vertices), bool)
    before = _cross(vertices, faces)
    for corner in range(3):
        moved = faces.copy()
        moved[:, corner] = goal[faces[:, corner]]
        after = _cross(vertices, moved)
        cosine, scale = (before * after).sum(1), (before**2).sum(1) * (after**2).sum(1)
        gone = (moved[:, corner, None] == np.delete(faces, corner, axis=1)).any(1)
        turned[faces[~gone & ((cosine < 0) | (cosine**2 < 0.0625 * scale)), corner]] = True
    return turned


def _quadrics(vertices: Floats, faces: Indices) -> Floats:
    """For each vertex the sum of its triangles' squared planes, and at open rims of upright ones, [V, 10]."""
    normal = _unit(_cross(vertices, faces))
    plane = _squared_planes(normal, vertices[faces[:, 0]])
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    _, first, uses = np.unique(edges.min(1) * len(vertices) + edges.max(1), return_index=True, return_counts=True)
    rim = first[uses == 1]
    start, end = vertices[edges[rim, 0]], vertices[edges[rim, 1]]
    upright = _squared_planes(_unit(np.cross(end - start, normal[rim % len(faces)])), start)
    quadrics = np.zeros((len(vertices), 10))
    for corner in range(3):
        np.add.at(quadrics, faces[:, corner], plane)
    for corner in range(2):
        np.add.at(quadrics, edges[rim, corner], upright)
    return quadrics


def _squared_planes(normal: Floats, point: Floats) -> Floats:
    """The upper half of p p^T for planes p = (n, -n.x), [N, 10]."""
    plane = np.column_stack([normal, -(normal * point).sum(1)])
    squared: Floats = plane[:, UPPER[0]] * plane[:, UPPER[1]]
    return squared


def _powers(point: Floats) -> Floats:
    """What a quadric is multiplied with to give its value at a point, [N, 10]."""
    homogeneous = np.column_stack([point, np.ones(len(point))])
    powers: Floats = homogeneous[:, UPPER[0]] * homogeneous[:, UPPER[1]] * TWICE
    return powers


def _cross(vertices: Floats, faces: Indices) -> Floats:
    """Each triangle's normal, twice its area long, [F, 3]."""
    corner = vertices[faces[:, 0]]
    a, b = vertices[faces[:, 1]] - corner, vertices[faces[:, 2]] - corner
    return a[:, [1, 2, 0]] * b[:, [2, 0, 1]] - a[:, [2, 0, 1]] * b[:, [1, 2, 0]]


def _unit(vectors: Floats) -> Floats:
    unit: Floats = vectors / np.maximum(np.sqrt((vectors**2).sum(1, keepdims=True)), 1e-30)
    return unit
