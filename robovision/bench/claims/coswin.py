"""Whether CoSwin's convolution branch helps where there are few samples: 500, beside Swin without it.

Eight glyphs, each a smooth random pattern, lie somewhere in a noisy picture, with other contrast and size each time.
Both networks have the same blocks, widths and training; CoSwin has the depthwise convolutions besides.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision.bench.claims.results import Curve, Result, over_seeds
from robovision.encoders.swin import Swin, SwinSize
from robovision.optimisers import learning_rate

SIDE = 32
GLYPHS = 8
SAMPLES = 500
STEPS = 240
BATCH = 50
RATE = 2e-3
JUDGED = 1000
SEEDS = 5
SIZE = SwinSize(32, 2, (2, 2), window=4)
KINDS = ("Swin", "CoSwin")


def draw(count: int, glyphs: Tensor, generator: torch.Generator, side: int = SIDE) -> tuple[Tensor, Tensor]:
    """Pictures [count, 3, side, side] in 0..1 and which of the glyphs [GLYPHS, 5, 5] each shows."""
    classes = torch.randint(GLYPHS, (count,), generator=generator)
    size = 0.35 + 0.15 * torch.rand(count, generator=generator)
    centre = (torch.rand(count, 2, generator=generator) * 2 - 1) * (1 - size[:, None])
    axis = torch.linspace(-1, 1, side)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    where = (torch.stack([x, y], dim=-1) - centre[:, None, None]) / size[:, None, None, None]
    shown = functional.grid_sample(glyphs[classes][:, None], where, align_corners=False)
    contrast = 0.6 + 0.8 * torch.rand(count, 1, 1, 1, generator=generator)
    grey = 0.5 + 0.15 * contrast * shown + 0.12 * torch.randn(count, 1, side, side, generator=generator)
    return grey.clamp(0, 1).expand(-1, 3, -1, -1), classes


def judge(kind: str, seed: int) -> float:
    """Percent of fresh pictures that are told rightly."""
    generator = torch.Generator().manual_seed(seed)
    glyphs = torch.randn(GLYPHS, 5, 5, generator=generator)
    pictures, classes = draw(SAMPLES, glyphs, generator)
    torch.manual_seed(seed)
    encoder = Swin(SIZE, branch=kind == "CoSwin")
    head = nn.Linear(encoder.pooled_width, GLYPHS)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], RATE, weight_decay=0.05)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, STEPS, RATE)
        chosen = torch.randint(SAMPLES, (BATCH,), generator=generator)
        loss = functional.cross_entropy(head(encoder(pictures[chosen]).pooled), classes[chosen])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    fresh, true = draw(JUDGED, glyphs, generator)
    encoder.eval()
    with torch.no_grad():
        found = torch.cat([head(encoder(some).pooled).argmax(1) for some in torch.split(fresh, 100)])
    return 100 * float((found == true).float().mean())


def run(progress: Callable[[], object]) -> Result:
    """Measure both with five seeds."""
    found = over_seeds(judge, KINDS, SEEDS, progress)
    gains = [ours - plain for plain, ours in zip(*found.values(), strict=True)]
    rows = [[kind, f"{statistics.mean(v):.1f} ± {statistics.stdev(v):.1f}"] for kind, v in found.items()]
    rows.append(["gain, seed by seed", f"{statistics.mean(gains):.1f} ± {statistics.stdev(gains):.1f}"])
    return Result(
        "CoSwin and Swin on 500 samples",
        ["network", "pictures right, %"],
        rows,
        [Curve(kind, list(range(SEEDS)), values) for kind, values in found.items()],
        ("seed", "accuracy, %"),
        {"CoSwin >= 2 points over Swin": statistics.mean(gains) >= 2},
    )


def count() -> int:
    """How many steps `run` reports."""
    return len(KINDS) * SEEDS
