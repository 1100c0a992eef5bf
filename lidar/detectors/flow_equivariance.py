"""How a detector's features move along with the scene: those of a sweep, carried by its flow, beside those of the next.

Time takes the place of a group element and moves each point by its own flow: what pretraining's objective `flow` asks
for (E-SSL3D, Hegde et al., 2024), here of the backbone alone, without the projections and the target's moving average
that the objective puts on it. The error is that of the other transformations, over the cells that points are carried to
and in which the next sweep has points too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from robovision.lidar.clouds import read_cloud
from robovision.lidar.detectors.detector import Detector
from robovision.lidar.detectors.equivariance import FLOW, Answer, Shares, occupied, share, sweep_features
from robovision.lidar.frames import find_clouds
from robovision.lidar.pretraining.flow import carry
from robovision.lidar.pretraining.sweeps import flow_file, read_truth
from robovision.lidar.pretraining.views import View
from robovision.lidar.transforms import Similarity
from robovision.types import PointCloud


@dataclass(frozen=True, eq=False)
class Pair:
    """Two sweeps in a row.

    Convention:
        flow: float32 [Q, 3], metres, where each point of `before` is at the time of `now`, beside where it was.
    """

    before: PointCloud
    now: PointCloud
    flow: Tensor


def find_pairs(paths: Sequence[Path]) -> list[Pair]:
    """Of each cloud that has its flow beside it, as the simulator writes it, the pair with the next of its folder.

    Raises:
        UsageError: if a file is wrong, or the flow is of another sweep.
    """
    pairs = []
    for path in paths:
        siblings = find_clouds([path.parent])
        rest = siblings[siblings.index(path) + 1 :] if path in siblings else []
        if rest and flow_file(path).is_file():
            before, now = read_cloud(path), read_cloud(rest[0])
            pairs.append(Pair(before, now, torch.from_numpy(read_truth(path, before, now)).float()))
    return pairs


@torch.no_grad()
def measure_flow(detector: Detector, sweeps: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Answer:
    """The answer to time, of pairs of sweeps [Q, 3 or 4] and [P, 3 or 4] and the flow [Q, 3] of the first."""
    return _summarise([_compare(detector, *pair) for pair in sweeps])


def _compare(detector: Detector, before: Tensor, now: Tensor, flow: Tensor) -> Shares:
    config = detector.config
    earlier, later = (sweep_features(detector, points) for points in (before, now))
    view = View(before, torch.zeros(len(before), dtype=torch.int64), (Similarity(),))
    carried, reached = carry(earlier, view, flow, config.grid)
    height, width = later.shape[2:]
    looked = reached & occupied(now[:, :3], config, (height, width)).flatten()
    return share(later[0].flatten(1)[:, looked], carried[looked].T)


def _summarise(parts: list[Shares]) -> Answer:
    error, deviation = (sum(float(part[k]) for part in parts) for k in range(2))
    return Answer(FLOW, 1.0, math.sqrt(error / deviation) if deviation else math.nan, 0, math.nan, math.nan)
