"""What a training costs, in multiply-adds: the same on every machine, whatever else it does."""

from __future__ import annotations

import dataclasses
import functools

import torch

from robovision.agents.config import EncoderOptions, TrainConfig
from robovision.agents.policy import make_policy

FELT, ACTIONS = 4, 4
"""Numbers of proprioception and of an action in what is counted; the encoders outweigh them by far."""
CLIPS = 2


def epochs_of_equal_cost(config: TrainConfig, dearest: TrainConfig) -> int:
    """Passes over the demonstrations in which a training costs what another one does in its own; at least 1."""
    ratio = multiply_adds(dearest) / multiply_adds(config)
    return max(1, round(dearest.optimisation.epochs * ratio))


def multiply_adds(config: TrainConfig) -> float:
    """Those of matrix products and convolutions for one predicted frame, forward and backward, as PyTorch counts them.

    On the CPU it leaves out the two products inside attention, which at 64 px are a hundredth of a ViT-Tiny's.
    Features that are kept on disk are not made again: a frozen encoder whose images are not shifted costs its head's.
    """
    kept = config.encoder.train == "frozen" and config.shift == 0 and config.optimisation.colour == 0
    options = dataclasses.replace(config.encoder, weights=None)
    return _counted(options, config.env.size, config.history, config.chunk, config.optimisation.clip, kept)


@functools.cache
def _counted(encoder: EncoderOptions, size: int, history: int, chunk: int, clip: int, kept: bool) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    config = dataclasses.replace(
        TrainConfig(history=history, chunk=chunk, encoder=encoder),
        env=dataclasses.replace(TrainConfig().env, size=size),
    )
    policy = make_policy(config, FELT, ACTIONS)
    images = torch.zeros(CLIPS, clip + history - 1, 3, size, size, dtype=torch.uint8)
    valid, felt = torch.ones(CLIPS, clip, dtype=torch.bool), torch.zeros(CLIPS * clip, FELT)
    frames = images
    if kept:
        with torch.no_grad():
            features = policy.encoder(images.flatten(0, 1))
        frames = (features.pooled if policy.readout is None else features.tokens).unflatten(0, images.shape[:2])
    with FlopCounterMode(display=False) as counter:
        policy(frames, valid, felt, kept, False).sum().backward()
    return int(counter.get_total_flops()) / 2 / (CLIPS * clip)
