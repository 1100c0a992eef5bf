"""Features of a frozen encoder, kept on disk, so that an image is encoded once and not in every epoch.

An entry holds the features of one demonstration. It lies in the folder of its recipe (weights, architecture, image
size, normalisation, precision, render preset) under the checksum of its pixels, is written whole or not at all, and
carries its recipe and a checksum: processes may share the cache, and what is damaged or stale is made again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from robovision.encoders.base import Encoder
from robovision.encoders.checkpoints import cache_folder
from robovision.errors import UsageError
from robovision.files import write_atomically

BATCH = 32
"""Images that are encoded at once."""
VERSION = 1
"""Of the entries' layout; another one's are not found."""
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
"""Relative error by which kept features may differ from fresh ones before they count as stale."""

Kind = Literal["tokens", "pooled"]


@dataclass(frozen=True)
class Recipe:
    """All that features depend on beside the pixels."""

    weights: str
    """SHA-256 over the names, types and values of everything that the encoder holds, normalisation included."""
    encoder: str
    """Its name and adapter: what the weights alone don't tell, such as the number of heads."""
    kind: Kind
    """What is kept of `Features`."""
    size: int
    """Side of the images in pixels."""
    precision: str
    """What the encoder computes in; features are kept in it too."""
    preset: str
    """How the images were rendered."""
    version: int = VERSION

    @property
    def folder(self) -> Path:
        """Where the entries of this recipe lie."""
        return features_folder() / hashlib.sha256(self.text().encode()).hexdigest()[:16]

    def text(self) -> str:
        """The recipe as JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


@dataclass(frozen=True)
class Kept:
    """The features of demonstrations end to end, and how they came about.

    Convention:
        features: [N, T, D] tokens or [N, P] pooled vectors, in the recipe's precision, on the CPU.
        found, made, mended: demonstrations whose features were there; were not; were there but damaged or stale.
        size: bytes of these entries on the disk.
    """

    features: Tensor
    found: int
    made: int
    mended: int
    size: int

    def __str__(self) -> str:
        mended = f", {self.mended} damaged or stale ones made again" if self.mended else ""
        return (
            f"features of {len(self.features):,} frames, {self.size / 1e6:,.1f} MB; {self.found} demonstrations were "
            f"cached, {self.made} encoded{mended}; {features_folder()} holds {cache_size() / 1e6:,.1f} MB in all"
        )


def features_folder() -> Path:
    """The folder of all recipes; it may be deleted at any time."""
    return cache_folder() / "features"


def cache_size() -> int:
    """Bytes of all entries, of every recipe."""
    return sum(path.stat().st_size for path in features_folder().glob("*/*.safetensors"))


def digest(encoder: Encoder) -> str:
    """SHA-256 over an encoder's parameters, buffers and normalisation."""
    total = hashlib.sha256()
    for name, value in [*sorted(encoder.state_dict().items()), ("mean", encoder.mean), ("std", encoder.std)]:
        total.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        total.update(_bytes(value))
    return total.hexdigest()


def keep(
    encoder: Encoder,
    recipe: Recipe,
    episodes: Sequence[Tensor],
    progress: Callable[[int], object] = lambda images: None,
) -> Kept:
    """The features of episodes of images, uint8 [n, 3, size, size] each, from the cache or made and put there.

    Args:
        encoder: the frozen encoder; it is set to evaluation.
        recipe: what its features depend on.
        episodes: the images, an episode at a time.
        progress: called with the number of images that were just done.

    Raises:
        UsageError: if the cache's disk is too full, or can't be written.
    """
    encoder.eval()
    sample = encode(encoder, recipe, episodes[0][:1])
    frames = sum(len(images) for images in episodes)
    features = torch.empty(frames, *sample.shape[1:], dtype=sample.dtype)
    paths = [recipe.folder / f"{_sha256(images)}.safetensors" for images in episodes]
    present = [path.exists() for path in paths]
    _prepare(recipe, sum(len(i) for i, here in zip(episodes, present, strict=True) if not here) * sample.nbytes)
    made, stale = [], False
    for path, images, content in zip(paths, episodes, torch.split(features, [len(i) for i in episodes]), strict=True):
        entry = None if stale else _read(path, recipe, content.shape)
        if path is paths[0] and entry is not None and not _agree(entry[:1], sample, recipe.precision):
            entry, stale = None, True
        made.append(entry is None)
        if entry is None:
            for number in range(0, len(images), BATCH):
                content[number : number + BATCH] = encode(encoder, recipe, images[number : number + BATCH])
                progress(len(images[number : number + BATCH]))
            _write(path, recipe, content)
        else:
            content.copy_(entry)
            progress(len(images))
    mended = sum(here and new for here, new in zip(present, made, strict=True))
    size = sum(path.stat().st_size for path in paths)
    return Kept(features, len(made) - sum(made), sum(made), mended, size)


@torch.no_grad()
def encode(encoder: Encoder, recipe: Recipe, images: Tensor) -> Tensor:
    """The features of images, on the CPU and in the recipe's precision."""
    device = encoder.mean.device
    images = images.to(device).contiguous(memory_format=torch.channels_last)
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        features = encoder(images)
    kept: Tensor = features.tokens if recipe.kind == "tokens" else features.pooled
    return kept.to("cpu", torch.bfloat16 if recipe.precision == "bfloat16" else torch.float32)


def _prepare(recipe: Recipe, needed: int) -> None:
    """Make the folder, with the recipe for people to read, on a disk that has the bytes free."""
    folder = recipe.folder
    remedy = "free some space or set ROBOVISION_CACHE to another folder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise UsageError(f"can't write {folder}: {error.strerror or error}; {remedy}") from error
    if free < needed:
        raise UsageError(
            f"the disk of {folder} has {free / 1e6:,.0f} MB free and the features need {needed / 1e6:,.0f} MB: {remedy}"
        )
    if not (folder / "recipe.json").exists():
        with write_atomically(folder / "recipe.json") as file:
            file.write(f"{recipe.text()}\n".encode())


def _read(path: Path, recipe: Recipe, shape: tuple[int, ...]) -> Tensor | None:
    """The features of an entry; None if there is none, or it is damaged, or of another recipe."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            features: Tensor = file.get_tensor("features")
    except (OSError, SafetensorError):
        return None
    intact = (
        about.get("recipe") == recipe.text() and about.get("sha256") == hashlib.sha256(_bytes(features)).hexdigest()
    )
    return features if intact and tuple(features.shape) == shape else None


def _write(path: Path, recipe: Recipe, features: Tensor) -> None:
    from safetensors.torch import save

    about = {"recipe": recipe.text(), "sha256": hashlib.sha256(_bytes(features)).hexdigest()}
    content = save({"features": features.contiguous()}, about)
    with write_atomically(path) as file:
        file.write(content)


def _agree(kept: Tensor, fresh: Tensor, precision: str) -> bool:
    """Whether kept features are what the encoder would make of the same image today."""
    difference = (kept.float() - fresh.float()).norm()
    return bool(difference <= TOLERANCE[precision] * fresh.float().norm())


def _sha256(images: Tensor) -> str:
    """The checksum of an episode's pixels."""
    return hashlib.sha256(f"{list(images.shape)}".encode() + _bytes(images)).hexdigest()


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
