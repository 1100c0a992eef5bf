"""Whether LookHere extrapolates: trained on 8 x 8 tokens, judged on 8 x 8 and on 16 x 16.

The class is on which side of one patch, the first part, another lies, the second: above, left, below or right,
somewhere among other parts and noise. Which parts there are says nothing, where they are to each other says all. A
larger picture shows more surroundings, at the same size and as densely strewn. Beside it a ViT with a learned
position embedding, and one with a fixed sine-cosine embedding, both brought to the larger grid by interpolation; the
latter also by going on with its sines. The learned one starts as that of sines: from random numbers it learns nothing
in so few steps.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision.bench.claims.results import Curve, Result
from robovision.encoders.base import Encoder
from robovision.encoders.lookhere import LookHere
from robovision.encoders.vit import ViT, ViTSize, sincos_positions
from robovision.optimisers import learning_rate

PATCH = 4
TRAINED, LARGER = 8, 16
SIDES = ((-1, 0), (0, -1), (1, 0), (0, 1))
OTHERS = 2
"""Parts that mean nothing."""
SIZE = ViTSize(48, 2, 6)
STEPS = 1200
BATCH = 32
RATE = 1e-3
JUDGED = 1024
SEEDS = 3
NOISE = 0.1
STREWN = 32
"""Tokens for each part that means nothing."""
KINDS = ("LookHere-90", "learned positions", "sin-cos positions")
CONTINUED = "sin-cos, continued"


@dataclass(frozen=True)
class Task:
    """The parts, [2 + OTHERS, 3, PATCH, PATCH]; the first two make the class."""

    parts: Tensor

    def draw(self, count: int, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pictures [count, 3, PATCH * side, PATCH * side] in 0..1 and classes [count]."""
        cells = torch.zeros(count, side, side, 3, PATCH, PATCH)
        many = side * side // STREWN
        index = torch.arange(count)
        for _ in range(many):
            y, x = torch.randint(side, (2, count), generator=generator)
            cells[index, y, x] = self.parts[torch.randint(2, 2 + OTHERS, (count,), generator=generator)]
        classes = torch.randint(len(SIDES), (count,), generator=generator)
        y, x = torch.randint(1, side - 1, (2, count), generator=generator)
        cells[index, y, x] = self.parts[0]
        down, right = torch.tensor(SIDES)[classes].T
        cells[index, y + down, x + right] = self.parts[1]
        pictures = cells.permute(0, 3, 1, 4, 2, 5).reshape(count, 3, PATCH * side, PATCH * side)
        noise = NOISE * torch.randn(pictures.shape, generator=generator)
        return (0.5 + 0.25 * pictures + noise).clamp(0, 1), classes


class Classifier(nn.Module):
    """An encoder, a linear layer on each token, and for each class the token that speaks for it most."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.width, len(SIDES))

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.encoder(pictures).tokens).amax(1)  # type: ignore[no-any-return]


def make(kind: str) -> Encoder:
    """One of the three encoders with random weights, all of one size."""
    if kind == KINDS[0]:
        return LookHere(SIZE, PATCH, view=90, scale=1.0)
    vit = ViT(SIZE, PATCH, PATCH * TRAINED)
    return vit if kind == KINDS[1] else _fixed(vit)


def _fixed(vit: ViT) -> ViT:
    vit.pos_embed.requires_grad_(False)
    return vit


def train(model: nn.Module, task: Task, seed: int) -> None:
    """Fit a classifier on fresh pictures of 8 x 8 tokens."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], RATE, weight_decay=0.01)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, STEPS, RATE)
        pictures, classes = task.draw(BATCH, TRAINED, generator)
        loss = functional.cross_entropy(model(pictures), classes)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, task: Task, side: int) -> float:
    """Percent of fresh pictures of this many tokens a side that are told rightly."""
    generator = torch.Generator().manual_seed(10_000 + side)
    model.eval()
    right = 0
    for _ in range(JUDGED // 128):
        pictures, classes = task.draw(128, side, generator)
        right += int((model(pictures).argmax(1) == classes).sum())
    return 100 * right / JUDGED


def judge(kind: str, seed: int) -> dict[str, tuple[float, float]]:
    """The accuracy at 8 x 8 and 16 x 16 tokens, for each way to get the larger positions."""
    task = Task(torch.randn(2 + OTHERS, 3, PATCH, PATCH, generator=torch.Generator().manual_seed(seed)))
    torch.manual_seed(seed)
    model = Classifier(make(kind))
    train(model, task, seed)
    small = accuracy(model, task, TRAINED)
    found = {kind: (small, accuracy(model, task, LARGER))}
    if kind == KINDS[2]:
        vit = model.encoder
        assert isinstance(vit, ViT)
        vit.side, vit.pos_embed = LARGER, nn.Parameter(sincos_positions(LARGER, SIZE.width))
        found[CONTINUED] = small, accuracy(model, task, LARGER)
    return found


def run(progress: Callable[[], object]) -> Result:
    """Measure all of them with three seeds."""
    found: dict[str, list[tuple[float, float]]] = {}
    for kind in KINDS:
        for seed in range(SEEDS):
            for name, pair in judge(kind, seed).items():
                found.setdefault(name, []).append(pair)
            progress()
    means = {name: tuple(statistics.mean(p[k] for p in pairs) for k in (0, 1)) for name, pairs in found.items()}
    spread = {name: tuple(statistics.stdev(p[k] for p in pairs) for k in (0, 1)) for name, pairs in found.items()}
    rows = [[name, *(f"{means[name][k]:.1f} ± {spread[name][k]:.1f}" for k in (0, 1))] for name in means]
    curves = [Curve(name, [TRAINED, LARGER], means[name], spread[name]) for name in means]
    ours = means[KINDS[0]]
    others = [pair for name, pair in means.items() if name != KINDS[0]]
    return Result(
        "LookHere: from 8 x 8 to 16 x 16 tokens",
        ["positions", "8 x 8 tokens, % right", "16 x 16 tokens, % right"],
        rows,
        curves,
        ("tokens a side", "accuracy, %"),
        {
            ">= 10 points over every other at 16 x 16": ours[1] >= max(pair[1] for pair in others) + 10,
            "<= 1 point lost at 8 x 8": ours[0] >= max(pair[0] for pair in others) - 1,
        },
    )


def count() -> int:
    """How many steps `run` reports."""
    return len(KINDS) * SEEDS
