"""A small convolutional network that starts from random weights: what a policy learns from pixels without a ViT."""

from __future__ import annotations

from torch import Tensor, nn

from robovision.encoders.base import HALF, Encoder, Features, Normalisation
from robovision.symmetry import claims
from robovision.symmetry.claims import Symmetry
from robovision.symmetry.data import Tokens
from robovision.symmetry.groups import shifts, turns

STRIDE = 16
CHANNELS = (32, 64, 128, 256)


class CNN(Encoder):
    """Four 3x3 convolutions of stride 2, each with batch norm and ReLU; tokens are the cells at 1/16 of the image.

    The pooled vector is the mean over the cells.
    """

    def __init__(self, normalisation: Normalisation = HALF) -> None:
        super().__init__(CHANNELS[-1], normalisation)
        layers: list[nn.Module] = []
        for inputs, outputs in zip((3, *CHANNELS), CHANNELS, strict=False):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        if height < STRIDE or width < STRIDE:
            raise ValueError(f"image sides must be at least {STRIDE} px, got {height} x {width}")
        return -(-height // STRIDE), -(-width // STRIDE)

    def symmetries(self) -> tuple[Symmetry, ...]:
        """Shifts by whole strides move the cells that don't see the border, which are all but the outermost."""
        cells = Tokens(STRIDE)
        return (
            Symmetry(shifts(STRIDE), "interior", outputs=cells, margin=1, part=claims.tokens),
            Symmetry(turns("C4"), "none", outputs=cells, part=claims.tokens),
        )

    def encode(self, images: Tensor) -> Features:
        tokens = self.layers(images).flatten(2).transpose(1, 2)
        return Features(tokens, tokens.mean(1))
