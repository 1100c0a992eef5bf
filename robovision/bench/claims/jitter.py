"""Whether an alias-free convolution stem makes a keypoint regressor's output flicker less under shifts of 1/8 pixel.

CoIn's convolutional network looks at pictures of a smooth spot among smooth clutter, and a soft arg-max over its
finest map says where the spot is. Then one picture glides by eighths of a pixel. Jitter is how far the output strays
from gliding along: the root mean square of what is left of it less the true motion, and less its mean.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision.bench.claims.results import Curve, Result, over_seeds
from robovision.encoders.coin import SpatialPrior
from robovision.optimisers import learning_rate

SIDE = 64
CELL = 8
"""Pixels of a cell of the finest map."""
STEPS = 250
BATCH = 16
RATE = 2e-3
SEEDS = 3
GLIDES = 24
"""Pictures that glide."""
FRACTIONS = 16
"""Steps of 1/8 pixel: two pixels in all."""
CLUTTER = 6
KINDS = ("plain", "alias-free")


def draw(places: Tensor, seeds: Tensor, shift: Tensor) -> Tensor:
    """Pictures [N, 3, SIDE, SIDE] of a spot at places [N, 2] (x, y) and of each seed's clutter, all shifted [N, 2].

    Spots are Gaussians, drawn at their true places, so that a fraction of a pixel is a fraction of a pixel.
    """
    axis = torch.arange(SIDE, dtype=torch.float32)

    def spots(at: Tensor, width: float) -> Tensor:
        y = (axis - at[..., 1, None]).square()
        x = (axis - at[..., 0, None]).square()
        return torch.exp(-(y[..., :, None] + x[..., None, :]) / (2 * width**2))

    clutter = torch.stack([_clutter(int(seed)) for seed in seeds])
    other = spots(clutter[..., :2] * SIDE + shift[:, None], 2.5)
    colours = clutter[..., 2:]
    background = torch.einsum("nkyx,nkc->ncyx", other, colours)
    spot = spots(places + shift, 1.5)[:, None] * torch.tensor([1.0, 0.6, -0.8]).view(1, 3, 1, 1)
    return background + spot


def _clutter(seed: int) -> Tensor:
    """Places in 0..1 and colours of the clutter, [CLUTTER, 5]."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.rand(CLUTTER, 2, generator=generator)
    return torch.cat([places, torch.randn(CLUTTER, 3, generator=generator) * 0.5], dim=1)


class Regressor(nn.Module):
    """Where the spot is, (x, y) in pixels [N, 2]: a soft arg-max over the finest map of CoIn's network."""

    def __init__(self, aliasfree: bool) -> None:
        super().__init__()
        self.prior = SpatialPrior(16, 8, quarter_map=False, aliasfree=aliasfree)
        self.head = nn.Conv2d(16, 3, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        logits, dx, dy = self.head(self.prior(pictures)[0]).unbind(1)
        weights = logits.flatten(1).softmax(1).view_as(logits)
        axis = (torch.arange(SIDE // CELL) + 0.5) * CELL - 0.5
        x = (weights * (axis + CELL * dx)).sum((1, 2))
        y = (weights * (axis[:, None] + CELL * dy)).sum((1, 2))
        return torch.stack([x, y], dim=1)


def judge(kind: str, seed: int) -> tuple[float, float]:
    """Error of the place and jitter, both root mean squares in pixels."""
    torch.manual_seed(seed)
    model = Regressor(kind == KINDS[1])
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.01)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, STEPS, RATE)
        places, seeds = _scene(BATCH, generator)
        loss = functional.mse_loss(model(draw(places, seeds, torch.zeros(BATCH, 2))), places)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return measure(model.eval())


@torch.no_grad()
def measure(model: nn.Module) -> tuple[float, float]:
    """Error and jitter of a regressor on scenes that it has not seen."""
    places, seeds = _scene(GLIDES, torch.Generator().manual_seed(10_000))
    steps = []
    for number in range(FRACTIONS):
        shift = torch.full((GLIDES, 2), number / 8)
        steps.append(model(draw(places, seeds, shift)) - places - shift)
    off = torch.stack(steps)
    return float(off.square().mean().sqrt()), float((off - off.mean(0)).square().mean().sqrt())


def _scene(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    places = 12 + torch.rand(count, 2, generator=generator) * (SIDE - 26)
    return places, torch.randint(1 << 30, (count,), generator=generator)


def run(progress: Callable[[], object]) -> Result:
    """Measure both with three seeds."""
    found = over_seeds(judge, KINDS, SEEDS, progress)
    rows, curves, jitters = [], [], {}
    for kind, pairs in found.items():
        wrong, jitter = zip(*pairs, strict=True)
        jitters[kind] = statistics.mean(jitter)
        rows.append([kind, *(f"{statistics.mean(v):.3f} ± {statistics.stdev(v):.3f}" for v in (wrong, jitter))])
        curves.append(Curve(kind, list(range(SEEDS)), list(jitter)))
    return Result(
        "CoIn's stem: a keypoint that glides by 1/8 pixel",
        ["stem", "error, px", "jitter, px"],
        rows,
        curves,
        ("seed", "jitter, pixels"),
        {"jitter <= 1/3 of the plain stem's": jitters[KINDS[1]] <= jitters[KINDS[0]] / 3},
    )


def count() -> int:
    """How many steps `run` reports."""
    return len(KINDS) * SEEDS
