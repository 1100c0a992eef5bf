"""Whether a spatial mixture of experts learns heat diffusion whose diffusivity depends on the place.

Next step of u' = u + a(place) * Laplacian of u between walls where u is 0, a in {0.0025, 0.025, 0.25} by region; the
regions are the same in every run. Right is a pixel that is within 1 % of the true value, or of a hundredth of the
largest where that is more. Beside a convolutional network, whose weights are the same everywhere, the mixture stands
with each routing.

With a squared error the places of the largest diffusivity make nearly all of the loss, so that experts go to them and
those of the two smaller ones share one. With an absolute error each pixel counts alike, with sampled gates an expert
that was worse at first comes back, and with more experts than diffusivities one is left for each.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision.bench.claims.results import Curve, Result, over_seeds
from robovision.encoders.smoe import Routing, SpatialMixture
from robovision.optimisers import learning_rate

SIDE = 64
DIFFUSIVITIES = (0.0025, 0.025, 0.25)
REGIONS = 12
RUNS = 64
LENGTH = 20
"""Steps of a run, of which one is drawn at random."""
STEPS = 4000
BATCH = 16
RATE = 0.01
EXPERTS = 12
GATES = 50
"""How much faster the gates learn: each belongs to one place and sees little."""
WITHIN = 0.01
SEEDS = 3


@dataclass(frozen=True)
class Way:
    """How a network is made and taught: None is the convolutional one."""

    routing: Routing | None
    absolute: bool


WAYS = {
    "CNN": Way(None, absolute=True),
    "published routing": Way("published", absolute=False),
    "straight-through": Way("straight", absolute=False),
    "straight-through, absolute error": Way("straight", absolute=True),
    "sampled, absolute error": Way("sampled", absolute=True),
}
KINDS = tuple(WAYS)


def diffusivity(seed: int) -> Tensor:
    """The diffusivity of each place [SIDE, SIDE]: patches around random centres."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.arange(SIDE, dtype=torch.float32)
    centres = torch.rand(REGIONS, 2, generator=generator) * SIDE
    distance = (axis[:, None] - centres[:, 0, None, None]) ** 2 + (axis - centres[:, 1, None, None]) ** 2
    kinds = torch.arange(REGIONS) % len(DIFFUSIVITIES)
    return torch.tensor(DIFFUSIVITIES)[kinds[distance.argmin(0)]]


def step(u: Tensor, a: Tensor) -> Tensor:
    """Heat [..., SIDE, SIDE] one step later."""
    wide = functional.pad(u, (1, 1, 1, 1))
    neighbours = wide[..., 2:, 1:-1] + wide[..., :-2, 1:-1] + wide[..., 1:-1, 2:] + wide[..., 1:-1, :-2]
    return u + a * (neighbours - 4 * u)


def runs(a: Tensor, count: int, seed: int) -> Tensor:
    """Heat over time from random fields, [LENGTH + 1, count, 1, SIDE, SIDE]."""
    generator = torch.Generator().manual_seed(seed)
    u = 1 + 0.5 * torch.randn(count, 1, SIDE, SIDE, generator=generator)
    found = [u]
    for _ in range(LENGTH):
        found.append(step(found[-1], a))
    return torch.stack(found)


def make(routing: Routing | None) -> nn.Module:
    """Maps of heat to heat one step later."""
    if routing is None:
        return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))
    return SpatialMixture(1, 1, (SIDE, SIDE), EXPERTS, 1, routing=routing)


def judge(kind: str, seed: int) -> float:
    """Percent of the pixels of fresh runs that are within 1 %."""
    torch.manual_seed(seed)
    a = diffusivity(seed)
    data = runs(a, RUNS, seed)
    way = WAYS[kind]
    model = make(way.routing)
    distance = functional.l1_loss if way.absolute else functional.mse_loss
    generator = torch.Generator().manual_seed(seed)
    gates = [p for name, p in model.named_parameters() if name == "gate"]
    others = [p for name, p in model.named_parameters() if name != "gate"]
    optimizer = torch.optim.Adam([{"params": gates, "faster": GATES}, {"params": others, "faster": 1}], RATE)
    for number in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = group["faster"] * learning_rate(number, STEPS, RATE)
        time = torch.randint(LENGTH, (BATCH,), generator=generator)
        which = torch.randint(RUNS, (BATCH,), generator=generator)
        loss = distance(model(data[time, which]), data[time + 1, which])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    fresh = runs(a, 8, 10_000 + seed)
    with torch.no_grad():
        found = model.eval()(fresh[:-1].flatten(0, 1)).view_as(fresh[1:])
    floor = WITHIN * 0.01 * fresh[1:].abs().max()
    limit = (WITHIN * fresh[1:].abs()).clamp_min(floor)
    return 100 * float(((found - fresh[1:]).abs() <= limit).float().mean())


def run(progress: Callable[[], object]) -> Result:
    """Measure all of them with three seeds."""
    found = over_seeds(judge, KINDS, SEEDS, progress)
    means = {kind: statistics.mean(values) for kind, values in found.items()}
    return Result(
        "SMoE: diffusion that depends on the place",
        ["network", "pixels within 1 %, %"],
        [[kind, f"{means[kind]:.1f} ± {statistics.stdev(values):.1f}"] for kind, values in found.items()],
        [Curve(kind, list(range(SEEDS)), values) for kind, values in found.items()],
        ("seed", "pixels within 1 %, %"),
        {
            "CNN < 50 %": means["CNN"] < 50,
            "published routing >= 95 %": means["published routing"] >= 95,
            "sampled, absolute error >= 95 %": means["sampled, absolute error"] >= 95,
        },
    )


def count() -> int:
    """How many steps `run` reports."""
    return len(KINDS) * SEEDS
