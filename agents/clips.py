"""Demonstrations as batches of clips: consecutive frames that share the encoder's work.

Which clips a step sees depends on the seed and the step alone, so a resumed training sees the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from robovision.envs.demos import Demonstrations
from robovision.errors import UsageError
from robovision.seeding import derive


@dataclass(frozen=True)
class Batch:
    """C clips of L predicted frames, F = L + history - 1 frames in all.

    Convention:
        frames: [C, F, ...], images in uint8 [3, H, W], or what `Clips.frames` was replaced by.
        valid: bool [C, L], which of the predicted frames lie inside their episode; of these there are M.
        proprioception: float32 [M, P] and actions: float32 [M, A], row by row.
    """

    frames: Tensor
    valid: Tensor
    proprioception: Tensor
    actions: Tensor


class Clips:
    """All frames of the demonstrations, and random clips of them, every frame equally often.

    `actions` are those of all frames, float32 [N, A]. The demonstrations' memory is shared, not copied. `frames` are
    the images, uint8 [N, 3, H, W]; without random shifts they may be replaced by their features, [N, ...].

    Raises:
        UsageError: if a demonstration holds NaN or infinite numbers, naming it.
    """

    def __init__(self, demonstrations: Demonstrations, history: int, clip: int, shift: int, seed: int) -> None:
        self.frames = torch.from_numpy(demonstrations.pixels)
        self._proprioception = torch.from_numpy(demonstrations.proprioception)
        self.actions = torch.from_numpy(demonstrations.actions)
        lengths = torch.from_numpy(demonstrations.lengths)
        for name, values in (("proprioception", self._proprioception), ("actions", self.actions)):
            bad = (~values.isfinite().all(1)).nonzero()
            if len(bad):
                number = int(torch.searchsorted(lengths.cumsum(0), bad[0], right=True))
                raise UsageError(f"demonstration {number} has {name} that are NaN or infinite")
        self._first = lengths.cumsum(0) - lengths
        self._lengths = lengths
        self._history = history
        self._clip = clip
        self._shift = shift
        self._seed = seed

    def __len__(self) -> int:
        return len(self.actions)

    def batch(self, step: int, clips: int) -> Batch:
        """The clips of this training step."""
        generator = torch.Generator().manual_seed(derive(self._seed, "batch", step))
        starts = self._lengths + self._clip - 1
        drawn = torch.randint(int(starts.sum()), (clips, 1), generator=generator)
        episode = torch.searchsorted(starts.cumsum(0), drawn, right=True)
        start = drawn - (starts.cumsum(0) - starts)[episode] - (self._clip - 1)
        time = start + torch.arange(-(self._history - 1), self._clip)
        first, last = self._first[episode], self._first[episode] + self._lengths[episode] - 1
        frame = (first + time).clamp(first, last)
        inside = (time >= 0) & (time < self._lengths[episode])
        valid = inside[:, self._history - 1 :]
        predicted = frame[:, self._history - 1 :][valid]
        frames = random_shift(self.frames[frame], self._shift, generator)
        return Batch(frames, valid, self._proprioception[predicted], self.actions[predicted])


def random_shift(images: Tensor, reach: int, generator: torch.Generator) -> Tensor:
    """Each clip of [C, F, 3, H, W] moved by whole pixels in -reach..reach; the border repeats (DrQ)."""
    if reach == 0:
        return images
    height, width = images.shape[-2:]
    padded = functional.pad(images.flatten(1, 2), (reach,) * 4, mode="replicate").view(
        *images.shape[:3], height + 2 * reach, width + 2 * reach
    )
    offsets = torch.randint(2 * reach + 1, (len(images), 2), generator=generator).tolist()
    return torch.stack([clip[..., y : y + height, x : x + width] for clip, (y, x) in zip(padded, offsets, strict=True)])


def histories(embedded: Tensor, valid: Tensor) -> Tensor:
    """Embedded frames [C, F, D] as the histories [M, H, D] of the valid predicted frames."""
    windows = embedded.unfold(1, embedded.shape[1] - valid.shape[1] + 1, 1).transpose(2, 3)
    return windows[valid]
