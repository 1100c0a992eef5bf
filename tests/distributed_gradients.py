"""What each process of `torchrun` does in test_distributed.py: the gradients of one batch, from the first process."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch

from robovision import weights
from robovision.agents import distributed
from robovision.agents.clips import Batch, Clips, Drawing
from robovision.agents.config import EncoderOptions, Optimisation, TrainConfig
from robovision.agents.learner import Learner
from robovision.envs.demo_arrays import Demonstrations
from tests.helpers import TINY

CONFIG: TrainConfig = dataclasses.replace(
    TINY,
    history=2,
    chunk=2,
    encoder=EncoderOptions("cnn", adapter="none"),
    optimisation=Optimisation(batch=12, clip=3, precision="float32"),
)


def batch() -> tuple[Clips, Batch]:
    """A batch in which the two halves predict different numbers of actions."""
    random = np.random.default_rng(0)
    lengths = np.array([5, 9, 4])
    pixels = random.integers(0, 256, (18, 3, 32, 32), np.uint8)
    numbers = random.normal(size=(18, 4)).astype(np.float32)
    demos = Demonstrations(pixels, numbers, numbers[:, :3].copy(), lengths, None)
    clips = Clips(demos, Drawing(history=2, chunk=2, clip=3, shift=2, seed=1))
    return clips, clips.batch(0, 4)


def gradients() -> dict[str, torch.Tensor]:
    """The gradient of every parameter after one batch, and the running statistics of every batch norm; in float64,
    where no rectifier switches for rounding."""
    torch.set_default_dtype(torch.float64)
    try:
        return _gradients()
    finally:
        torch.set_default_dtype(torch.float32)


def _gradients() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    clips, content = batch()
    learner = Learner(CONFIG, 4, clips.actions)
    torch.nn.init.normal_(learner.policy.head[-1].weight, generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    learner.policy.train()
    learner.loss(content).backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad for name, p in learner.policy.named_parameters() if p.grad is not None}
    return found | {name: value for name, value in learner.policy.named_buffers() if "running" in name}


if __name__ == "__main__":
    distributed.join("cpu")
    found = gradients()
    if distributed.rank() == 0:
        weights.save(Path(sys.argv[1]), found)
    distributed.wait()
    distributed.leave()
