"""Whether neighbourhood attention labels a picture alike after a shift by a pixel, where Swin's fixed windows don't.

Every pixel is a token. Both networks have the same stem, blocks of the same width, 49 keys a query (7 x 7) and the
same MLPs, so the same cost; they learn to tell four textures apart in a patchwork. Inconsistent is a pixel that gets
another label when the picture is shifted by one pixel; new content enters on one side.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision.bench.claims.results import Curve, Result, over_seeds
from robovision.encoders.nat import Block as NATBlock
from robovision.encoders.nat import NATSize
from robovision.encoders.swin import Block as SwinBlock
from robovision.optimisers import learning_rate

SIDE = 35
"""Pixels of a picture; five windows."""
WIDTH, HEADS, DEPTH, KERNEL = 24, 2, 4, 7
TEXTURES = 4
REGIONS = 4
"""Patches of one texture in a picture."""
STEPS = 200
BATCH = 6
RATE = 3e-3
JUDGED = 48
SEEDS = 3
KINDS = ("NAT", "Swin")


def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures [count, 3, SIDE + 1, SIDE + 1] of textures with noise, and the label of each pixel.

    A texture is a grating of its own direction; its phase and contrast say nothing.
    """
    side = SIDE + 1
    axis = torch.arange(side, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    centres = torch.rand(count, REGIONS, 2, generator=generator) * side
    distance = (y - centres[..., 0, None, None]) ** 2 + (x - centres[..., 1, None, None]) ** 2
    kinds = torch.randint(TEXTURES, (count, REGIONS), generator=generator)
    labels = kinds.gather(1, distance.argmin(1).flatten(1)).view(count, side, side)
    angle = labels * (torch.pi / TEXTURES)
    phase = torch.rand(count, 1, 1, generator=generator) * 2 * torch.pi
    wave = torch.sin(1.2 * (x * angle.cos() + y * angle.sin()) + phase)
    contrast = 0.5 + torch.rand(count, 1, 1, generator=generator)
    grey = contrast * wave + 0.5 * torch.randn(count, side, side, generator=generator)
    return grey[:, None].expand(-1, 3, -1, -1), labels


class Labeller(nn.Module):
    """A 3 x 3 convolution, blocks of one of the two kinds, and a linear layer for each pixel."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        size = NATSize(WIDTH, HEADS, (DEPTH,), 4, kernel=KERNEL)
        self.blocks = nn.Sequential(
            *(
                NATBlock(WIDTH, HEADS, size)
                if kind == "NAT"
                else SwinBlock(WIDTH, HEADS, KERNEL, (number % 2) * (KERNEL // 2), branch=False)
                for number in range(DEPTH)
            )
        )
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, TEXTURES))

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits [B, classes, H, W]."""
        maps = self.blocks(self.stem(pictures).permute(0, 2, 3, 1))
        return self.head(maps).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


def judge(kind: str, seed: int) -> tuple[float, float]:
    """Percent of pixels labelled rightly, and percent labelled otherwise after a shift by a pixel."""
    torch.manual_seed(seed)
    model = Labeller(kind)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.01)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, STEPS, RATE)
        pictures, labels = draw(BATCH, generator)
        loss = functional.cross_entropy(model(pictures[..., :SIDE, :SIDE]), labels[:, :SIDE, :SIDE])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return _measure(model.eval())


@torch.no_grad()
def _measure(model: Labeller) -> tuple[float, float]:
    pictures, labels = draw(JUDGED, torch.Generator().manual_seed(10_000))
    still = torch.cat([model(some[..., :SIDE, :SIDE]).argmax(1) for some in torch.split(pictures, 12)])
    moved = torch.cat([model(some[..., 1:, 1:]).argmax(1) for some in torch.split(pictures, 12)])
    right = (still == labels[:, :SIDE, :SIDE]).float().mean()
    changed = (still[:, 1:, 1:] != moved[:, :-1, :-1]).float().mean()
    return 100 * float(right), 100 * float(changed)


def run(progress: Callable[[], object]) -> Result:
    """Measure both with three seeds."""
    found = over_seeds(judge, KINDS, SEEDS, progress)
    rows, curves, means = [], [], {}
    for kind, pairs in found.items():
        right, changed = zip(*pairs, strict=True)
        means[kind] = statistics.mean(changed)
        cells = (f"{statistics.mean(v):.2f} ± {statistics.stdev(v):.2f}" for v in (right, changed))
        rows.append([kind, *cells])
        curves.append(Curve(kind, list(range(SEEDS)), list(changed)))
    return Result(
        "NAT and Swin: labels that change under a shift by one pixel",
        ["network", "pixels right, %", "pixels that change, %"],
        rows,
        curves,
        ("seed", "pixels that change, %"),
        {"inconsistency <= 1/4 of Swin's": means["NAT"] <= means["Swin"] / 4},
    )


def count() -> int:
    """How many steps `run` reports."""
    return len(KINDS) * SEEDS
