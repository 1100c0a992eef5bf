"""Whether DualToken-ViT is as right as ViT-Tiny in half the time of a core.

Both have their published sizes, 5 M parameters, and learn from random weights to tell eight glyphs apart on fresh
pictures of 64 px. Time is that of a forward pass at 224 px, the size that the paper counts at, in turn in one process.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from robovision.bench.claims.coswin import GLYPHS, draw
from robovision.bench.claims.results import Curve, Result, over_seeds
from robovision.bench.timing import compare
from robovision.encoders.build import build
from robovision.optimisers import learning_rate

SIDE = 64
STEPS = 300
BATCH = 16
RATE = 1e-3
JUDGED = 512
SEEDS = 3
TIMED = 224
TIMED_BATCH = 4
NAMES = {"ViT-Tiny": "vit-tiny", "DualToken-ViT-T": "dualtoken-vit-t"}
KINDS = tuple(NAMES)


def judge(kind: str, seed: int) -> float:
    """Percent of fresh pictures that are told rightly."""
    generator = torch.Generator().manual_seed(seed)
    glyphs = torch.randn(GLYPHS, 5, 5, generator=generator)
    torch.manual_seed(seed)
    encoder = build(NAMES[kind], SIDE)
    head = nn.Linear(encoder.pooled_width, GLYPHS)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], RATE, weight_decay=0.05)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, STEPS, RATE)
        pictures, classes = draw(BATCH, glyphs, generator, SIDE)
        loss = functional.cross_entropy(head(encoder(pictures).pooled), classes)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    fresh, true = draw(JUDGED, glyphs, generator, SIDE)
    encoder.eval()
    with torch.no_grad():
        found = torch.cat([head(encoder(some).pooled).argmax(1) for some in torch.split(fresh, 64)])
    return 100 * float((found == true).float().mean())


def milliseconds() -> dict[str, float]:
    """Time of a core for one picture of 224 px, forward."""
    pictures = torch.zeros(TIMED_BATCH, 3, TIMED, TIMED)
    ways = {kind: functools.partial(build(name, TIMED).eval(), pictures) for kind, name in NAMES.items()}
    with torch.no_grad():
        speeds = compare(ways, rounds=7, clock=time.process_time)
    return {kind: 1e3 * speed.seconds / TIMED_BATCH for kind, speed in speeds.items()}


def run(progress: Callable[[], object]) -> Result:
    """Measure both with three seeds."""
    found = over_seeds(judge, KINDS, SEEDS, progress)
    times = milliseconds()
    progress()
    means = {kind: statistics.mean(values) for kind, values in found.items()}
    plain, ours = KINDS
    return Result(
        "DualToken-ViT and ViT-Tiny",
        ["network", "pictures right, %", "a core's time for one picture of 224 px, ms"],
        [[kind, f"{means[kind]:.1f} ± {statistics.stdev(found[kind]):.1f}", f"{times[kind]:.1f}"] for kind in KINDS],
        [Curve(kind, [times[kind]] * SEEDS, values) for kind, values in found.items()],
        ("time, ms", "accuracy, %"),
        {
            "at most 1 point below ViT-Tiny": means[ours] >= means[plain] - 1,
            "time <= 1/2 of ViT-Tiny's": times[ours] <= times[plain] / 2,
        },
    )


def count() -> int:
    """How many steps `run` reports."""
    return len(KINDS) * SEEDS + 1
