"""A user's own module by import path: `package.module:factory`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from robovision.errors import UsageError, first_line, unknown


def is_import_path(name: str) -> bool:
    """Whether a name is meant as an import path.

    >>> is_import_path("my_package.models:make"), is_import_path("vit-tiny")
    (True, False)
    """
    return ":" in name


def load(path: str) -> nn.Module:
    """The module at `package.module:name`, or what a factory or class of that name returns without arguments.

    The current folder is searched as well, as `python` does.

    Raises:
        UsageError: if the module can't be imported, has no such factory (the nearest are named), or if it raises or
            returns something else than a torch module.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name.isidentifier():
        raise UsageError(f"{path!r} is no import path: write package.module:factory")
    factory = _find(module_name, name)
    if isinstance(factory, nn.Module):
        return factory
    try:
        model = factory()
    except Exception as error:
        raise UsageError(
            f"{path} raised {type(error).__name__}: {first_line(error)}; it is called without arguments"
        ) from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"{path} returned {type(model).__name__}, not a torch.nn.Module")
    return model


def channels(model: nn.Module) -> int:
    """Channels of the pictures that a model takes: those of its first convolution, or 3."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    return 3


def _find(module_name: str, name: str) -> Callable[[], Any]:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise UsageError(
            f"can't import {module_name}: {type(error).__name__}: {first_line(error)}; is it installed, or in this "
            "folder?"
        ) from error
    names = {key: value for key, value in vars(module).items() if callable(value) and not key.startswith("_")}
    if name not in names:
        raise unknown(f"factory of {module_name}", name, names)
    found: Callable[[], Any] = names[name]
    return found
