"""How a run's config names weights, so that the run can be taken elsewhere.

vit-tiny-sim@58be41f3cf51    weights that the package carries, or that were fetched, by name and the first digits of
                             their SHA-256 checksum
/home/me/vc1.pth             any other file, by its absolute path

So a run goes on in another installation or on another machine, and says so if a name stands for other weights there.
"""

from __future__ import annotations

import re
from pathlib import Path

from robovision import weights
from robovision.encoders.checkpoints import fetched, find_weights
from robovision.encoders.names import ENCODERS
from robovision.errors import UsageError

DIGITS = 12
NAMED = re.compile(rf"([a-z0-9-]+)@([0-9a-f]{{{DIGITS}}})")
CARRIED = {Path("robovision", "data", entry.file).parts: name for name, entry in weights.EMBEDDED.items()}
"""The last parts of the paths of what the package carries, wherever it is installed, with the names."""


def record(path: Path) -> Path:
    """How a config names the weights of a file; what `record` gave stays as it is.

    Earlier versions wrote down paths even of what the package carries. Where such a file is no longer there, this
    release's is meant.

    >>> record(Path("/a/robovision/data/strek.safetensors"))
    PosixPath('strek@2fc2854b9f88')
    """
    if _parse(path) is not None:
        return path
    name = CARRIED.get(path.resolve().parts[-3:])
    if name is not None and (not path.exists() or weights.sha256(path) == weights.EMBEDDED[name].sha256):
        return Path(f"{name}@{weights.EMBEDDED[name].sha256[:DIGITS]}")
    name = path.parent.name
    if name in ENCODERS and path.is_file() and path == fetched(name):
        return Path(f"{name}@{weights.sha256(path)[:DIGITS]}")
    return path.resolve()


def locate(recorded: Path) -> Path:
    """The file of the weights that a config names.

    Raises:
        UsageError: if it is to be had by its name and is not here, or here are others of that name.
    """
    parsed = _parse(record(recorded))
    if parsed is None:
        return recorded
    name, checksum = parsed
    path = weights.find(name) if name in weights.EMBEDDED else find_weights(name)
    found = weights.sha256(path)[:DIGITS]
    if found != checksum:
        raise UsageError(
            f"{path} holds other weights of {name}, {found}, than the run starts from, {checksum}: take the release "
            "that began it, which its run.json names, or begin another run"
        )
    return path


def _parse(recorded: Path) -> tuple[str, str] | None:
    """Name and checksum of weights that are recorded by them, or None."""
    match = NAMED.fullmatch(str(recorded))
    known = match is not None and (match[1] in weights.EMBEDDED or match[1] in ENCODERS)
    return (match[1], match[2]) if match and known else None
