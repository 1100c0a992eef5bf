"""Keypoints of many images in one HDF5 file, in the layout of hloc (Sarlin et al., CVPR 2019)."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from robovision.errors import UsageError, first_line
from robovision.files import cannot_write, hold, write_atomically, write_json
from robovision.types import Keypoints

OPTIONAL = ("angles", "scales", "uncertainties")
"""What hloc has no name for; kept under ours."""


def import_h5py() -> Any:
    """The module h5py.

    Raises:
        UsageError: if it is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise UsageError("HDF5 files need h5py: pip install 'robovision[keypoints]'") from error
    return h5py


class Store:
    """An HDF5 file of keypoints that is made bit by bit.

    Each image's keypoints are at once safe in a folder beside the file; `pack` moves them all into it. Whatever ends
    the process, what is done stays done.

    Convention:
        One group an image, by its name: keypoints float32 [N, 2] (pixels, the centre of the top-left one at (0, 0)),
        scores [N], descriptors [D, N], image_size [2] (width, height); and angles, scales, uncertainties [N] where
        the extractor gives them.

    Args:
        path: the HDF5 file.
        settings: how the keypoints are made; a file made otherwise is not added to.

    Raises:
        UsageError: if what is there was made with other settings, or can't be read or written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self._settings = json.loads(json.dumps(settings))
        self._parts = path.with_name(f".{path.name}.parts")
        self._done = set(names(path)) if path.exists() else set()
        if path.exists():
            self._check(_settings(path), path)
        self._open_parts()

    def __contains__(self, name: str) -> bool:
        return name in self._done

    def lock(self) -> AbstractContextManager[None]:
        """Hold what is done for this process, until `pack`; two that add to it would write over each other's.

        Raises:
            UsageError: if another process holds it.
        """
        return hold(self._parts)

    def add(self, name: str, keypoints: Keypoints) -> None:
        """Keep one image's keypoints."""
        with write_atomically(self._parts / f"{len(self._done):08d}.npz") as file:
            np.savez(file, name=np.array(name), **_arrays(keypoints))
        self._done.add(name)

    def pack(self) -> None:
        """Move everything into the file, which is replaced whole or not at all."""
        parts = sorted(self._parts.glob("*.npz"))
        if parts or not self.path.exists():
            partial = self.path.with_name(f".{self.path.name}.partial")
            try:
                if self.path.exists():
                    shutil.copyfile(self.path, partial)
                with import_h5py().File(partial, "a") as file:
                    file.attrs["robovision"] = json.dumps(self._settings)
                    for part in parts:
                        _write(file, part)
                partial.replace(self.path)
            except OSError as error:
                raise cannot_write(self.path, _of_the_system(error)) from error
            finally:
                partial.unlink(missing_ok=True)
        shutil.rmtree(self._parts)

    def _open_parts(self) -> None:
        about = self._parts / "settings.json"
        try:
            self._parts.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self._parts, error) from error
        if about.exists():
            self._check(json.loads(about.read_text()), self.path)
        else:
            write_json(about, self._settings)
        for part in self._parts.glob("*.npz"):
            with np.load(part) as arrays:
                self._done.add(str(arrays["name"]))

    def _check(self, found: Any, path: Path) -> None:
        if found != self._settings:
            raise UsageError(f"{path} was made with {found}, not {self._settings}: choose another --out, or remove it")


def names(path: Path) -> list[str]:
    """The names of the images whose keypoints a file holds, in order.

    Raises:
        UsageError: if it is no HDF5 file with keypoints.
    """
    entries: list[str] = []
    with _open(path) as file:
        file.visit(entries.append)
    return sorted(entry.removesuffix("/keypoints") for entry in entries if entry.endswith("/keypoints"))


def read(path: Path, wanted: Iterable[str] | None = None) -> Iterator[tuple[str, Keypoints]]:
    """The keypoints of each image of a file, with its name; float16 ones of hloc's own too.

    Args:
        path: the HDF5 file.
        wanted: the images' names; by default all.

    Raises:
        UsageError: if it is no HDF5 file with keypoints, or an image is not in it.
    """
    chosen = names(path) if wanted is None else list(wanted)
    with _open(path) as file:
        for name in chosen:
            if name not in file:
                raise UsageError(f"{path} has no keypoints of {name}")
            yield name, _keypoints(file[name])


def _of_the_system(error: OSError) -> OSError:
    """The system's error that one of HDF5 names in its long text, if it does."""
    number = re.search(r"errno = (\d+)", str(error))
    return error if number is None else OSError(int(number[1]), os.strerror(int(number[1])))


def _open(path: Path) -> Any:
    try:
        return import_h5py().File(path, "r")
    except FileNotFoundError:
        raise UsageError(f"there is no file {path}") from None
    except OSError as error:
        raise UsageError(f"{path} is no readable HDF5 file: {first_line(error)}") from error


def _settings(path: Path) -> Any:
    with _open(path) as file:
        return json.loads(file.attrs.get("robovision", "{}"))


def _arrays(keypoints: Keypoints) -> dict[str, Any]:
    arrays = {
        "keypoints": keypoints.xy,
        "scores": keypoints.scores,
        "descriptors": None if keypoints.descriptors is None else keypoints.descriptors.T,
        "image_size": np.array(keypoints.image_size),
        **{name: getattr(keypoints, name) for name in OPTIONAL},
    }
    return {name: array for name, array in arrays.items() if array is not None}


def _write(file: Any, part: Path) -> None:
    with np.load(part) as arrays:
        name = str(arrays["name"])
        if name in file:  # of a run that was ended after it packed
            del file[name]
        group = file.create_group(name)
        for key in arrays.files:
            if key != "name":
                group[key] = arrays[key]


def _keypoints(group: Any) -> Keypoints:
    arrays = {name: entry[()] for name, entry in group.items()}
    xy = np.asarray(arrays["keypoints"], np.float32)
    width, height = (int(side) for side in arrays["image_size"])
    scores = arrays.get("scores", np.zeros(len(xy), np.float32))
    described = arrays["descriptors"].T if "descriptors" in arrays else None
    return Keypoints(xy, (width, height), scores, described, *(arrays.get(name) for name in OPTIONAL))
