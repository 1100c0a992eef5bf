"""A small convolutional network that is trained on labels: what an encoder's frozen features stand against."""

from __future__ import annotations

import bisect

import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision.encoders.base import IMAGENET
from robovision.optimisers import learning_rate

EPOCHS = 20
BATCH = 32


class ConvNet(nn.Module):
    """Six convolutions, 3 x 3, of which four halve the image, and a linear layer on the last map.

    Args:
        size: side of the images in pixels.
        outputs: numbers to predict.
        width: channels of the first; the others have up to eight times as many.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size: int, outputs: int, width: int) -> None:
        super().__init__()
        channels = [3, *(factor * width for factor in (1, 2, 4, 4, 8, 8))]
        layers: list[nn.Module] = []
        for before, after, stride in zip(channels, channels[1:], (2, 2, 1, 2, 1, 2), strict=False):
            layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(channels[-1] * (size // 16) ** 2, outputs)
        self.register_buffer("mean", torch.tensor(IMAGENET.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET.std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.layers((images.float() / 255 - self.mean) / self.std)
        return self.head(maps.flatten(1))  # type: ignore[no-any-return]


def multiply_adds(model: nn.Module, size: int) -> int:
    """Multiply-adds of one image, counted by PyTorch."""
    from torch.utils.flop_counter import FlopCounterMode

    device = next(model.parameters()).device
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, size, size, dtype=torch.uint8, device=device))
    return int(counter.get_total_flops()) // 2


def equal_width(size: int, cost: int) -> int:
    """The greatest width of a `ConvNet` that needs no more than so many multiply-adds an image."""
    widths = range(4, 257, 2)
    with torch.device("meta"):  # counts without computing
        fitting = bisect.bisect_right(widths, cost, key=lambda width: multiply_adds(ConvNet(size, 1, width), size))
    return widths[max(0, fitting - 1)]


def predict(images: Tensor, targets: Tensor, fitted: int, width: int, seed: int, epochs: int = EPOCHS) -> Tensor:
    """What a `ConvNet` that was trained on the first `fitted` samples predicts for the others.

    Args:
        images: uint8 [N, 3, S, S].
        targets: [N, T]; the error is measured in their deviations.
        fitted: how many to train on.
        width: of the network.
        seed: chooses initial weights and order.
        epochs: passes over the samples.
    """
    torch.manual_seed(seed)
    mean, deviation = targets[:fitted].mean(0), targets[:fitted].std(0)
    model = ConvNet(images.shape[-1], targets.shape[1], width)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.01)
    steps = epochs * (fitted // BATCH)
    order = torch.cat([torch.randperm(fitted)[: BATCH * (fitted // BATCH)] for _ in range(epochs)])
    for step, chosen in enumerate(torch.split(order, BATCH)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, 1e-3)
        loss = functional.mse_loss(model(images[chosen]), (targets[chosen] - mean) / deviation)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.eval()
    with torch.no_grad():
        return torch.cat([model(some) for some in torch.split(images[fitted:], 64)]) * deviation + mean
