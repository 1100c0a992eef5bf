"""What was made of the frames that came last, so that a frame that stays in a stack is not encoded again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Fingerprint = tuple[object, ...]


class FrameMemory:
    """Features of frames by their content, as long as the weights stay the same.

    PyTorch counts the changes of a weight, but not those of its fused optimisers: whoever trains the network calls
    `forget` (`_Eye` does, whenever training begins).

    Consecutive stacks of k frames share k - 1: of each only the new one is encoded, and of an episode's first stack,
    in which one frame repeats, that one. Frames that are gone from the last call are forgotten.

    Args:
        encode: frames [N, 3, H, W] -> features [N, D].
        network: whose weights and buffers the features depend on.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], network: nn.Module) -> None:
        self.encoded = 0
        """Frames that were encoded so far."""
        self._encode = encode
        self._network = network
        self._weights: Fingerprint = ()
        self._known: dict[bytes, Tensor] = {}

    def forget(self) -> None:
        """Encode everything anew from here on."""
        self._known = {}

    def __call__(self, frames: Tensor) -> Tensor:
        """Features [N, D] of frames [N, 3, H, W]."""
        now = fingerprint(self._network)
        if now != self._weights:
            self._weights, self._known = now, {}
        contents = [frame.numpy().tobytes() for frame in frames.cpu()]
        new = {content: number for number, content in enumerate(contents) if content not in self._known}
        if new:
            self.encoded += len(new)
            made = self._encode(frames[list(new.values())])
            self._known.update(zip(new, made, strict=True))
        self._known = {content: self._known[content] for content in contents}
        return torch.stack([self._known[content] for content in contents])


def fingerprint(network: nn.Module) -> Fingerprint:
    """Changes whenever a weight or a buffer is changed in place, replaced or moved."""
    values = [*network.parameters(), *network.buffers()]
    return tuple((value.data_ptr(), value._version) for value in values)
