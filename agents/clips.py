"""Demonstrations as batches of clips: consecutive frames that share the encoder's work.

Which clips a step sees depends on the seed and the step alone, so a resumed training sees the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from robovision.envs.demo_arrays import Demonstrations
from robovision.errors import UsageError
from robovision.seeding import derive


@dataclass(frozen=True)
class Batch:
    """C clips of L predicted frames, F = L + history - 1 frames in all.

    Convention:
        frames: [C, F, ...], images in uint8 [3, H, W], or what `Clips.frames` was replaced by.
        valid: bool [C, L], which of the predicted frames lie inside their episode; of these there are M.
        proprioception: float32 [M, P], row by row.
        actions: float32 [M, K, A], of the predicted frame and those after it.
        planned: bool [M, K], which of these actions the demonstration holds; the others repeat its last.
    """

    frames: Tensor
    valid: Tensor
    proprioception: Tensor
    actions: Tensor
    planned: Tensor

    def share(self, rank: int, processes: int) -> Batch:
        """The part of the clips that one of several processes works on."""
        first, last = (len(self.valid) * k // processes for k in (rank, rank + 1))
        rows = slice(int(self.valid[:first].sum()), int(self.valid[:last].sum()))
        clips = slice(first, last)
        return Batch(
            self.frames[clips], self.valid[clips], self.proprioception[rows], self.actions[rows], self.planned[rows]
        )

    def to(self, device: str) -> Batch:
        """The batch on a device."""
        return Batch(*(getattr(self, entry.name).to(device, non_blocking=True) for entry in fields(self)))


@dataclass(frozen=True)
class Drawing:
    """How batches are drawn and disturbed.

    Convention:
        history: images that the policy sees at once. chunk: actions that it predicts at once.
        clip: consecutive predicted frames of a clip.
        shift: whole pixels by which a clip is moved at most. colour: see `jitter`.
    """

    history: int = 1
    chunk: int = 1
    clip: int = 1
    shift: int = 0
    colour: float = 0.0
    seed: int = 0


class Clips:
    """All frames of the demonstrations, and random clips of them, every frame equally often.

    `actions` are those of all frames, float32 [N, A]. The demonstrations' memory is shared, not copied. `frames` are
    the images, uint8 [N, 3, H, W]; without random shifts they may be replaced by their features, [N, ...].

    Raises:
        UsageError: if a demonstration holds NaN or infinite numbers, naming it.
    """

    def __init__(self, demonstrations: Demonstrations, drawing: Drawing) -> None:
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
        self._drawing = drawing

    def __len__(self) -> int:
        return len(self.actions)

    def where(self, step: int, clips: int) -> str:
        """Where the clips of this training step come from, in words."""
        episode, start, _ = self._draw(step, clips)
        ends = start + self._drawing.clip - 1
        frames = zip(episode.flatten().tolist(), start.flatten().tolist(), ends.flatten().tolist(), strict=True)
        return ", ".join(f"demonstration {k} frames {max(0, first)}..{last}" for k, first, last in frames)

    def batch(self, step: int, clips: int) -> Batch:
        """The clips of this training step."""
        how = self._drawing
        episode, start, generator = self._draw(step, clips)
        time = start + torch.arange(-(how.history - 1), how.clip)
        first, last = self._first[episode], self._first[episode] + self._lengths[episode] - 1
        frame = (first + time).clamp(first, last)
        inside = (time >= 0) & (time < self._lengths[episode])
        valid = inside[:, how.history - 1 :]
        predicted = frame[:, how.history - 1 :][valid]
        frames = jitter(random_shift(self.frames[frame], how.shift, generator), how.colour, generator)
        ahead = predicted[:, None] + torch.arange(how.chunk)
        end = last.expand_as(valid)[valid][:, None]
        actions = self.actions[ahead.clamp(max=end)]
        return Batch(frames, valid, self._proprioception[predicted], actions, ahead <= end)

    def _draw(self, step: int, clips: int) -> tuple[Tensor, Tensor, torch.Generator]:
        """Episode and first predicted frame of each clip, both [C, 1], which may lie before its begin; the dice."""
        generator = torch.Generator().manual_seed(derive(self._drawing.seed, "batch", step))
        starts = self._lengths + self._drawing.clip - 1
        drawn = torch.randint(int(starts.sum()), (clips, 1), generator=generator)
        episode = torch.searchsorted(starts.cumsum(0), drawn, right=True)
        return episode, drawn - (starts.cumsum(0) - starts)[episode] - (self._drawing.clip - 1), generator


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


def jitter(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Each clip of uint8 images [C, F, 3, H, W] with other brightness, contrast and saturation.

    Each is multiplied by a factor drawn evenly from 1 - strength..1 + strength, the same for the whole clip.
    """
    if strength == 0:
        return images
    brightness, contrast, saturation = 1 + strength * (
        2 * torch.rand(3, len(images), 1, 1, 1, 1, generator=generator) - 1
    )
    x = images * brightness
    grey = x.mean((1, 2, 3, 4), keepdim=True)
    x = grey + contrast * (x - grey)
    grey = x.mean(2, keepdim=True)
    coloured: Tensor = grey + saturation * (x - grey)
    return coloured.clamp(0, 255).round().to(torch.uint8)
