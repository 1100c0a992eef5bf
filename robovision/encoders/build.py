"""Encoders by name."""

from __future__ import annotations

from robovision.encoders.coin import CoIn
from robovision.encoders.names import ENCODERS
from robovision.encoders.vit import SIZES, ViT
from robovision.errors import unknown

OPEN_GATE = 1.0


def build(name: str, image_size: int, coin: bool, pretrained: bool) -> ViT:
    """The encoder of this name, with random weights.

    Args:
        name: one of `ENCODERS`.
        image_size: side in pixels of the images that it is for.
        coin: with the convolution injector.
        pretrained: whether its weights will be replaced by pretrained ones. If so, CoIn starts with its gate
            shut, as in the paper; if not, open, because there is nothing that it could disturb.

    Raises:
        UsageError: for an unknown name, with the nearest ones.
    """
    if name not in ENCODERS:
        raise unknown("encoder", name, ENCODERS)
    size = SIZES[name.removeprefix("vit-")]
    injector = CoIn(size.width, gamma=0.0 if pretrained else OPEN_GATE) if coin else None
    return ViT(size, image_size=image_size, injector=injector)
