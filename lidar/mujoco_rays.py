"""Rays in any MuJoCo model, three ways that agree: our shapes in torch, MuJoCo's own rays, and Open3D's (Embree)."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch

from robovision.errors import UsageError
from robovision.lidar.primitives import BOX, CAPSULE, CYLINDER, ELLIPSOID, PLANE, Primitives
from robovision.types import Array

KINDS = {0: PLANE, 2: ELLIPSOID, 3: CAPSULE, 4: ELLIPSOID, 5: CYLINDER, 6: BOX}
"""MuJoCo's types of geoms that are shapes of ours; a sphere is an ellipsoid."""

NAMES = {0: "plane", 1: "hfield", 2: "sphere", 3: "capsule", 4: "ellipsoid", 5: "cylinder", 6: "box", 7: "mesh"}
FLAT = 500.0
"""Half the side, metres, of the square that stands for an infinite plane in Open3D."""


def shapes_of(model: Any, data: Any) -> Primitives:
    """All geoms of a model as they stand in `data`, in the order of their ids; call `mj_forward` before.

    Raises:
        UsageError: naming geoms that are none of our shapes: use `mujoco_cast` or `open3d_cast` then.
    """
    types = model.geom_type.tolist()
    others = sorted({NAMES.get(kind, str(kind)) for kind in types if kind not in KINDS})
    if others:
        raise UsageError(f"geoms of type {', '.join(others)} are none of our shapes; cast by MuJoCo or Open3D")
    size = model.geom_size.copy()
    sphere = model.geom_type == 2
    size[sphere] = size[sphere, :1]
    return Primitives(
        torch.tensor([KINDS[kind] for kind in types], dtype=torch.int64),
        torch.from_numpy(data.geom_xpos.astype(np.float32)),
        torch.from_numpy(data.geom_xmat.reshape(-1, 3, 3).astype(np.float32)),
        torch.from_numpy(size.astype(np.float32)),
    )


def mujoco_cast(model: Any, data: Any, origin: Array, directions: Array, without: int = -1) -> tuple[Array, Array]:
    """Distances [R], inf for none, and ids of the geoms hit [R], -1 for none, of rays from one origin [3].

    `without` is the body that does not count, such as the one that carries the sensor. Rays are cast one by one:
    `mj_multiRay` of MuJoCo 3.3.0 leaves out geoms of bodies that reach far around the origin.
    """
    mujoco: Any = importlib.import_module("mujoco")
    start, geom = np.asarray(origin, np.float64), np.zeros(1, np.int32)
    found, ids = np.full(len(directions), np.inf, np.float32), np.full(len(directions), -1, np.int64)
    for n, ray in enumerate(np.asarray(directions, np.float64)):
        distance = mujoco.mj_ray(model, data, start, ray, None, 1, without, geom)
        if distance >= 0:
            found[n], ids[n] = distance, geom[0]
    return found, ids


class Open3DScene:
    """The geoms of a model, as triangles, in Open3D's scene; round shapes are approximated, meshes are exact.

    Raises:
        UsageError: if Open3D is not installed, or a geom is of a type that is not known here.
    """

    def __init__(self, model: Any, data: Any) -> None:
        self._open3d = import_open3d()
        self._scene = self._open3d.t.geometry.RaycastingScene()
        for geom in range(model.ngeom):
            vertices, faces = self._triangles(model, geom)
            placed = vertices @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom]
            self._scene.add_triangles(
                np.ascontiguousarray(placed, np.float32), np.ascontiguousarray(faces.astype(np.uint32))
            )

    def cast(self, origins: Array, directions: Array) -> tuple[Array, Array]:
        """Distances [R], inf for none, and ids of the geoms hit [R], -1 for none, of rays from origins [R, 3]."""
        rays = np.concatenate([origins, directions], axis=1).astype(np.float32)
        answer = self._scene.cast_rays(self._open3d.core.Tensor(rays), nthreads=1)
        distance = answer["t_hit"].numpy()
        ids = answer["geometry_ids"].numpy().astype(np.int64)
        return distance, np.where(np.isfinite(distance), ids, -1)

    def _triangles(self, model: Any, geom: int) -> tuple[Array, Array]:
        kind, size = int(model.geom_type[geom]), model.geom_size[geom]
        make = self._open3d.geometry.TriangleMesh
        if kind == 7:
            mesh = int(model.geom_dataid[geom])
            first, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
            face, faces = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
            return model.mesh_vert[first : first + count], model.mesh_face[face : face + faces]
        if kind == 1:
            return _field_triangles(model, int(model.geom_dataid[geom]))
        if kind == 0:
            corners = FLAT * np.array([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
            return corners, np.array([[0, 1, 2], [0, 2, 3]])
        if kind == 6:
            shape = make.create_box(2, 2, 2).translate((-1, -1, -1))
            return np.asarray(shape.vertices) * size, np.asarray(shape.triangles)
        if kind == 5:
            shape = make.create_cylinder(size[0], 2 * size[1], 90)
        elif kind in (2, 3, 4):
            shape = make.create_sphere(1.0, 60)
        else:
            raise UsageError(f"geom {geom} is of type {NAMES.get(kind, kind)}, which Open3D can't be given here")
        vertices = np.asarray(shape.vertices)
        if kind == 4:
            vertices = vertices * size
        if kind == 2:
            vertices = vertices * size[0]
        if kind == 3:
            vertices = vertices * size[0] + np.sign(np.round(vertices, 6)) * np.array([0, 0, size[1]])
        return vertices, np.asarray(shape.triangles)


def _field_triangles(model: Any, field: int) -> tuple[Array, Array]:
    """The upper surface of a height field: two triangles between each four of its points, as MuJoCo cuts them."""
    rows, columns, first = (int(a[field]) for a in (model.hfield_nrow, model.hfield_ncol, model.hfield_adr))
    wide, deep, high, _ = model.hfield_size[field].tolist()
    x, y = np.meshgrid(np.linspace(-wide, wide, columns), np.linspace(-deep, deep, rows))
    heights = high * model.hfield_data[first : first + rows * columns]
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    cuts = [(0, 1, columns + 1), (0, columns + 1, columns)]
    faces = np.concatenate([corner[:, None] + np.array(cut) for cut in cuts])
    return np.column_stack([x.ravel(), y.ravel(), heights]), faces


def import_open3d() -> Any:
    """Open3D, or UsageError where it can't be used."""
    try:
        import open3d  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise UsageError(f"Open3D can't be used ({error}); install it: pip install 'robovision[lidar]'") from error
    return open3d
