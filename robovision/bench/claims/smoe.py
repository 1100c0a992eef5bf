"""Whether a spatial mixture of experts learns heat diffusion whose diffusivity depends on the place.

Next step of u' = u + a(place) * Laplacian of u on a torus, a in {0.0025, 0.025, 0.25} by region; the regions are the
same in every run. Right is a pixel that is within 1 % of the true value, or of a hundredth of the largest where that
is more. Beside a convolutional network, whose weights are the same everywhere, the mixture stands with both routings.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

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
STEPS = 1000
BATCH = 16
RATE = 0.05
WITHIN = 0.01
SEEDS = 2
KINDS = ("CNN", "SMoE, published routing", "SMoE, straight-through gates")


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
    neighbours = sum(u.roll(by, axis) for axis in (-2, -1) for by in (-1, 1))
    return u + a * (neighbours - 4 * u)


def runs(a: Tensor, count: int, seed: int) -> Tensor:
    """Heat over time from random fields, [LENGTH + 1, count, 1, SIDE, SIDE]."""
    generator = torch.Generator().manual_seed(seed)
    u = 1 + 0.5 * torch.randn(count, 1, SIDE, SIDE, generator=generator)
    found = [u]
    for _ in range(LENGTH):
        found.append(step(found[-1], a))
    return torch.stack(found)


class Network(nn.Module):
    """One of the three: what is added to the heat."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layers: nn.Module
        if kind == KINDS[0]:
            self.layers = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1))
        else:
            routing: Routing = "published" if kind == KINDS[1] else "straight"
            self.layers = SpatialMixture(1, 1, (SIDE, SIDE), len(DIFFUSIVITIES), 1, routing=routing)

    def forward(self, u: Tensor) -> Tensor:
        return self.layers(u)  # type: ignore[no-any-return]


def judge(kind: str, seed: int) -> float:
    """Percent of the pixels of fresh runs that are within 1 %."""
    torch.manual_seed(seed)
    a = diffusivity(seed)
    data = runs(a, RUNS, seed)
    model = Network(kind)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    for number in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(number, STEPS, RATE)
        time = torch.randint(LENGTH, (BATCH,), generator=generator)
        which = torch.randint(RUNS, (BATCH,), generator=generator)
        loss = functional.mse_loss(model(data[time, which]), data[time + 1, which])
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
    """Measure all three with three seeds."""
    found = over_seeds(judge, KINDS, SEEDS, progress)
    means = {kind: statistics.mean(values) for kind, values in found.items()}
    return Result(
        "SMoE: diffusion that depends on the place",
        ["network", "pixels within 1 %, %"],
        [[kind, f"{means[kind]:.1f} ± {statistics.stdev(values):.1f}"] for kind, values in found.items()],
        [Curve(kind, list(range(SEEDS)), values) for kind, values in found.items()],
        ("seed", "pixels within 1 %, %"),
        {
            "CNN < 50 %": means[KINDS[0]] < 50,
            "published routing >= 95 %": means[KINDS[1]] >= 95,
            "straight-through gates >= 95 %": means[KINDS[2]] >= 95,
        },
    )


def count() -> int:
    """How many steps `run` reports."""
    return len(KINDS) * SEEDS
