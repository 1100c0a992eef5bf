"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from robovision.errors import UsageError


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears at `path` only once everything is in it and on the disk.

    Raises:
        UsageError: if it can't be written (disk full, no permission); what was at `path` stays as it was.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder for results, if it is not there.

    Raises:
        UsageError: if it can't be made, with the remedy.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; if the process dies, the system lets go of it.

    Raises:
        UsageError: if another process holds it, or it can't be written.
    """
    try:
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise cannot_write(folder, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another process is working in {folder}: wait for it or end it") from None
        yield


def write_json(path: Path, content: Any) -> None:
    """Write JSON, indented, atomically."""
    with write_atomically(path) as file:
        file.write((json.dumps(content, indent=2, default=str) + "\n").encode())


def write_csv(path: Path, names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write CSV with a header, atomically."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(rows)
    with write_atomically(path) as file:
        file.write(text.getvalue().encode())


def cannot_write(path: Path, error: OSError) -> UsageError:
    """The error for a file or folder that can't be written, with the reason and the remedy."""
    return UsageError(
        f"can't write {path}: {error.strerror or error}; free some space or choose another folder with --out"
    )
