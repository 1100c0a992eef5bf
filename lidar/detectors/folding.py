"""Networks made ready to detect: normalisations become part of the layers before them."""

from __future__ import annotations

import copy
import itertools
from typing import TypeVar

import torch
from torch import nn

from robovision.lidar.sparse import SparseConvolution

Module = TypeVar("Module", bound=nn.Module)

OUTPUTS: tuple[tuple[type[nn.Module], int], ...] = (
    (nn.Linear, 0), (nn.Conv1d, 0), (nn.Conv2d, 0), (nn.ConvTranspose2d, 1), (SparseConvolution, 2),
)  # fmt: skip
"""Of each layer, the axis of its weights that its outputs lie along."""


def fold(network: Module) -> Module:
    """A copy of a network in evaluation mode that gives the same, up to rounding, in less time; it can't be trained.

    A normalisation's scale and shift go into the weights and the bias of the layer before it, zeros around a map are
    those of the convolution that reads it, and rectifiers act in place.

    Raises:
        ValueError: if the network is in training mode, in which normalisations depend on the batch.
    """
    if network.training:
        raise ValueError("only a network in evaluation mode can be folded; call eval() first")
    folded = copy.deepcopy(network).requires_grad_(False)
    for module in list(folded.modules()):
        for neighbours in itertools.pairwise(list(module.named_children())):
            _join(module, *neighbours)
    return folded


def _join(parent: nn.Module, before: tuple[str, nn.Module], after: tuple[str, nn.Module]) -> None:
    """Fold one of two layers, by their names in `parent`, into the other where that is possible."""
    (name, first), (next_name, second) = before, after
    if isinstance(second, nn.BatchNorm1d | nn.BatchNorm2d):
        _absorb(first, second)
        setattr(parent, next_name, nn.Identity())
    elif isinstance(first, nn.ZeroPad2d) and isinstance(second, nn.Conv2d):
        second.padding = (first.padding[2], first.padding[0])
        setattr(parent, name, nn.Identity())
    elif isinstance(second, nn.ReLU):
        second.inplace = True


def _absorb(layer: nn.Module, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    """Give a layer the weights and the bias with which it does what a normalisation behind it does too."""
    axis = next(axis for kind, axis in OUTPUTS if isinstance(layer, kind))
    mean, variance = norm.running_mean, norm.running_var
    assert isinstance(layer.weight, torch.Tensor) and mean is not None and variance is not None
    scale = norm.weight * (variance + norm.eps).rsqrt()
    shape = [1] * layer.weight.ndim
    shape[axis] = -1
    bias = layer.bias if isinstance(layer.bias, torch.Tensor) else torch.zeros_like(mean)
    layer.weight = nn.Parameter(layer.weight * scale.view(shape), requires_grad=False)
    layer.bias = nn.Parameter((bias - mean) * scale + norm.bias, requires_grad=False)
