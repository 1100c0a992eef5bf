"""Bring a trained policy elsewhere: into a file that needs no robovision, or onto the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from robovision.commands import Command
from robovision.errors import UsageError

EXPORT = """Write a trained policy as one file that runs without robovision, after playing with it to see that it does
the same.

onnx: for onnxruntime and whatever reads ONNX. torch: for torch.export.load. torchscript: for torch.jit.load and
C++. The file computes one step; `robovision.agents.export` says what goes in and comes out. Policies of
`robovision rl` take their most likely action.

examples:
  robovision export runs/hammer
  robovision export runs/hammer --form torch --checkpoint best --out hammer.pt2"""

PUSH = """Upload a trained policy to the Hugging Face Hub: its config, its weights as safetensors, and a model card.

`robovision.agents.load("hf://OWNER/NAME")` loads it from there. Log in first with `hf auth login`; nothing is uploaded
with --dry-run.

examples:
  robovision push runs/hammer me/hammer --dry-run hammer-card
  robovision push runs/hammer me/hammer --checkpoint best --private"""


@dataclass(frozen=True)
class Export:
    """The options of `robovision export`."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    form: Literal["onnx", "torch", "torchscript"] = "onnx"
    """onnx, torch or torchscript."""
    checkpoint: str = "final"
    """final, best (of the evaluated ones), or the number of a step."""
    out: Path | None = None
    """The file; by default policy.onnx, policy.pt2 or policy.ts in the run folder."""


@dataclass(frozen=True)
class Push:
    """The options of `robovision push`."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    repository: tyro.conf.Positional[str]
    """OWNER/NAME."""
    checkpoint: str = "final"
    """final, best (of the evaluated ones), or the number of a step."""
    private: bool = False
    """Make a new repository that only you see."""
    dry_run: Path | None = None
    """Only write what would be uploaded into this folder."""

    def __post_init__(self) -> None:
        if self.repository.count("/") != 1 or not all(self.repository.split("/")):
            raise UsageError(f"a repository is written OWNER/NAME, got {self.repository!r}")


def _export(options: Export) -> int:
    from robovision.agents import load
    from robovision.agents.export import SUFFIXES, export

    agent = load(options.run, options.checkpoint)
    out = options.out or options.run / f"policy{SUFFIXES[options.form]}"
    difference = export(agent, out, options.form)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, actions differ from the policy's by at most {difference:.1e}")
    return 0


def _push(options: Push) -> int:
    import tempfile

    from robovision.agents.hub import pack, push
    from robovision.run import Run

    run = Run.open(options.run)
    if options.dry_run is not None:
        print(f"would be uploaded: {pack(run, options.checkpoint, options.dry_run, options.repository)}")
        return 0
    folder = Path(tempfile.mkdtemp(prefix="robovision-push-"))
    print(push(run, options.checkpoint, options.repository, folder, options.private))
    return 0


COMMANDS = {
    "export": Command(Export, EXPORT, _export),
    "push": Command(Push, PUSH, _push),
}
