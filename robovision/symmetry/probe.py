"""How far any module answers in kind, layer by layer: the error against the size of the transformation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robovision.encoders.base import Features
from robovision.errors import UsageError, first_line
from robovision.symmetry.data import Boxes, Image, Kind, Points, Same, Tokens
from robovision.symmetry.elements import Element, Permutation
from robovision.symmetry.groups import (
    CLOUD_SCALE,
    FLIP,
    GROUND,
    MIRROR,
    PERMUTATION,
    SCALE,
    SO2,
    SO3,
    YAW,
    Group,
    shifts,
)
from robovision.symmetry.tokens import middle

MOST = 24
"""Layers that are looked at, evenly spaced where there are more."""
PREFIX = 5
"""Tokens at most before those of the grid: a class token and registers."""
OUTPUT = "output"
WORDS = {
    "_Prefixed": "tokens",
    "Image": "map",
    "_LastChannels": "map",
    "Same": "invariant",
    "_PointFeatures": "features of points",
    "_Found": "boxes",
}

IMAGE_GROUPS = (
    shifts().of(0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0),
    SO2,
    SCALE.of(1.05, 1.1, 1.2, 1.4),
    FLIP,
)
CLOUD_GROUPS = (GROUND, YAW, SO3, CLOUD_SCALE, MIRROR, PERMUTATION)


@dataclass(frozen=True)
class Layer:
    """One place in a model: its name, the shape found there, and the kind of data that it was taken for."""

    name: str
    shape: tuple[int, ...]
    kind: Kind

    @property
    def taken_for(self) -> str:
        """The kind in words."""
        return WORDS.get(type(self.kind).__name__, type(self.kind).__name__.lower())

    @property
    def returned(self) -> bool:
        """Whether this is what the model returns."""
        return self.name.split()[0] in (OUTPUT, "tokens", "pooled")


@dataclass(frozen=True)
class Probe:
    """What was measured: for each layer, group and magnitude the relative error, NaN where nothing could be compared.

    0: equivariant; 1.41: unrelated.
    """

    layers: tuple[Layer, ...]
    groups: tuple[Group, ...]
    errors: Mapping[tuple[str, str, float], float]


@dataclass(frozen=True)
class Views:
    """What the model sees: still, and after an element.

    Convention:
        still: the input.
        moved: the input after an element.
        kind: what the input is.
    """

    still: Tensor
    moved: Callable[[Element], Tensor]
    kind: Kind


def image_views(canvas: Tensor, size: int) -> Views:
    """The middle of a picture [1, C, S, S] that is larger than what the model sees, so that real content moves in."""

    def moved(element: Element) -> Tensor:
        return middle(element.maps(canvas)[0], size).clamp(canvas.min(), canvas.max())

    return Views(middle(canvas, size), moved, Image())


def cloud_views(points: Tensor) -> Views:
    """Points [..., N, 3 + C] in metres; further channels, such as intensity, stay as they are."""

    def moved(element: Element) -> Tensor:
        if points.shape[-1] == 3:
            return element.points(points)
        if isinstance(element, Permutation):
            return element.items(points)
        return torch.cat([element.points(points[..., :3]), points[..., 3:]], dim=-1)

    return Views(points, moved, Points())


@torch.no_grad()
def probe(
    model: nn.Module, views: Views, groups: tuple[Group, ...], progress: Callable[[], object] = lambda: None
) -> Probe:
    """Measure a model; it is set to evaluation.

    Raises:
        UsageError: if the model raises, returns another shape when its input moves, naming both, or other numbers for
            the same input.
    """
    model.eval()
    still = record(model, views.still)
    _check_steady(model, views, still)
    layers = tuple(_layers(still, views))
    errors: dict[tuple[str, str, float], float] = {}
    for group in groups:
        for magnitude in group.magnitudes:
            elements = group.at(magnitude, views.still)
            seen = [record(model, views.moved(element)) for element in elements]
            for layer in layers:
                errors[layer.name, group.name, magnitude] = _error(layer, still, seen, elements)
            progress()
    return Probe(layers, groups, errors)


def record(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """What each layer makes of the inputs, by name, in the order of the calls; the last is the output.

    Raises:
        UsageError: if the model raises, or returns nothing that could be compared, such as NaN.
    """
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                seen[name] = numbers(output)

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in _places(model)]
    try:
        output = model(inputs)
    except Exception as error:
        raise UsageError(
            f"{type(model).__name__} raised {type(error).__name__} on an input of {list(inputs.shape)}: "
            f"{first_line(error)}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    outputs = {name: numbers(value) for name, value in _outputs(model, output).items()}
    for name, value in outputs.items():
        if not value.numel() or not value.isfinite().all():
            what = "NaN or infinite numbers" if value.numel() else "nothing"
            raise UsageError(f"{type(model).__name__} returned {what}: {name} of {list(value.shape)}")
    return seen | outputs


def numbers(value: Tensor) -> Tensor:
    """A tensor as numbers that can be interpolated: masks, labels and half precision become float32, one number [1]."""
    if value.dtype not in (torch.float32, torch.float64):
        value = value.float()
    return value if value.ndim else value[None]


def _check_steady(model: nn.Module, views: Views, still: Mapping[str, Tensor]) -> None:
    """Raise UsageError for a model that returns other numbers for the same input."""
    again = record(model, views.still)
    for name, value in still.items():
        other = again.get(name)
        if other is not None and other.shape == value.shape and not torch.allclose(other, value, equal_nan=True):
            raise UsageError(
                f"{type(model).__name__} gives other numbers for the same input at {name}, so that nothing can be "
                "compared: leave its noise out, or seed it in each call"
            )


def _outputs(model: nn.Module, output: Any) -> dict[str, Tensor]:
    if isinstance(output, Tensor):
        return {OUTPUT: output}
    if isinstance(output, Features):
        return {"tokens": output.tokens, "pooled": output.pooled}
    parts = (
        output.items() if isinstance(output, dict) else enumerate(output) if isinstance(output, tuple | list) else ()
    )
    found = {f"{OUTPUT} {name}": part for name, part in parts if isinstance(part, Tensor)}
    if not found:
        raise UsageError(
            f"{type(model).__name__} returned {type(output).__name__}; it must return a tensor, or a tuple, list or "
            "dict of tensors"
        )
    return found


def _places(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers that are looked at: children, and those of sequences and lists instead of these."""
    found = list(_children("", model))
    chosen = torch.linspace(0, len(found) - 1, min(MOST, len(found))).round().long().tolist() if found else []
    return [found[k] for k in chosen]


