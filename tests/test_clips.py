from __future__ import annotations

import numpy as np
import torch

from robovision.agents import clips
from robovision.envs.demo_arrays import Demonstrations


def test_colours_change_together_in_a_clip() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (3, 1, 3, 8, 8), dtype=torch.uint8).expand(3, 4, 3, 8, 8)
    changed = clips.jitter(images, 0.4, generator)
    assert changed.dtype == torch.uint8
    assert all(torch.equal(changed[:, 0], changed[:, k]) for k in range(4))
    assert (changed.float() - images.float()).abs().mean() > 2
    grey = torch.full((1, 1, 3, 8, 8), 100, dtype=torch.uint8)
    changed = clips.jitter(grey, 0.4, generator)
    assert int(changed.min()) == int(changed.max()) != 100
    assert clips.jitter(images, 0.0, generator) is images


def test_a_chunk_holds_the_actions_that_follow_within_the_demonstration() -> None:
    pixels = np.zeros((7, 3, 32, 32), np.uint8)
    numbers = np.arange(7, dtype=np.float32)[:, None]
    demos = clips.Clips(Demonstrations(pixels, numbers, numbers, np.array([3, 4]), None), clips.Drawing(chunk=3))
    for step in range(20):
        batch = demos.batch(step, 4)
        now = batch.proprioception
        last = torch.where(now < 3, 2.0, 6.0)
        assert torch.equal(batch.actions[..., 0], torch.minimum(now + torch.arange(3), last))
        assert torch.equal(batch.planned, now + torch.arange(3) <= last)
    assert demos.where(0, 2).count("demonstration") == 2
