"""Weights on disk: names to files, checksums, and loading that is strict and executes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robovision.errors import UsageError, unknown
from robovision.files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Embedded:
    """A weight file that the package carries."""

    file: str
    """Its name in the folder `robovision/data`."""
    sha256: str


EMBEDDED: dict[str, Embedded] = {
    "vit-tiny-sim": Embedded(
        "vit-tiny-sim.safetensors", "58be41f3cf515aea472b969cfd1d6a9fa863641c43aff3337b311c6bbd622bcb"
    ),
    "lidar-small-sim": Embedded(
        "lidar-small-sim.safetensors", "99d762552ba71b393de033da5aeba76d36b1c46e1a555920eb06de8070433de7"
    ),
    "strek": Embedded("strek.safetensors", "2fc2854b9f886d1059bdb36320074b504342c216d837e7b73e98b93386128814"),
}
"""The weights that this release carries, by name; beside each file lies its model card, in Markdown."""


def find(name: str) -> Path:
    """The file of embedded weights of this name, after checking that it is what was shipped.

    Raises:
        UsageError: for an unknown name, or a file that is missing or changed.
    """
    if name not in EMBEDDED:
        raise unknown("weights", name, EMBEDDED)
    path = Path(str(resources.files("robovision") / "data" / EMBEDDED[name].file))
    check(path, EMBEDDED[name].sha256)
    return path


def sha256(path: Path) -> str:
    """The SHA-256 checksum of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(path: Path, expected: str) -> None:
    """Raise UsageError unless the file is there and has this SHA-256 checksum."""
    if not path.is_file():
        raise UsageError(f"{path} is missing")
    found = sha256(path)
    if found != expected:
        raise UsageError(f"{path} is damaged or was changed: its checksum is {found[:12]}, not {expected[:12]}")


def save(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> str:
    """Write tensors as safetensors, whole or not at all; returns the file's SHA-256 checksum.

    Args:
        path: the file.
        tensors: by name.
        about: what the file says of them; `about` reads it.

    Raises:
        UsageError: if the file can't be written.
    """
    from safetensors.torch import save as serialise

    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    content = serialise(plain, dict(about) if about else None)
    with write_atomically(path) as file:
        file.write(content)
    return hashlib.sha256(content).hexdigest()


def load(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        UsageError: if it is missing, truncated or another format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise UsageError(f"there is no weight file {path}") from None
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is no readable safetensors file: {error}") from error


def about(path: Path) -> dict[str, str]:
    """What a safetensors file says of its tensors.

    Raises:
        UsageError: if it is missing, truncated or another format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except FileNotFoundError:
        raise UsageError(f"there is no weight file {path}") from None
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is no readable safetensors file: {error}") from error


def load_floats(path: Path) -> dict[str, Tensor]:
    """Like `load`, with half precision widened to float32."""
    import torch

    return {name: value.float() if value.dtype == torch.float16 else value for name, value in load(path).items()}


def assign(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors into a module that has exactly their names and shapes, and fractions where they have fractions.

    Raises:
        UsageError: naming every missing, unexpected and misshapen tensor, and those of another kind of number.
    """
    own = module.state_dict()
    faults = [f"missing: {name}" for name in own if name not in tensors]
    faults += [f"unexpected: {name}" for name in tensors if name not in own]
    faults += [
        f"misshapen: {name} is {list(tensors[name].shape)}, not {list(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    faults += [
        f"of another type: {name} is {tensors[name].dtype}, not {own[name].dtype}"
        for name in own
        if name in tensors and tensors[name].is_floating_point() != own[name].is_floating_point()
    ]
    if faults:
        raise UsageError(f"{source} does not fit {type(module).__name__}:\n  " + "\n  ".join(faults))
    module.load_state_dict(dict(tensors))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """Nested dictionaries of tensors as one, names joined by dots."""
    flat: dict[str, Tensor] = {}
    for name, value in tree.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
