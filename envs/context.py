"""An OpenGL context that is current only while it's used, so that it disturbs no other renderer or thread."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from robovision.envs.gl import choose_backend, no_gl
from robovision.errors import UsageError

BACKEND = choose_backend()

import mujoco  # noqa: E402  (simulators' own renderers read the backend at import)


class Context:
    """A model's meshes and textures in an OpenGL context of their own, with buffers to render into.

    Closed at the latest when the interpreter ends.

    Raises:
        UsageError: without OpenGL, naming the packages to install.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        restore: Callable[[], object] | None = None
        # half-made contexts print errors when they go
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        try:
            restore = _restorer()
            self._gl, self._mujoco = _open(model)
        except Exception as error:  # each GL backend raises its own types
            reason = f"{type(error).__name__}: {error}"
        else:
            reason = ""
            keep_display()
            atexit.register(self.close)
        finally:
            sys.unraisablehook = hook
        if reason:
            with contextlib.suppress(Exception):  # what could not be opened may not let go either
                if restore is not None:
                    restore()
            raise no_gl(reason)
        if restore is not None:
            restore()

    @contextmanager
    def current(self) -> Iterator[mujoco.MjrContext]:
        """MuJoCo's part of the context, which is current until the block ends; then the one before is again.

        Raises:
            UsageError: after close.
        """
        if self._gl is None:
            raise UsageError("this renderer is closed: make a new one to render")
        restore = _restorer()
        self._gl.make_current()
        try:
            yield self._mujoco
        finally:
            restore()

    def close(self) -> None:
        """Frees the context; a second time does nothing."""
        if self._gl is None:
            return
        atexit.unregister(self.close)
        restore = _restorer()
        self._gl.make_current()
        self._mujoco.free()
        self._gl.free()
        self._gl = None
        restore()


def _open(model: mujoco.MjModel) -> tuple[Any, mujoco.MjrContext]:
    gl = importlib.import_module(f"mujoco.{BACKEND}").GLContext(model.vis.global_.offwidth, model.vis.global_.offheight)
    gl.make_current()
    context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150.value)
    mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, context)
    context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
    return gl, context


def keep_display() -> None:
    """Leave EGL's display to the end of the process; to be called after whatever uses it is imported.

    MuJoCo and dm_control both terminate the one display on exit, and each other's contexts then print errors.
    """
    if BACKEND == "egl":
        from mujoco import egl

        atexit.unregister(egl.EGL.eglTerminate)


def _restorer() -> Callable[[], object]:
    """What makes this thread's present context current again; OSMesa can't say which it is, and needs no releasing."""
    if BACKEND == "glfw":
        import glfw

        window = glfw.get_current_context()
        return lambda: glfw.make_context_current(window)
    if BACKEND == "osmesa":
        return lambda: None
    from mujoco import egl

    api = egl.EGL
    context, display = api.eglGetCurrentContext(), api.eglGetCurrentDisplay()
    draw, read = api.eglGetCurrentSurface(api.EGL_DRAW), api.eglGetCurrentSurface(api.EGL_READ)

    def release() -> None:
        if egl.EGL_DISPLAY is not None:
            api.eglMakeCurrent(egl.EGL_DISPLAY, api.EGL_NO_SURFACE, api.EGL_NO_SURFACE, api.EGL_NO_CONTEXT)

    def restore() -> None:
        try:
            api.eglMakeCurrent(display, draw, read, context)
        except api.EGLError:  # its owner has freed it meanwhile, as the garbage collector may at any time
            release()

    return restore if context else release
