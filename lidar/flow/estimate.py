"""Scene flow between two sweeps without any label: the sensor's own motion, then a small network fitted to each pair.

Source: Li et al., "Fast Neural Scene Flow" (2023), after "Neural Scene Flow Prior" (2021): the flow is a network of a
place, fitted so that moved points lie where the next sweep has some, read from a distance transform. Its smoothness is
the prior. Here it is fitted to what the sensor's own motion leaves over, not to the ground, and is held at 0 a little.

Between sweeps of 64 rings this finds half of what objects move by themselves; 16 rings a few degrees apart show too
little of an object, and with 180 columns not even the sensor's own motion is found.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from robovision.lidar.flow.distance import DistanceField
from robovision.lidar.flow.ego import act, ego_motion, level
from robovision.types import Array


@dataclass(frozen=True)
class FlowSettings:
    """How flow is estimated; part of the name under which an estimate is kept."""

    reach: float = 40.0
    """Metres from the sensor within which single points move; beyond, only with the sensor. Motions up to a twentieth
    of it are found."""
    points: int = 6000
    """Points that the network is fitted to, by chance."""
    width: int = 64
    layers: int = 4
    steps: int = 250
    """The most steps of the fit."""
    patience: int = 40
    """Steps without a better fit after which it ends."""
    lr: float = 5e-3
    hold: float = 0.1
    """Weight of the flow's length beside the distances, so that what stands stays."""
    still: float = 0.1
    """Metres up to which a point's own flow is taken for none."""
    seed: int = 0


def estimate_flow(before: Array, now: Array, settings: FlowSettings = FlowSettings()) -> Array:
    """Where points of a sweep are in the next one's frame, minus where they are in theirs: float32 [Q, 3], metres.

    Args:
        before: the sweep [Q, 3], metres, in its sensor's frame; z is up.
        now: the next sweep [P, 3], in its own.
        settings: of the fit.

    Raises:
        ValueError: if one of them has no points.
    """
    if not len(before) or not len(now):
        raise ValueError(f"flow is between two sweeps with points, got {len(before)} and {len(now)} points")
    earlier, later = (torch.from_numpy(np.array(cloud, np.float32)) for cloud in (before, now))
    generator = torch.Generator().manual_seed(settings.seed)
    from_earlier, ground = level(earlier)
    from_later, other_ground = level(later)
    start, end = act(from_earlier, earlier), act(from_later, later)
    side = min(settings.reach, float(end[:, :2].abs().amax()))
    field = DistanceField(end[~other_ground] if not other_ground.all() else end, side)
    standing = (~ground & (start[:, :2].abs().amax(dim=1) < side)).nonzero()[:, 0]
    chosen = standing[torch.randperm(len(standing), generator=generator)[: settings.points]]
    moved = act(ego_motion(start[chosen], field), start)
    if len(chosen):
        own = _fit(moved[chosen], field, settings)(moved[standing])
        moved[standing] += torch.where(own.norm(dim=1, keepdim=True) > settings.still, own, 0.0)
    flow = act(from_later.inverse(), moved) - earlier
    return np.asarray(flow.numpy(), np.float32)


class _Prior(nn.Module):
    """Flow as a network of the place, both in units of a length; 0 everywhere at first."""

    def __init__(self, settings: FlowSettings, unit: float) -> None:
        super().__init__()
        widths = [3, *[settings.width] * settings.layers]
        parts: list[nn.Module] = []
        for width, out in itertools.pairwise(widths):
            parts += [nn.Linear(width, out), nn.ReLU()]
        self.layers = nn.Sequential(*parts, nn.Linear(settings.width, 3))
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.layers[-1].bias)  # type: ignore[arg-type]
        self.unit = unit

    def forward(self, places: Tensor) -> Tensor:
        flow: Tensor = self.layers(places / self.unit) * self.unit
        return flow


def _fit(points: Tensor, field: DistanceField, settings: FlowSettings) -> _Prior:
    """The network whose flow brings points [N, 3] closest to the field's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        prior = _Prior(settings, 5 * field.furthest)
    optimizer = torch.optim.Adam(prior.parameters(), settings.lr)
    best, state, since = float("inf"), prior.state_dict(), 0
    for _ in range(settings.steps):
        optimizer.zero_grad()
        flow = prior(points)
        loss = (field(points + flow) + settings.hold * flow.norm(dim=1)).mean()
        if loss.item() < best * 0.999:
            best, since = loss.item(), 0
            state = {name: value.clone() for name, value in prior.state_dict().items()}
        since += 1
        if since > settings.patience:
            break
        loss.backward()
        optimizer.step()
    prior.load_state_dict(state)
    return prior.requires_grad_(False)
