"""The Hugging Face Hub's own client, without its talk about each try, and its errors in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from robovision.errors import UsageError, first_line


def client() -> Any:
    """The module huggingface_hub.

    Raises:
        UsageError: if it is not installed.
    """
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise UsageError("the Hugging Face Hub needs: pip install 'robovision[hub]'") from None
    return huggingface_hub


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within, the client logs errors only; it would warn of each try that fails, and tries six times."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def reason(error: BaseException) -> str:
    """What went wrong, in one line: the first of the errors that led to this one.

    >>> try:
    ...     raise RuntimeError("the file is not in the cache") from OSError("no route to host")
    ... except RuntimeError as error:
    ...     reason(error)
    'no route to host'
    """
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
