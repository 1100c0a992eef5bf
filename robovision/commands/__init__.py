"""What `robovision COMMAND` does: one module a group of commands, each command a frozen dataclass of its options.

Importing these imports neither torch nor a simulator, so that `--help` is quick.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robovision.errors import UsageError


@dataclass(frozen=True)
class Command:
    """One command: the dataclass of its options, its help with examples, and what it does, returning an exit code."""

    options: type
    text: str
    run: Callable[[Any], int]
    prepare: Callable[[list[str]], tuple[list[str], Any]] | None = None
    """Changes the arguments before they are parsed, and gives the options' defaults."""


def check_workers(workers: int) -> None:
    """Raise UsageError for a negative number of processes."""
    if workers < 0:
        raise UsageError(f"--workers must not be negative, got {workers}")


def process_count(workers: int, ray: str | None, jobs: int) -> int:
    """`--workers` with 0 as what it means: as many as there are cores here, or in the cluster, which limits them."""
    from robovision.devices import cpu_count

    return workers or (cpu_count() if ray is None else jobs)


def check_resumed(differing: Sequence[str], out: Path | None) -> None:
    """Raise UsageError if a resumed run was given other options, or another folder."""
    changed = [*differing, *(["--out: a resumed run stays in its folder"] if out else [])]
    if changed:
        raise UsageError("a resumed run keeps its options; these differ:\n  " + "\n  ".join(changed))


def list_faults(faults: Sequence[str], total: int, what: str = "files") -> int:
    """Print what could not be read, if anything; returns the exit code, 1 or 0."""
    for fault in faults:
        print(f"robovision: {fault}", file=sys.stderr)
    if faults:
        print(f"robovision: {len(faults)} of {total} {what} could not be read, see above", file=sys.stderr)
    return 1 if faults else 0


def absolute(path: Path | None) -> Path | None:
    """The path as a run folder keeps it, which may be resumed from elsewhere."""
    return None if path is None else path.resolve()


def program() -> str:
    """How to call this command again: by its name, or as it was called where the shell would not find it."""
    if shutil.which("robovision"):
        return "robovision"
    return f"{sys.executable} -m robovision.cli" if sys.argv[0].endswith(".py") else sys.argv[0]


def resumed_path(arguments: Sequence[str]) -> Path | None:
    """The run folder that the arguments name with --resume, or None."""
    path = named(arguments, "--resume")
    return Path(path) if path and not path.startswith("-") else None


def named(arguments: Sequence[str], option: str) -> str | None:
    """What stands after an option in the arguments, or None."""
    for k, argument in enumerate(arguments):
        flag, _, value = argument.partition("=")
        if flag == option:
            return value or next(iter(arguments[k + 1 : k + 2]), "")
    return None
