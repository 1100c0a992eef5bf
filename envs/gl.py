"""Chooses MuJoCo's OpenGL backend before anything imports MuJoCo. Imports neither itself."""

from __future__ import annotations

import ctypes
import os
import sys

from robovision.errors import UsageError, unknown

LIBRARIES = {"egl": "libEGL.so.1", "osmesa": "libOSMesa.so.8"}
BACKENDS = ("egl", "osmesa", "glfw")
PACKAGES = "libegl1 libegl-mesa0 libgl1-mesa-dri libopengl0 libosmesa6"
INSTALL = f"sudo apt-get install -y {PACKAGES}"


def no_gl(reason: str) -> UsageError:
    """The error for a machine without OpenGL to render with."""
    return UsageError(f"no OpenGL to render with ({reason}); install it: {INSTALL}")


def choose_backend() -> str:
    """The backend MuJoCo renders with: `MUJOCO_GL` if it is set, else EGL, else OSMesa.

    Sets `MUJOCO_GL`, so call it before the first import of `mujoco`.

    Raises:
        UsageError: if this is Linux and neither library loads.
    """
    chosen = os.environ.get("MUJOCO_GL", "")
    if not chosen and sys.platform == "linux":
        chosen = next((name for name, library in LIBRARIES.items() if _loads(library)), "")
        if not chosen:
            raise no_gl(f"neither {' nor '.join(LIBRARIES.values())} loads")
    if chosen and chosen not in BACKENDS:
        raise unknown("MUJOCO_GL", chosen, BACKENDS)
    if chosen:
        os.environ["MUJOCO_GL"] = chosen
    return chosen or "glfw"


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
