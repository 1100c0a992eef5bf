"""Published weights by name or file: where they lie, how they get there, and strict loading into an encoder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from robovision import hub, weights
from robovision.encoders.names import find_spec
from robovision.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from robovision.encoders.base import Encoder
    from robovision.encoders.names import Adapter

DEFAULT = "vit-tiny-sim"
"""The encoder that is loaded if none is named: it comes with the package."""
HUB_FILES = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
"""The names under which the Hub keeps weights, in the order in which they are tried."""


def cache_folder() -> Path:
    """Where fetched weights and cached features lie: $ROBOVISION_CACHE, or robovision/ in the user's cache folder."""
    chosen = os.environ.get("ROBOVISION_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "robovision"


def weights_folder(name: str) -> Path:
    """The folder that holds the fetched weights of an encoder."""
    return cache_folder() / "weights" / name


def fetched(name: str) -> Path | None:
    """The file with the fetched weights of an encoder, or None.

    Raises:
        UsageError: if there are several, so that it isn't clear which is meant.
    """
    folder = weights_folder(name)
    files = sorted(path for path in folder.glob("[!.]*") if path.is_file()) if folder.is_dir() else []
    if len(files) > 1:
        raise UsageError(f"{folder} holds several files, {', '.join(f.name for f in files)}: leave only one there")
    return files[0] if files else None


def find_weights(name: str) -> Path:
    """The file with the weights that an encoder's name promises: those the package carries, or those that were fetched.

    Raises:
        UsageError: if it isn't there, with the ways to get it.
    """
    path = weights.find(name) if find_spec(name).embedded else fetched(name)
    if path is None:
        fetching = f"Either: robovision weights fetch {name}\nor, by hand: " if find_spec(name).hub else ""
        raise UsageError(f"the weights of {name} are not here.\n{fetching}{_by_hand(name)}")
    return path


def _by_hand(name: str) -> str:
    """How an encoder's weights get here without this library's help."""
    spec = find_spec(name)
    if not spec.needs_weights:
        return f"{name} has no published weights; pass a file with --encoder.weights FILE"
    source = (
        f"{' or '.join(HUB_FILES)} from https://huggingface.co/{spec.hub}"
        if spec.hub
        else f"the file that {spec.page} links to"
    )
    return (
        f"get {source} and put it, under any name, into {weights_folder(name)}/, or pass it with --encoder.weights FILE"
    )


def fetch(name: str) -> Path:
    """Download an encoder's weights from the Hugging Face Hub, unless they are here or the package carries them.

    Raises:
        UsageError: if they are not on the Hub, huggingface_hub is not installed, or the Hub can't be reached;
            each says where to put a file that came another way.
    """
    spec = find_spec(name)
    present = weights.find(name) if spec.embedded else fetched(name)
    if present is not None:
        return present
    if not spec.hub:
        raise UsageError(f"{name} is not on the Hugging Face Hub. {_by_hand(name)}")
    try:
        huggingface_hub = hub.client()
    except UsageError as error:
        raise UsageError(f"{error}\n{_by_hand(name)}") from None
    for file in HUB_FILES:
        try:
            with hub.quiet():
                return Path(huggingface_hub.hf_hub_download(spec.hub, file, local_dir=weights_folder(name)))
        except Exception as error:
            if _has_no_such_file(error):
                continue
            raise UsageError(f"{spec.hub} can't be fetched: {hub.reason(error)}\n{_by_hand(name)}") from error
    raise UsageError(f"https://huggingface.co/{spec.hub} holds none of {', '.join(HUB_FILES)}\n{_by_hand(name)}")


def _has_no_such_file(error: Exception) -> bool:
    """Whether the Hub was reached and its repository lacks the file."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    return isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)


def load_encoder(
    name: str = DEFAULT, image_size: int = 64, adapter: Adapter = "none", file: Path | None = None
) -> Encoder:
    """A pretrained encoder in evaluation, ready to look at images.

    Args:
        name: one of `robovision weights list`.
        image_size: side in pixels of the images that it is for; its position embedding is resized to them.
        adapter: what `build` adds to it, such as `coin`; its gate is shut unless the file holds trained weights of it.
        file: its weights in any published format; by default those that the package carries or that were fetched.

    Raises:
        UsageError: for an unknown name, a size or an adapter that does not fit; as `find_weights` and `load_pretrained`
            do.
    """
    from robovision.encoders.build import build

    encoder = build(name, image_size, adapter, pretrained=True)
    load_pretrained(encoder, find_weights(name) if file is None else file)
    return encoder.eval()


def load_pretrained(encoder: Encoder, path: Path) -> str:
    """Fill an encoder from a checkpoint file. Returns the format's name.

    An adapter of which the file holds nothing keeps its initial weights. The position embedding is resized to the
    encoder's grid.

    Raises:
        UsageError: for an unreadable or unsafe file, and for numbers that are not finite; naming every missing,
            unexpected and misshapen tensor.
    """
    from robovision.encoders.adapters import is_adapter
    from robovision.encoders.formats import detect, translate
    from robovision.encoders.pickles import read_tensors

    tensors = read_tensors(path)
    known = detect(tensors)
    if known is not None:
        tensors = translate(known, tensors)
    title = known.title if known else "a format that is not known"
    for name in encoder.state_dict().keys() & tensors.keys():
        if not tensors[name].isfinite().all():
            raise UsageError(f"{path}: {name} holds numbers that are NaN or infinite")
    adapted = any(is_adapter(name) for name in tensors)
    own = {name: value for name, value in encoder.state_dict().items() if is_adapter(name) and not adapted}
    weights.assign(encoder, {**_resized(encoder, tensors), **own}, f"{path} ({title})")
    return title


def _resized(encoder: Encoder, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with a square position embedding brought to a ViT's grid."""
    from robovision.encoders.vit import ViT, resize_positions

    positions = tensors.get("pos_embed")
    if not isinstance(encoder, ViT) or positions is None or positions.ndim != 3:
        return tensors
    side = round((positions.shape[1] - 1) ** 0.5)
    if side == 0 or side * side != positions.shape[1] - 1:
        return tensors
    wanted = (encoder.side, encoder.side)
    return {**tensors, "pos_embed": resize_positions(positions, (side, side), wanted, encoder.style.antialias)}
