"""Checks that ship with the library, for our models and yours.

A symmetry is a group acting on data; a model f respects it when acting before equals acting after:
f(g x) = g f(x). These functions measure by how much that fails.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robovision.encoders.base import Encoder

Action = Callable[["Tensor"], "Tensor"]


def equivariance_error(
    function: Action, inputs: Tensor, act_on_input: Action, act_on_output: Action | None = None
) -> float:
    """The relative error ||f(g x) - g f(x)|| / ||g f(x)||, 0 for an equivariant function.

    Args:
        function: f, from tensor to tensor.
        inputs: x.
        act_on_input: how g acts on x.
        act_on_output: how g acts on f(x); by default like on x. For invariance, pass the identity.

    Raises:
        ValueError: if f(g x) and g f(x) have different shapes, or f(x) is zero or not finite.
    """
    import torch

    with torch.no_grad():
        before = function(act_on_input(inputs))
        after = (act_on_output or act_on_input)(function(inputs))
    if before.shape != after.shape:
        raise ValueError(f"f(g x) has shape {list(before.shape)}, but g f(x) has {list(after.shape)}")
    size = float(after.norm())
    error = float((before - after).norm())
    if not 0 < size < float("inf") or error != error:
        raise ValueError(f"f(x) must be finite and not all zero; its norm is {size}, the error's {error}")
    return error / size


def assert_equivariant(
    function: Action,
    inputs: Tensor,
    act_on_input: Action,
    act_on_output: Action | None = None,
    tolerance: float | None = None,
) -> None:
    """Raise AssertionError unless the relative equivariance error is within the tolerance.

    The tolerance is by default a thousand roundings of the inputs' type: 1.2e-4 in float32, 2.2e-13 in float64.
    """
    import torch

    limit = 1000 * torch.finfo(inputs.dtype).eps if tolerance is None else tolerance
    error = equivariance_error(function, inputs, act_on_input, act_on_output)
    if error > limit:
        raise AssertionError(f"the equivariance error is {error:.3g}, over the tolerance of {limit:.3g}")


def assert_declared(
    model: nn.Module, inputs: Tensor, call: Callable[[Tensor], object] | None = None
) -> dict[str, float]:
    """The errors that a model makes under the groups of its `symmetries()`, in float64; it must keep its word.

    The model is set to evaluation and to float64; see `robovision.symmetry.claims.Symmetry` for what the grades mean.
    Where it says the same of several parts of its output, the largest error is returned.

    Args:
        model: declares its symmetries.
        inputs: what it is tried on.
        call: how the model is called, if it takes more than one tensor.

    Raises:
        AssertionError: for a claim that it does not keep, or a claim of `none` that is not really broken.
        UsageError: if it declares nothing.
    """
    from robovision.symmetry.claims import check, declared

    model = model.eval().double()
    errors: dict[str, float] = {}
    for claim in declared(model):
        error = check(model if call is None else call, inputs.double(), claim)
        errors[str(claim)] = max(error, errors.get(str(claim), 0.0))
    return errors


def check_encoder(encoder: Encoder, height: int, width: int) -> None:
    """Raise AssertionError unless an encoder keeps the contract for images of this size in pixels.

    The tokens must fill the grid it declares, widths and types must be right, both forms of image (uint8, and
    floating point in 0..1) must give the same, an image's features must not depend on the rest of the batch, and
    wrong images must be refused.
    """
    import torch

    encoder.eval()
    images = torch.randint(256, (2, 3, height, width), dtype=torch.uint8)
    rows, columns = encoder.grid(height, width)
    with torch.no_grad():
        features = encoder(images)
        scaled = encoder(images.to(encoder.mean.dtype) / 255)
        alone = encoder(images[:1])
    expected = (2, rows * columns, encoder.width), (2, encoder.pooled_width)
    found = tuple(features.tokens.shape), tuple(features.pooled.shape)
    if found != expected:
        raise AssertionError(f"tokens and pooled have shapes {found}, but the encoder declares {expected}")
    _check_close("floating-point images", scaled.pooled, features.pooled)
    _check_close("an image alone", alone.pooled, features.pooled[:1])
    for wrong in (images[0], images[:0], images.permute(0, 2, 3, 1), images.float()):
        try:
            encoder(wrong)
        except ValueError:
            continue
        raise AssertionError(f"the encoder took images of shape {list(wrong.shape)} and type {wrong.dtype}")


def _check_close(what: str, found: Tensor, expected: Tensor) -> None:
    if not found.allclose(expected, rtol=1e-3, atol=1e-4):
        raise AssertionError(f"{what}: the features differ by {float((found - expected).abs().max()):.3g}")
