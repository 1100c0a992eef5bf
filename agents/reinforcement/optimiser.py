"""Adam that lets the encoder learn at a rate of its own under Stable-Baselines3, which sets one rate for everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from robovision.agents.reinforcement.extractor import PixelExtractor
from robovision.optimisers import PACE


class PacedAdam(torch.optim.Adam):
    """Adam whose groups have a pace."""

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step, each group at its pace."""
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] *= group.get(PACE, 1.0)
        try:
            return super().step(closure)  # type: ignore[no-any-return]
        finally:
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate


def paced(network: nn.Module, extractor: PixelExtractor, pace: float) -> list[dict[str, Any]]:
    """What is to be trained of a network and of the extractor that it sees through, its eye in a group at that pace."""
    eye = [p for p in (extractor.eye.parameters() if extractor.eye else ()) if p.requires_grad]
    seeing = {id(p) for p in eye}
    every = {id(p): p for p in (*network.parameters(), *extractor.parameters()) if p.requires_grad}
    others = [p for key, p in every.items() if key not in seeing]
    return [{"params": others, PACE: 1.0}, *([{"params": eye, PACE: pace}] if eye else [])]
