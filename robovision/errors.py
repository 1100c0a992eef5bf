"""Errors that a user can mend: the message names what came and what to do; the command line shows only that."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """Something outside the program is wrong, and the message says what and how to mend it."""


def unknown(kind: str, name: str, valid: Iterable[str]) -> UsageError:
    """An error for a name that does not exist, with the nearest ones that do.

    >>> str(unknown("task", "metaworld/draw-open", ["metaworld/drawer-open", "dmc/walker-walk"]))
    "unknown task 'metaworld/draw-open'; nearest: metaworld/drawer-open"
    """
    names = sorted(valid)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    advice = f"nearest: {', '.join(near)}" if near else f"there are: {', '.join(names)}"
    return UsageError(f"unknown {kind} {name!r}; {advice}")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if it says nothing; at most 200 characters.

    >>> first_line(ValueError("it is 3")), first_line(EOFError())
    ('it is 3', 'EOFError')
    """
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
