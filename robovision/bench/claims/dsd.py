"""Sample complexity by architecture on the dynamic signal distribution (Lahoti et al., ICLR 2024, arXiv 2403.15707).

A signal w* of unit norm, with the sign of the label, lies in one of k patches of d numbers, drawn anew for each sample;
all patches carry noise. A convolutional network shares its weights over the patches, a locally connected one does
not, a fully connected one sees all patches at once: sum over t of phi(<w_t, x_t>),
phi(z) = relu(z - b) - relu(-z - b), with b learned and never negative: below 0 phi keeps everything, and there networks
that look at each patch by itself got stuck.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision.bench.claims.results import Curve, Result

WIDTH = 20
"""Numbers of a patch."""
NOISE = 0.15
TARGET = 0.05
"""Share of wrong answers on fresh samples that counts as learned."""
JUDGED = 4000
STEPS = 400
RATE = 0.1
THRESHOLD = 0.3
"""b before training; the signal is 1 long."""
SEEDS = 3
MOST = 5120
LEAST = 10
PATCHES = (4, 8, 16)
KINDS = ("CNN", "LCN", "FCN")
TITLE = "Dynamic signal detection: samples for 5 % error"


@dataclass(frozen=True)
class Samples:
    """Inputs [n, k, d] and labels [n] of -1 and 1."""

    inputs: Tensor
    labels: Tensor


class Detector(nn.Module):
    """One of the three networks, [n, k, d] -> [n]."""

    def __init__(self, kind: str, patches: int) -> None:
        super().__init__()
        shape = {"CNN": (1, WIDTH), "LCN": (patches, WIDTH), "FCN": (patches, patches * WIDTH)}[kind]
        self.full = kind == "FCN"
        self.weight = nn.Parameter(torch.randn(shape) / shape[1] ** 0.5)
        self.threshold = nn.Parameter(torch.tensor(THRESHOLD))

    def forward(self, inputs: Tensor) -> Tensor:
        z = inputs.flatten(1) @ self.weight.T if self.full else (inputs * self.weight).sum(-1)
        b = self.threshold.abs()
        return (functional.relu(z - b) - functional.relu(-z - b)).sum(1)


def draw(signal: Tensor, count: int, patches: int, generator: torch.Generator) -> Samples:
    """Fresh samples."""
    labels = torch.randint(2, (count,), generator=generator) * 2.0 - 1
    inputs = NOISE * torch.randn(count, patches, WIDTH, generator=generator)
    where = torch.randint(patches, (count,), generator=generator)
    inputs[torch.arange(count), where] += labels[:, None] * signal
    return Samples(inputs, labels)


def error(kind: str, patches: int, count: int, seed: int) -> float:
    """The share of wrong answers on fresh samples after training on `count`."""
    generator = torch.Generator().manual_seed(seed)
    signal = functional.normalize(torch.randn(WIDTH, generator=generator), dim=0)
    fitted, judged = draw(signal, count, patches, generator), draw(signal, JUDGED, patches, generator)
    torch.manual_seed(seed)
    model = Detector(kind, patches)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    for _ in range(STEPS):
        loss = functional.softplus(-fitted.labels * model(fitted.inputs)).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        return float((model(judged.inputs) * judged.labels <= 0).float().mean())


def needed(kind: str, patches: int) -> int | None:
    """The fewest samples, in steps of 2, whose median error over the seeds is at most 5 %; None above `MOST`."""
    count = LEAST
    while count <= MOST:
        if statistics.median(error(kind, patches, count, seed) for seed in range(SEEDS)) <= TARGET:
            return count
        count *= 2
    return None


def run(progress: Callable[[], object]) -> Result:
    """Measure all three networks on 4, 8 and 16 patches."""
    found: dict[tuple[str, int], int | None] = {}
    for patches in PATCHES:
        for kind in KINDS:
            found[kind, patches] = needed(kind, patches)
            progress()
    rows = [[str(k), *(_cell(found[kind, k]) for kind in KINDS)] for k in PATCHES]
    curves = [Curve(kind, list(PATCHES), [float(found[kind, k] or 2 * MOST) for k in PATCHES]) for kind in KINDS]
    cnn, lcn, fcn = (found[kind, PATCHES[-1]] or 2 * MOST for kind in KINDS)
    return Result(
        TITLE,
        ["patches k", *KINDS],
        rows,
        curves,
        ("patches", "samples (the dots at the top: more than 5120)"),
        {"CNN <= LCN / 4 at k = 16": cnn <= lcn / 4, "LCN / 4 <= FCN / 16 at k = 16": lcn / 4 <= fcn / 16},
        logarithmic=True,
    )


def count() -> int:
    """How many steps `run` reports."""
    return len(PATCHES) * len(KINDS)


def _cell(samples: int | None) -> str:
    return f"> {MOST}" if samples is None else f"<= {samples}" if samples == LEAST else str(samples)
