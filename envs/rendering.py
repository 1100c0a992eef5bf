"""Pixels, depth and segmentation of a MuJoCo model, by named presets of quality against speed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from robovision.envs.context import Context  # first: it chooses the backend that simulators' own renderers read

# isort: split
import mujoco
import numpy as np
from numpy.typing import NDArray

from robovision.envs.meshes import coarsened
from robovision.errors import UsageError, unknown

FLAGS = mujoco.mjtRndFlag
CROP = 224 / 256
"""The field renders 256 pixels and cuts out the middle 224; a narrower view gives the same picture at once."""


@dataclass(frozen=True)
class Quality:
    """Side of the shadow map in pixels (0: no shadows), and whether floors mirror what stands on them."""

    shadow_map: int
    mirrors: bool


QUALITY = {"fast": Quality(640, True), "fastest": Quality(0, False)}
"""What each preset changes; `exact` is not here because it changes nothing. Both leave out multisampling, and draw
coarser meshes and spheres.
With shadow maps under 640 pixels limbs get speckled. Without shadows textures under strong light are darker: OpenGL
clips the light at one before it multiplies the texture, and a shadow's light comes in a pass of its own."""
SHOWN = (0, 1, 2)
ROUNDNESS = 16, 8
"""Sides around and along a sphere in every preset but `exact`: within a pixel until its radius is 50 of them."""
FLOOR_SAMPLES = 4
"""Samples a pixel where a floor is drawn in squares wider than the model, as under MuJoCo's ant: without
multisampling, parts of such a square may miss the pass that adds the light which casts shadows."""
PRESETS = ("exact", *QUALITY)


@dataclass(frozen=True)
class View:
    """A free camera: looks at a point (metres) from a distance (metres), angles in degrees.

    Convention: azimuth is the direction of sight around the world's z axis, 0 along +x and 90 along +y;
    elevation is its angle above the horizon, so -90 looks straight down.
    """

    lookat: tuple[float, float, float]
    distance: float
    azimuth: float
    elevation: float


@dataclass(frozen=True)
class Camera:
    """Where a picture is taken from: a camera of the model by its number, or a free view.

    `crop` is the share of the field of view, in tangents, that is kept in the middle. `turned` gives the picture
    turned by half, upright from a camera that hangs upside down.
    """

    place: int | View
    crop: float = 1.0
    turned: bool = False

    def resolve(self) -> mujoco.MjvCamera:
        """The same as MuJoCo's camera."""
        camera = mujoco.MjvCamera()
        if isinstance(self.place, View):
            camera.type = mujoco.mjtCamera.mjCAMERA_FREE
            camera.lookat[:] = self.place.lookat
            camera.distance, camera.azimuth = self.place.distance, self.place.azimuth
            camera.elevation = self.place.elevation
        else:
            camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
            camera.fixedcamid = self.place
        return camera


def find_camera(model: mujoco.MjModel, name_or_view: str | View, crop: float = 1.0) -> Camera:
    """The camera of this name in the model, or the free view, with its field of view narrowed to the middle.

    A camera that hangs upside down in its model gives its picture upside down, as the simulator does.

    Raises:
        UsageError: for a name that no camera of the model has, with the nearest ones, and for a crop
            outside (0, 1].
    """
    if not 0 < crop <= 1:
        raise UsageError(f"crop keeps a share of the picture in (0, 1], got {crop}")
    if isinstance(name_or_view, View):
        return Camera(name_or_view, crop)
    names = [model.camera(i).name for i in range(model.ncam)]
    if name_or_view not in names:
        raise unknown("camera", name_or_view, names)
    return Camera(names.index(name_or_view), crop)


def farthest(model: mujoco.MjModel) -> float:
    """What depth never exceeds: the far plane's distance in metres, and a little for rounding."""
    return 1.001 * float(model.vis.map.zfar * model.stat.extent)


