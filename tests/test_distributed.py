from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from robovision import weights
from tests.distributed_gradients import batch, gradients

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    file = tmp_path / "gradients.safetensors"
    answer = subprocess.run(
        [*TORCHRUN, "-m", "tests.distributed_gradients", str(file)], capture_output=True, text=True, timeout=300
    )
    assert answer.returncode == 0, answer.stderr
    theirs, ours = weights.load(file), gradients()
    assert theirs.keys() == ours.keys()
    assert any("running_var" in name for name in ours)
    largest = max(float(gradient.abs().max()) for gradient in ours.values())
    assert largest > 1e-3
    for name, gradient in ours.items():
        assert torch.allclose(theirs[name], gradient, rtol=1e-9, atol=1e-12 * largest), name


def test_shares_are_the_whole() -> None:
    _, whole = batch()
    parts = [whole.share(rank, 2) for rank in range(2)]
    assert parts[0].planned.sum() != parts[1].planned.sum()
    for name in ("frames", "valid", "proprioception", "actions", "planned"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    assert torch.equal(whole.share(0, 1).frames, whole.frames)
