"""Spatial mixture of experts (Dryden and Hoefler, NeurIPS 2022): each place of a map has experts of its own.

One convolution gives the planes of all experts; a learned gate for each place chooses `chosen` of them. What a place
learns it learns for that place: for fixed cameras and grids that always show the same region.

The gates are learned in one of three ways. `routing="published"`: a gate gets no gradient from the loss, but is taught
to tell places where its expert is right (small error signal) from those where it is not, and experts do not learn from
wrong places. `routing="straight"`: gates follow the loss, whose gradient passes to them as if a softmax over all
experts had weighted their planes (straight-through). `routing="sampled"`: as that, and while training the experts
are drawn with the probabilities of that softmax (Gumbel noise; Jang et al., ICLR 2017), so that none stays out because
it was worse at first. `robovision bench claims smoe` compares them.
"""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision.encoders.base import IMAGENET, Encoder, Features, Normalisation
from robovision.errors import UsageError
from robovision.symmetry.claims import Symmetry, nothing_kept
from robovision.symmetry.groups import shifts

Routing = Literal["published", "straight", "sampled"]
QUANTILE = 0.3
"""Of the error signal of a sample: what lies above it is wrong."""
ROUTING_EPS = 1e-5
DAMPING_EPS = 1e-3
CHANNELS = (32, 64, 128, 192)
STRIDE = 16
EXPERTS, CHOSEN = 4, 2


class SpatialMixture(nn.Module):
    """Maps [B, inputs, rows, columns] to [B, outputs, rows, columns] by `chosen` of `experts` at each place.

    Args:
        inputs, outputs: channels.
        grid: (rows, columns) of the maps, for which the gates are made.
        experts: how many there are.
        chosen: how many of them each place has.
        kernel: side of the convolution, odd.
        routing: how the gates are learned.

    Raises:
        UsageError: unless 1 <= chosen <= experts; in use, for maps of another grid.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        grid: tuple[int, int],
        experts: int = EXPERTS,
        chosen: int = CHOSEN,
        kernel: int = 3,
        routing: Routing = "straight",
    ) -> None:
        super().__init__()
        if not 1 <= chosen <= experts:
            raise UsageError(f"each place must choose 1 to {experts} experts, got {chosen}")
        self.experts, self.chosen, self.routing = experts, chosen, routing
        self.conv = nn.Conv2d(inputs, experts * outputs, kernel, padding=kernel // 2)
        self.gate = nn.Parameter(0.1 * torch.randn(experts, *grid))

    def symmetries(self) -> tuple[Symmetry, ...]:
        """None, on purpose: places differ."""
        return (Symmetry(shifts(), "none"),)

    def forward(self, maps: Tensor) -> Tensor:
        if maps.shape[2:] != self.gate.shape[1:]:
            made, came = list(self.gate.shape[1:]), list(maps.shape[2:])
            raise UsageError(f"the gates are made for maps of {made} places and don't fit {came}: places are learned")
        batch, _, rows, columns = maps.shape
        planes = self.conv(maps).view(batch, self.experts, -1, rows, columns)
        out: Tensor = (planes * self._weights()[:, None]).sum(1)
        if self.training and out.requires_grad and self.routing == "published":
            out.register_hook(self._learn)  # type: ignore[no-untyped-call]
        return out

    def selected(self) -> Tensor:
        """1 for the experts that each place has, else 0: [experts, rows, columns]."""
        return self._best(self.gate.detach())

    def _best(self, gate: Tensor) -> Tensor:
        """1 for the experts of the highest gates at each place, else 0."""
        return torch.zeros_like(gate).scatter_(0, gate.topk(self.chosen, dim=0).indices, 1.0)

    def _weights(self) -> Tensor:
        """How much each expert counts at each place; to straight-through gates passes the gradient of the softmax."""
        gate = self.gate.detach()
        if self.training and self.routing == "sampled":
            gate = gate - torch.empty_like(gate).exponential_().log()  # less the logarithm: Gumbel noise
        selected = self._best(gate) / self.chosen
        if self.routing == "published":
            return selected
        soft = self.gate.softmax(0)
        return selected + soft - soft.detach()

    def _learn(self, signal: Tensor) -> Tensor:
        """The gates' gradient from the error signal dL/dout, and that signal without what is damped."""
        size = signal.abs().mean(1)  # [B, rows, columns]
        limit = size.flatten(1).quantile(QUANTILE, dim=1)[:, None, None]
        wrong = (size > limit + ROUTING_EPS).to(signal)[:, None]
        selected = self.selected()
        unselected = wrong * self.chosen / max(1, self.experts - self.chosen)
        labels = (selected * (1 - wrong) + (1 - selected) * unselected).clamp(max=1)
        with torch.enable_grad():
            gate = self.gate.detach().requires_grad_()
            loss = functional.binary_cross_entropy_with_logits(gate.expand_as(labels), labels)
            (gradient,) = torch.autograd.grad(loss, gate)
        self.gate.grad = gradient if self.gate.grad is None else self.gate.grad + gradient
        return torch.where((size > limit + DAMPING_EPS)[:, None], 0.0, signal)


class SMoE(Encoder):
    """Four strided convolutions with a spatial mixture after each of the last two; made for one size of image.

    Tokens are the cells of the last map, 1/16 of the image; their mean is the pooled vector.

    Args:
        image_size: side of the images in pixels, a multiple of 16; others are refused.
        normalisation: mean and deviation of its images.
    """

    def __init__(self, image_size: int, normalisation: Normalisation = IMAGENET) -> None:
        super().__init__(CHANNELS[-1], normalisation)
        self.image_size = image_size
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(itertools.pairwise((3, *CHANNELS))):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            if number >= len(CHANNELS) - 2:
                side = image_size >> (number + 1)
                layers += [SpatialMixture(after, after, (side, side)), nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        if (height, width) != (self.image_size, self.image_size):
            raise ValueError(
                f"this encoder learns places and was made for images of {self.image_size} x {self.image_size} px, "
                f"got {height} x {width}"
            )
        return height // STRIDE, width // STRIDE

    def symmetries(self) -> tuple[Symmetry, ...]:
        """None, on purpose: places differ."""
        return nothing_kept(STRIDE)

    def encode(self, images: Tensor) -> Features:
        tokens = self.layers(images).flatten(2).transpose(1, 2)
        return Features(tokens, tokens.mean(1))
