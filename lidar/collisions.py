"""Who may be in a street together: nobody that runs into somebody else."""

from __future__ import annotations

import numpy as np
import torch

from robovision.lidar.boxes import bev_iou
from robovision.types import Array

ROOM = 0.2
"""Metres that everybody is taken to be longer and wider than they are."""


def keep_apart(poses: Array, sizes: Array) -> Array:
    """Which of A things can stay, bool [A]: those that at no time meet, on the ground, an earlier one that stays.

    Args:
        poses: float64 [T, A, 4, 4], in the world, at T times.
        sizes: float64 [A, 3], metres: length, width, height; what is 0 m long and wide meets nothing.
    """
    grown = sizes + ROOM * (sizes > 0)
    meets = np.zeros((len(sizes), len(sizes)), bool)
    for pose in poses:
        yaw = np.arctan2(pose[:, 1, 0], pose[:, 0, 0])
        boxes = torch.from_numpy(np.column_stack([pose[:, :3, 3], grown, yaw]))
        meets |= (bev_iou(boxes, boxes) > 0).numpy()
    stays = np.zeros(len(sizes), bool)
    for k in range(len(sizes)):
        stays[k] = not (meets[k] & stays).any()
    return stays
