"""Physics that blows up: MuJoCo counts it, starts the state anew and goes on, as if nothing had been."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import robovision.envs.rendering  # noqa: F401  first: it chooses the backend that mujoco reads

# isort: split
import mujoco

Warned = mujoco.mjtWarning
UNSTABLE = (Warned.mjWARN_BADQPOS, Warned.mjWARN_BADQVEL, Warned.mjWARN_BADQACC, Warned.mjWARN_BADCTRL)
"""A position, velocity, acceleration or control is not finite or beyond 1e10."""
INACCURATE = (Warned.mjWARN_INERTIA, Warned.mjWARN_CONTACTFULL, Warned.mjWARN_CNSTRFULL)
"""An inertia is singular, or contacts or constraints were left out; dm_control ends an episode there too."""
MEANING = {
    Warned.mjWARN_INERTIA: "an inertia is singular",
    Warned.mjWARN_CONTACTFULL: "there were too many contacts",
    Warned.mjWARN_CNSTRFULL: "there were too many constraints",
    Warned.mjWARN_BADQPOS: "a position is not finite or beyond 1e10",
    Warned.mjWARN_BADQVEL: "a velocity is not finite or beyond 1e10",
    Warned.mjWARN_BADQACC: "an acceleration is not finite or beyond 1e10",
    Warned.mjWARN_BADCTRL: "a control is not finite or beyond 1e10",
}


class Stability:
    """Whether the physics of some data has blown up since the last `clear`.

    Args:
        data: MuJoCo's, which is watched.
        kinds: which of MuJoCo's warnings count.
    """

    def __init__(self, data: mujoco.MjData, kinds: Sequence[mujoco.mjtWarning] = UNSTABLE) -> None:
        self._kinds = {int(kind): kind for kind in kinds}
        self._warning = data.warning
        self._numbers = data.warning.number
        self._number = memoryview(self._numbers).__getitem__  # MuJoCo's own memory, quicker to read than by NumPy

    def clear(self) -> None:
        """Forget what was."""
        self._numbers[:] = 0

    def lost(self) -> bool:
        """Whether it has blown up."""
        return any(map(self._number, self._kinds))

    def reason(self) -> str:
        """What MuJoCo found, in words; empty if nothing."""
        found = [kind for number, kind in self._kinds.items() if self._number(number)]
        texts = [f"{MEANING[kind]}, number {self._warning.lastinfo[int(kind)]} ({kind.name})" for kind in found]
        return f"the physics became unstable: {'; '.join(texts)}" if texts else ""


def keep_no_file() -> None:
    """Let MuJoCo's warnings go to Python's logging, unless somebody listens already.

    Otherwise MuJoCo prints them and writes MUJOCO_LOG.TXT into the working directory.
    """
    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(logging.getLogger("robovision.mujoco").warning)


keep_no_file()
