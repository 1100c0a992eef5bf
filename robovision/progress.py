"""Progress bars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm


def move(bar: tqdm[Any], done: int) -> None:
    """Move a bar to where `done` things are done."""
    bar.update(done - bar.n)
