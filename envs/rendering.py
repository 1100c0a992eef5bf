"""Pixels of a MuJoCo model, by named presets of quality against speed."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

from robovision.envs.gl import choose_backend, no_gl

choose_backend()

import mujoco  # noqa: E402  (the backend is read at import)
import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

FLAGS = mujoco.mjtRndFlag
CROP = 224 / 256
"""The field renders 256 pixels and cuts out the middle 224; a narrower view gives the same picture at once."""


@dataclass(frozen=True)
class Quality:
    """Side of the shadow map in pixels (0: no shadows), samples a pixel, and mirrors on or off."""

    shadow_map: int
    samples: int
    reflections: bool


QUALITY = {"fast": Quality(1024, 0, False), "fastest": Quality(0, 0, False)}
"""What each preset changes; `exact` is not here because it changes nothing."""


@dataclass(frozen=True)
class View:
    """A free camera: looks at a point (metres) from a distance (metres), angles in degrees."""

    lookat: tuple[float, float, float]
    distance: float
    azimuth: float
    elevation: float

    def camera(self) -> mujoco.MjvCamera:
        """The same as MuJoCo's camera."""
        camera = mujoco.MjvCamera()
        camera.lookat[:] = self.lookat
        camera.distance, camera.azimuth, camera.elevation = self.distance, self.azimuth, self.elevation
        return camera


class Renderer:
    """Renders one camera of one model into uint8 images [3, size, size].

    Changes the model's quality settings and fields of view, which say nothing about its physics. Close it
    yourself: left to the end of the interpreter, OpenGL prints errors.

    Args:
        model: the model.
        camera: a camera's name in the model, or a free view.
        size: side of the image in pixels.
        preset: `exact`, `fast` or `fastest`.
        crop: share of the field of view, in tangents, that is kept in the middle.
    """

    def __init__(self, model: mujoco.MjModel, camera: str | View, size: int, preset: str, crop: float = 1.0) -> None:
        model.vis.global_.offwidth = max(size, model.vis.global_.offwidth)
        model.vis.global_.offheight = max(size, model.vis.global_.offheight)
        quality = QUALITY.get(preset)
        if quality is not None:
            model.vis.quality.shadowsize = quality.shadow_map
            model.vis.quality.offsamples = quality.samples
        self._model = model
        self._camera = camera if isinstance(camera, str) else camera.camera()
        self._fovy = _narrow(_fovy(model, camera), crop)
        self._renderer = _open(model, size)
        if quality is not None:
            self._renderer.scene.flags[FLAGS.mjRND_SHADOW] = quality.shadow_map > 0
            self._renderer.scene.flags[FLAGS.mjRND_REFLECTION] = quality.reflections

    def render(self, data: mujoco.MjData) -> NDArray[np.uint8]:
        """The image of the model in this state, [3, size, size], RGB, in memory of its own."""
        before = _fovy(self._model, self._camera)
        _set_fovy(self._model, self._camera, self._fovy)
        self._renderer.update_scene(data, self._camera)
        _set_fovy(self._model, self._camera, before)
        return np.ascontiguousarray(self._renderer.render().transpose(2, 0, 1))

    def close(self) -> None:
        """Frees the OpenGL context."""
        self._renderer.close()


def _open(model: mujoco.MjModel, size: int) -> mujoco.Renderer:
    """MuJoCo's renderer, or UsageError without the noise that its half-made contexts print when they go."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        return mujoco.Renderer(model, size, size)
    except Exception as error:  # each GL backend raises its own types
        reason = f"{type(error).__name__}: {error}"
    finally:
        sys.unraisablehook = hook
    raise no_gl(reason)


def _fovy(model: mujoco.MjModel, camera: str | View | mujoco.MjvCamera) -> float:
    if isinstance(camera, str):
        return float(model.camera(camera).fovy[0])
    return float(model.vis.global_.fovy)


def _set_fovy(model: mujoco.MjModel, camera: str | mujoco.MjvCamera, fovy: float) -> None:
    if isinstance(camera, str):
        model.camera(camera).fovy[0] = fovy
    else:
        model.vis.global_.fovy = fovy


def _narrow(fovy: float, crop: float) -> float:
    """The field of view in degrees that shows the middle `crop` of what `fovy` shows."""
    return 2 * math.degrees(math.atan(crop * math.tan(math.radians(fovy) / 2)))