class Renderer:
    """Renders one model, from any of its cameras, into square images in memory of their own.

    The model is left as it is: what is drawn is a copy of its meshes and quality settings. Close it yourself.

    Args:
        model: the model.
        size: side of the images in pixels.
        preset: `exact`, `fast` or `fastest`.
        geomgroups: the groups of geoms to show, MuJoCo's default 0, 1 and 2 if None.
        rangefinders: draw the rays of rangefinder sensors, as MuJoCo does and dm_control doesn't.
        mirrors: let `fast` draw what floors mirror; False where that is hardly seen.

    Raises:
        UsageError: for an unknown preset; without OpenGL, naming the packages to install.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        size: int,
        preset: str,
        *,
        geomgroups: Sequence[int] | None = None,
        rangefinders: bool = True,
        mirrors: bool = True,
    ) -> None:
        if preset not in PRESETS:
            raise unknown("preset", preset, PRESETS)
        quality = QUALITY.get(preset)
        shown = SHOWN if geomgroups is None else geomgroups
        drawn = copy.copy(model) if quality is None else coarsened(model, shown)
        drawn.vis.global_.offwidth = drawn.vis.global_.offheight = size
        if quality is not None:
            drawn.vis.quality.shadowsize = quality.shadow_map
            drawn.vis.quality.offsamples = FLOOR_SAMPLES if quality.shadow_map and _has_wide_floor(model) else 0
            drawn.vis.quality.numslices, drawn.vis.quality.numstacks = ROUNDNESS
        self._model = model
        self._size = size
        self._rect = mujoco.MjrRect(0, 0, size, size)
        self._options = mujoco.MjvOption()
        self._options.flags[mujoco.mjtVisFlag.mjVIS_RANGEFINDER] = rangefinders
        self._options.geomgroup[:] = [group in shown for group in range(mujoco.mjNGROUP)]
        self._scene = mujoco.MjvScene(model, maxgeom=10_000)
        if quality is not None:
            self._scene.flags[FLAGS.mjRND_SHADOW] = quality.shadow_map > 0
            self._scene.flags[FLAGS.mjRND_REFLECTION] = quality.mirrors and mirrors
        self._context = Context(drawn)

    def pixels(self, data: mujoco.MjData, camera: Camera) -> NDArray[np.uint8]:
        """The image of the model in this state, uint8 [3, size, size], RGB, first row on top."""
        image = np.empty((self._size, self._size, 3), np.uint8)
        self._draw(data, camera, image, None)
        return np.ascontiguousarray(_top_first(image, camera).transpose(2, 0, 1))

    def depth(self, data: mujoco.MjData, camera: Camera) -> NDArray[np.float32]:
        """Distance along the optical axis, float32 [1, size, size], metres; that of the far plane where nothing is."""
        buffer = np.empty((self._size, self._size), np.float32)
        self._draw(data, camera, None, buffer, labels=True)
        view = self._scene.camera[0]
        near, far = float(view.frustum_near), float(view.frustum_far)
        inverse = _top_first(buffer, camera).astype(np.float64)  # 1 at the near plane, 0 at the far one
        metres = far - inverse * (far - near) if view.orthographic else near * far / (near + inverse * (far - near))
        return metres[None].astype(np.float32)

    def segmentation(self, data: mujoco.MjData, camera: Camera) -> NDArray[np.int32]:
        """What each pixel shows, int32 [2, size, size]: the object's number and its mjtObj type, -1 for nothing."""
        image = np.empty((self._size, self._size, 3), np.uint8)
        self._draw(data, camera, image, None, labels=True)
        colour = _top_first(image, camera).astype(np.int32)
        label = colour[..., 0] + (colour[..., 1] << 8) + (colour[..., 2] << 16)
        table = np.full((self._scene.ngeom + 1, 2), -1, np.int32)
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.segid >= 0:
                table[geom.segid + 1] = geom.objid, geom.objtype
        return np.ascontiguousarray(table[label].transpose(2, 0, 1))

    def upload_heights(self) -> None:
        """Take over height fields that have changed in the model since the last time."""
        with self._context.current() as context:
            for number in range(self._model.nhfield):
                mujoco.mjr_uploadHField(self._model, context, number)

    def __del__(self) -> None:
        if hasattr(self, "_context"):
            self._context.close()

    def close(self) -> None:
        """Frees the OpenGL context. Closing twice does nothing."""
        self._context.close()

    def _draw(
        self,
        data: mujoco.MjData,
        camera: Camera,
        image: NDArray[np.uint8] | None,
        depth: NDArray[np.float32] | None,
        labels: bool = False,
    ) -> None:
        """Render one camera and read the bottom row first; `labels` paints each object in the colour of its number."""
        scene = self._scene
        mujoco.mjv_updateScene(
            self._model, data, self._options, None, camera.resolve(), mujoco.mjtCatBit.mjCAT_ALL, scene
        )
        for eye in scene.camera:
            eye.frustum_center *= camera.crop
            eye.frustum_width *= camera.crop
            eye.frustum_bottom *= camera.crop
            eye.frustum_top *= camera.crop
        scene.flags[FLAGS.mjRND_SEGMENT] = scene.flags[FLAGS.mjRND_IDCOLOR] = labels
        with self._context.current() as context:
            mujoco.mjr_render(self._rect, scene, context)
            mujoco.mjr_readPixels(image, depth, self._rect, context)


def _top_first(rows: NDArray[Any], camera: Camera) -> NDArray[Any]:
    """Rows as OpenGL gives them, the bottom one first, from the top."""
    return rows[:, ::-1] if camera.turned else rows[::-1]


def _has_wide_floor(model: mujoco.MjModel) -> bool:
    floors = model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE
    return bool((model.geom_size[floors, 2] > model.stat.extent).any())
