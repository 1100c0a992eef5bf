"""Tensors out of foreign checkpoint files: safetensors, PyTorch's pickles, TorchScript archives.

Nothing in a file is executed. Pickles load with PyTorch's `weights_only`, with `argparse.Namespace` allowed beside
its own types, because MAE's checkpoints hold one. TorchScript archives carry code, so they are not loaded: their
table of attributes is read by an unpickler that knows tensors and empty objects only.
"""

from __future__ import annotations

import argparse
import collections
import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robovision import weights
from robovision.errors import UsageError, first_line

CONTAINERS = ("model", "state_dict", "model_state", "r3m", "vip")
"""Under which keys checkpoints hold their weights."""
DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a checkpoint file of any of the three kinds.

    The names are those of the network itself: without the `module.` and `_orig_mod.` that DistributedDataParallel and
    `torch.compile` put before them.

    Raises:
        UsageError: if the file is missing, truncated, damaged, no checkpoint, or holds anything but data.
    """
    try:
        with path.open("rb") as file:
            start = file.read(100)
    except OSError as error:
        raise UsageError(f"there is no weight file {path}: {error.strerror}") from None
    _check_content(path, start)
    return _unwrapped(_read(path, start), path)


def _read(path: Path, start: bytes) -> dict[str, Tensor]:
    if start[8:9] == b"{":
        return weights.load(path)
    if start[:2] != b"PK":
        return _read_pickle(path)
    _check_sums(path)
    return _read_torchscript(path) if _is_torchscript(path) else _read_pickle(path)


def _unwrapped(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors without the names of what was wrapped around the network."""
    bare: dict[str, Tensor] = {}
    for name, value in tensors.items():
        own = re.sub(r"^((module|_orig_mod)\.)+", "", name)
        if own in bare:
            raise UsageError(f"{path} holds {own} twice, once as {name}: leave only one of them in it")
        bare[own] = value
    return bare


def _check_content(path: Path, start: bytes) -> None:
    """Raise UsageError for what often comes in a checkpoint's place."""
    if start.startswith(b"version https://git-lfs"):
        raise UsageError(f"{path} is a pointer of Git LFS and not the file itself: git lfs pull brings it")
    if start.lstrip()[:9].lower() in (b"<!doctype", b"<html>", b"<html lan"):
        raise UsageError(f"{path} is a web page and no checkpoint: save what its download link leads to")


def _check_sums(path: Path) -> None:
    """Raise UsageError if a part of an archive is not what was written; PyTorch reads it without looking."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError):
        return  # truncated: who reads it says so
    with archive:
        for part in archive.infolist():
            try:
                if part.CRC:  # PyTorch can leave it out
                    archive.read(part)
            except (zipfile.BadZipFile, zlib.error, OSError) as error:
                raise UsageError(f"{path} is damaged, get it again: {first_line(error)}") from None


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = _refused_global(str(error))
        raise UsageError(
            f"{path} is refused: {reason}. Nothing in it was executed. If it comes from its authors, load it in an "
            f"environment of its own and save only its tensors, as safetensors"
        ) from None
    except Exception as error:
        raise UsageError(f"{path} is truncated or no checkpoint: {first_line(error)}") from error
    tensors = _unwrap(content)
    if not tensors:
        raise UsageError(f"{path} holds no tensors, neither by name nor under {', '.join(CONTAINERS)}")
    return tensors


def _refused_global(message: str) -> str:
    """What PyTorch's unpickler disliked, in one line."""
    for line in message.splitlines():
        if "GLOBAL" in line or "Unsupported" in line:
            return line.strip().split(" was not")[0][:200]
    return message.splitlines()[0][:200]


def _unwrap(content: object) -> dict[str, Tensor]:
    """The mapping of names to tensors inside a checkpoint, in one of the usual containers or at its top."""
    if not isinstance(content, Mapping):
        return {}
    inside = next((found for key in CONTAINERS if (found := _unwrap(content.get(key)))), None)
    return inside or {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


class _Attributes(dict[str, Any]):
    """Stands for a scripted module: takes its attributes and does nothing with them."""

    def __setstate__(self, state: Any) -> None:
        self.update(state if isinstance(state, dict) else {})


class _TorchScriptReader(pickle.Unpickler):
    """Reads a TorchScript archive's attributes; the only things it can make are tensors and `_Attributes`."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(archive.open(f"{root}data.pkl"))
        self._archive = archive
        self._root = root

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "__torch__":
            return _Attributes
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
            ("collections", "OrderedDict"): collections.OrderedDict,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return known[module, name]

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, count = pid
        content = bytearray(self._archive.read(f"{self._root}data/{key}"))
        return torch.frombuffer(content, dtype=dtype, count=count)


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    return storage.as_strided(size, stride, offset)


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    try:
        with zipfile.ZipFile(path) as archive:
            root = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("data.pkl")
            content = _TorchScriptReader(archive, root).load()
    except pickle.UnpicklingError as error:
        raise UsageError(f"{path} is refused: {error}. Nothing in it was executed") from None
    except Exception as error:
        raise UsageError(f"{path} is truncated or no TorchScript archive: {first_line(error)}") from error
    return {name: value for name, value in weights.flatten(content).items() if isinstance(value, Tensor)}
