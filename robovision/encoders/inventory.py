"""Which weights there are, which of them are here, and whether they are whole."""

from __future__ import annotations

from pathlib import Path

from robovision import weights
from robovision.encoders.checkpoints import fetched, find_weights, load_pretrained, weights_folder
from robovision.encoders.names import ENCODERS, find_spec
from robovision.errors import UsageError

CHECKED_AT = 224
"""Side in pixels of the images that a checked encoder is built for; a multiple of every patch."""


def list_weights() -> str:
    """A table of the encoders: name, architecture, patch, and where the weights are or come from."""
    rows = [("encoder", "architecture", "patch", "weights")]
    rows += [
        (name, "embedded", "", f"shipped, {entry.file}")
        for name, entry in weights.EMBEDDED.items()
        if name not in ENCODERS
    ]
    for name, spec in ENCODERS.items():
        path = fetched(name)
        shipped = f"shipped, {weights.EMBEDDED[name].file}" if spec.embedded else ""
        source = f"https://huggingface.co/{spec.hub}" if spec.hub else spec.page
        where = (
            shipped or (f"here: {path}" if path else source) or "random, or your file in timm's or torchvision's format"
        )
        rows.append((name, spec.architecture, str(spec.patch), where))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]) for row in rows
    )


def check_weights(name: str | None, file: Path | None) -> str:
    """Load weights strictly and say what they are, one line a file.

    Args:
        name: an encoder; None for everything that is shipped or was fetched.
        file: the encoder's weights, if not those that were fetched.

    Raises:
        UsageError: if a file is damaged, unsafe or of another architecture, naming every wrong tensor.
    """
    if name is not None:
        own = find_weights if find_spec(name).embedded else fetched
        path = own(name) if file is None else file
        if path is None:
            raise UsageError(f"no weights of {name} in {weights_folder(name)}: fetch them, or name a file with --file")
        return _check(name, path)
    if file is not None:
        raise UsageError("say for which encoder the file is: robovision weights check NAME --file FILE")
    lines = [f"{name}: {weights.find(name)}, checksum right" for name in weights.EMBEDDED]
    lines += [_check(name, path) for name in ENCODERS if (path := fetched(name))]
    return "\n".join(lines)


def _check(name: str, path: Path) -> str:
    from robovision.encoders.build import build

    find_spec(name)
    encoder = build(name, CHECKED_AT)
    title = load_pretrained(encoder, path)
    millions = sum(parameter.numel() for parameter in encoder.parameters()) / 1e6
    return f"{name}: {path} fits ({title}; {millions:.1f} M parameters; SHA-256 {weights.sha256(path)})"
