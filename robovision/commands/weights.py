"""List, fetch and check pretrained weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from robovision.commands import Command
from robovision.errors import UsageError

WEIGHTS = """List the encoders and their weights, fetch weights from the Hugging Face Hub, check that a file fits.

Checking loads a file as strictly as training does: every missing, unexpected or misshapen tensor is named, and
nothing in the file is executed.

examples:
  robovision weights list
  robovision weights fetch dinov2-vit-s14
  robovision weights check clip-vit-b16 --file ViT-B-16.pt"""


@dataclass(frozen=True)
class Weights:
    """The options of `robovision weights`."""

    action: tyro.conf.Positional[Literal["list", "fetch", "check"]]
    """What to do."""
    name: tyro.conf.Positional[str | None] = None
    """An encoder; without it, check looks at everything that is here."""
    file: Path | None = None
    """The weights to check; by default those that were fetched."""

    def __post_init__(self) -> None:
        if self.action == "fetch" and self.name is None:
            raise UsageError("say which weights to fetch; robovision weights list shows them")


def _weights(options: Weights) -> int:
    from robovision.encoders import checkpoints, inventory

    match options.action:
        case "list":
            print(inventory.list_weights())
        case "fetch":
            print(checkpoints.fetch(options.name or ""))
        case "check":
            print(inventory.check_weights(options.name, options.file))
    return 0


COMMANDS = {"weights": Command(Weights, WEIGHTS, _weights)}
