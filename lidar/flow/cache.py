"""Estimated flow, kept on disk under the content of the two sweeps that it is of."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from robovision.errors import UsageError
from robovision.files import make_folder
from robovision.lidar.clouds import read_arrays, write_arrays
from robovision.lidar.flow.estimate import FlowSettings, estimate_flow
from robovision.types import Array, PointCloud

VERSION = 1
"""Counts up when the same settings give another flow."""


class FlowCache:
    """Flow between sweeps, estimated once.

    Args:
        folder: where it is kept; made when something is written.
        settings: of the estimate.
    """

    def __init__(self, folder: Path, settings: FlowSettings | None = None) -> None:
        self.folder = folder
        self.settings = settings or FlowSettings()
        self.estimated = 0
        """Estimates that were not there yet."""

    def __call__(self, before: PointCloud, now: PointCloud) -> Array:
        """The flow [Q, 3] of the points of a sweep to the next one, metres.

        Raises:
            UsageError: if what is kept can't be read or written, or is of another sweep.
        """
        path = self.path(before, now)
        if not path.is_file():
            make_folder(self.folder)
            write_arrays(path, {"flow": estimate_flow(before.xyz, now.xyz, self.settings)}, compress=False)
            self.estimated += 1
        flow = read_arrays(path).get("flow", np.zeros(0, np.float32))
        if flow.shape != (len(before), 3):
            raise UsageError(
                f"{path} is the flow of another sweep: of shape {list(flow.shape)}, not {[len(before), 3]}; remove it"
            )
        return flow

    def path(self, before: PointCloud, now: PointCloud) -> Path:
        """The file of two sweeps, named after what they hold and the settings."""
        digest = hashlib.sha256(f"{VERSION} {self.settings}".encode())
        for cloud in (before, now):
            xyz = np.ascontiguousarray(cloud.xyz, "<f4")
            digest.update(f" {len(xyz)} ".encode())
            digest.update(xyz.tobytes())
        return self.folder / f"{digest.hexdigest()[:32]}.npz"
