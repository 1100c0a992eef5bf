"""A large JSON object read member by member, so that never more than one of its values is held as Python objects."""

from __future__ import annotations

import json
import re
from typing import Any

DECODER = json.JSONDecoder()
SPACE = re.compile(r"[ \t\r\n]*")


class JsonWalk:
    """A place in a JSON text that moves on with what is read.

    >>> walk = JsonWalk('{"a": 1, "b": {"c": [2]}}')
    >>> walk.enter(), walk.key(), walk.value(), walk.key()
    (None, 'a', 1, 'b')
    >>> walk.enter(), walk.key(), walk.value(), walk.key(), walk.key()
    (None, 'c', [2], None, None)
    """

    def __init__(self, text: str) -> None:
        self._text, self._at, self._first = text, 0, True

    def enter(self) -> None:
        """Go into the object that stands here.

        Raises:
            ValueError: if none does.
        """
        self._expect("{")
        self._first = True

    def key(self) -> str | None:
        """The next member's key, or None behind the last one, where this goes out of the object.

        Raises:
            ValueError: if the text is cut off or wrong here.
        """
        if self._next() == "}":
            self._at += 1
            self._first = False
            return None
        if not self._first:
            self._expect(",")
        self._first = False
        key = self.value()
        if not isinstance(key, str):
            raise ValueError(f"a key must be text, got {key!r}")
        self._expect(":")
        return key

    def value(self) -> Any:
        """The value that stands here.

        Raises:
            ValueError: if the text is cut off or wrong here.
        """
        self._next()
        value, self._at = DECODER.raw_decode(self._text, self._at)
        return value

    def end(self) -> None:
        """Raise ValueError if something stands here."""
        if self._next():
            raise ValueError(f"more than one value, from character {self._at}")

    def _next(self) -> str:
        match = SPACE.match(self._text, self._at)
        self._at = match.end() if match else self._at
        return self._text[self._at : self._at + 1]

    def _expect(self, mark: str) -> None:
        if self._next() != mark:
            raise ValueError(f"expected {mark!r} at character {self._at}")
        self._at += 1
