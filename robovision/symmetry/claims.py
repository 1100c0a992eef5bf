"""What a model says of its symmetry, and whether it keeps its word.

A model declares by a method `symmetries()` that returns one `Symmetry` for each group that somebody could hope for;
`robovision.testing.assert_declared(model, inputs)` holds it to all of them.

>>> from torch import nn
>>> from robovision.symmetry.groups import cyclic_shifts
>>> claim = Symmetry(cyclic_shifts(1, 3), "exact")
>>> torus = nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular").double()
>>> check(torus, torch.randn(1, 3, 8, 8).double(), claim) < 1e-9
True
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from robovision.encoders.base import Features
from robovision.errors import UsageError
from robovision.symmetry.data import Image, Kind, Tokens
from robovision.symmetry.elements import Element
from robovision.symmetry.groups import Group, shifts, turns

Grade = Literal["exact", "interior", "approximate", "none"]

ROUNDING = 1e-11
"""The error of an exact symmetry at most, in float64."""
BROKEN = 1e-2
"""The error of a symmetry that is declared `none` at least."""
INSIDE = 1e-6
"""The same a quarter of the side away from every border, where `interior` would have a rounding error."""


def whole(output: Any) -> Tensor:
    """The output of a model that returns one tensor.

    Raises:
        UsageError: for anything else.
    """
    if not isinstance(output, Tensor):
        raise UsageError(f"the model returned {type(output).__name__}, not one tensor: name the part to look at")
    return output


def tokens(output: Any) -> Tensor:
    """The tokens of an encoder's features."""
    assert isinstance(output, Features)
    return output.tokens


@dataclass(frozen=True)
class Symmetry:
    """One declaration: when the group acts on the inputs, the outputs change in kind, to this grade.

    Convention:
        grade: `exact`: to rounding, wherever the moved data came from inside; `interior`: the same, at least `margin`
            cells of the output from the border; `approximate`: with a relative error up to `tolerance`, there;
            `none`: not at all, and by more than rounding, even a quarter of the side away from every border.
        inputs, outputs: how an element acts on them; `Same()` for an invariant.
        part: the tensor in what the model returns.

    Raises:
        UsageError: if margin or tolerance do not belong to the grade.
    """

    group: Group
    grade: Grade
    inputs: Kind = Image()
    outputs: Kind = Image()
    margin: int = 0
    tolerance: float = 0.0
    part: Callable[[Any], Tensor] = whole

    def __post_init__(self) -> None:
        if (self.grade == "approximate") != (self.tolerance > 0):
            raise UsageError(f"a tolerance belongs to `approximate`; {self.grade} came with {self.tolerance}")
        if self.margin and self.grade in ("exact", "none"):
            raise UsageError(f"a margin belongs to `interior` and `approximate`; {self.grade} came with {self.margin}")

    def __str__(self) -> str:
        margin = f", {self.margin} cells inside" if self.margin else ""
        within = f" within {self.tolerance:g}" if self.tolerance else ""
        return f"{self.group.name}: {self.grade}{within}{margin}"


def nothing_kept(cell: int) -> tuple[Symmetry, ...]:
    """What an encoder declares whose tokens know their place: neither shifts by cells nor quarter turns are kept.

    Args:
        cell: pixels of a token's side.
    """
    groups = shifts(cell), turns("C4")
    return tuple(Symmetry(group, "none", outputs=Tokens(cell), part=tokens) for group in groups)


@runtime_checkable
class Declares(Protocol):
    """A model that declares its symmetries."""

    def symmetries(self) -> tuple[Symmetry, ...]:
        """What it says of itself."""
        ...


@torch.no_grad()
def equivariance(
    model: Callable[[Tensor], Any], inputs: Tensor, symmetry: Symmetry, magnitude: float, output: Any = None
) -> float:
    """The relative error |f(g x) - g f(x)| / |g f(x)| over the group's elements of this magnitude together.

    What is the same everywhere counts as no part of g f(x). 0: equivariant; 1.41: unrelated. `output` is f(x), where it
    is known already.

    Raises:
        ValueError: if f(g x) and g f(x) have different shapes, or if nothing is left to compare.
        UsageError: if the group does not act on the data.
    """
    still = symmetry.part(model(inputs) if output is None else output)
    difference = size = torch.zeros((), dtype=still.dtype)
    for element in symmetry.group.at(magnitude, inputs):
        found = symmetry.part(model(symmetry.inputs.act(element, inputs)))
        one, all_ = _compare(symmetry.outputs, element, found, still, symmetry.margin)
        difference, size = difference + one, size + all_
    if not 0 < float(size) < float("inf"):
        raise ValueError(
            f"nothing to compare under {symmetry.group.name} of {magnitude:g}: the outputs are constant, "
            "not finite, or all within the margin; use larger inputs"
        )
    return float((difference / size).sqrt())


def _compare(kind: Kind, element: Element, found: Tensor, still: Tensor, margin: int) -> tuple[Tensor, Tensor]:
    """Squared difference of what was found and what was expected, and the squared size of that."""
    expected = kind.act(element, still)
    if found.shape != expected.shape:
        raise ValueError(f"f(g x) has shape {list(found.shape)}, but g f(x) has {list(expected.shape)}")
    mask = kind.mask(element, still, margin)
    difference = kind.comparable(found) - kind.comparable(expected)
    return (difference * mask).square().sum(), (kind.centred(kind.comparable(expected)) * mask).square().sum()


def check(model: Callable[[Tensor], Any], inputs: Tensor, symmetry: Symmetry) -> float:
    """The error that decides: the largest over the magnitudes; of one that is declared `none`, too.

    Raises:
        AssertionError: if the model does not keep its word, with what it said and what was measured.
        ValueError: for inputs that are not float64.
    """
    if inputs.dtype != torch.float64:
        raise ValueError(
            f"a declaration is checked in float64, got {inputs.dtype}: use model.double(), inputs.double()"
        )
    with torch.no_grad():
        output = model(inputs)
    error = max(equivariance(model, inputs, symmetry, size, output) for size in symmetry.group.magnitudes)
    if symmetry.grade == "none":
        _check_broken(model, inputs, symmetry, error, output)
        return error
    limit = symmetry.tolerance if symmetry.grade == "approximate" else ROUNDING
    if not error <= limit:
        raise AssertionError(f"declared {symmetry}, but the error is {error:.3g}, over {limit:.3g}")
    return error


def _check_broken(
    model: Callable[[Tensor], Any], inputs: Tensor, symmetry: Symmetry, error: float, output: Any
) -> None:
    """Raise AssertionError unless the symmetry is broken everywhere, not at the border only."""
    if error < BROKEN:
        raise AssertionError(f"declared {symmetry}, but the error is only {error:.3g}, below {BROKEN:g}: claim more")
    margin = symmetry.outputs.side(symmetry.part(output)) // 4
    if margin == 0:
        return
    inner = replace(symmetry, grade="interior", margin=margin)
    inside = equivariance(model, inputs, inner, symmetry.group.magnitudes[0], output)
    if inside < INSIDE:
        raise AssertionError(
            f"declared {symmetry}, but {margin} cells inside the error is {inside:.3g}: claim interior"
        )


def declared(model: nn.Module) -> tuple[Symmetry, ...]:
    """What a model declares.

    Raises:
        UsageError: if it declares nothing.
    """
    if not isinstance(model, Declares):
        raise UsageError(f"{type(model).__name__} declares no symmetries: give it a method symmetries()")
    return model.symmetries()