def _children(prefix: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from _children(f"{prefix}{name}.", child)
        elif not isinstance(child, nn.Identity):
            yield f"{prefix}{name}", child


def _layers(still: Mapping[str, Tensor], views: Views) -> Iterator[Layer]:
    for name, value in still.items():
        kind = _image_kind(value, views.still) if isinstance(views.kind, Image) else _cloud_kind(value, views.still)
        if kind is not None:
            yield Layer(name, tuple(value.shape), kind)


def _image_kind(value: Tensor, image: Tensor) -> Kind | None:
    """Maps of the image's shape, channels first or last, tokens on a grid of it, or one vector an image."""
    height, width = image.shape[-2:]
    if value.ndim == 4 and min(value.shape[2:]) > 1:
        last = value.shape[1] == value.shape[2] != value.shape[3] and height == width
        cell = height / value.shape[2]
        cell = float(round(cell)) if cell >= 1 else 1 / round(1 / cell)
        return _LastChannels(cell) if last else Image(cell)
    if value.ndim == 3:
        for prefix in range(PREFIX + 1):
            side = round((value.shape[1] - prefix) ** 0.5)
            if side > 1 and side * side == value.shape[1] - prefix and height == width:
                return _Prefixed(height / side, prefix)
    return Same() if len(value) == len(image) else None


def _cloud_kind(value: Tensor, points: Tensor) -> Kind | None:
    if value.ndim >= 2 and value.shape[-2] == points.shape[-2]:
        return Points() if value.shape[-1] == 3 else _PointFeatures()
    if value.ndim == 2 and value.shape[-1] == 7:
        return _Found()
    return Same() if value.ndim >= 1 else None


@dataclass(frozen=True)
class _LastChannels(Kind):
    """Maps [B, H, W, D] of cells of so many pixels."""

    cell: float

    def act(self, element: Element, data: Tensor) -> Tensor:
        return Image(self.cell).act(element, data.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def mask(self, element: Element, data: Tensor, margin: int = 0) -> Tensor:
        return Image(self.cell).mask(element, data.permute(0, 3, 1, 2), margin).reshape(1, *data.shape[1:3], 1)

    def centred(self, data: Tensor) -> Tensor:
        return data - data.mean((1, 2), keepdim=True)


@dataclass(frozen=True)
class _Prefixed(Kind):
    """Tokens of a square grid after so many that have no place."""

    cell: float
    prefix: int

    def act(self, element: Element, data: Tensor) -> Tensor:
        return torch.cat([data[:, : self.prefix], Tokens(self.cell).act(element, data[:, self.prefix :])], dim=1)

    def mask(self, element: Element, data: Tensor, margin: int = 0) -> Tensor:
        mask = Tokens(self.cell).mask(element, data[:, self.prefix :], margin)
        return torch.cat([mask.new_zeros(1, self.prefix, 1), mask], dim=1)

    def centred(self, data: Tensor) -> Tensor:
        return data - data[:, self.prefix :].mean(1, keepdim=True)


@dataclass(frozen=True)
class _PointFeatures(Kind):
    """Features of each point [..., N, D], which stay with it and do not turn."""

    def act(self, element: Element, data: Tensor) -> Tensor:
        return element.items(data) if isinstance(element, Permutation) else data

    def centred(self, data: Tensor) -> Tensor:
        return data - data.mean(-2, keepdim=True)


class _Found(Boxes):
    """Boxes that a detector found: the points' order does not matter to them."""

    def act(self, element: Element, data: Tensor) -> Tensor:
        return data if isinstance(element, Permutation) else super().act(element, data)


def _error(
    layer: Layer, still: Mapping[str, Tensor], seen: list[dict[str, Tensor]], elements: tuple[Element, ...]
) -> float:
    difference = size = 0.0
    for found, element in zip(seen, elements, strict=True):
        before = found[layer.name]
        try:
            expected = layer.kind.act(element, still[layer.name])
        except UsageError:  # such as boxes of one yaw under a tilt
            return float("nan")
        if before.shape != expected.shape:
            raise UsageError(
                f"{layer.name} gives {list(before.shape)} of the input after {element}, but {list(expected.shape)} is "
                "what its output before becomes: a model must keep its shapes when its input moves"
            )
        mask = layer.kind.mask(element, still[layer.name])
        change = layer.kind.comparable(before) - layer.kind.comparable(expected)
        difference += float((change * mask).square().sum())
        size += float((layer.kind.centred(layer.kind.comparable(expected)) * mask).square().sum())
    return (difference / size) ** 0.5 if size > 0 else float("nan")
