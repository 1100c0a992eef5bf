"""What pretraining draws its images from: an array in memory or a folder of image files, and how a step sees them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from robovision.errors import UsageError, first_line
from robovision.seeding import derive

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
LEAST_CROP = 0.5
"""Side of the smallest crop, as a share of the image's."""
DECODERS = 4


class Pictures(Protocol):
    """Square images of one size, by number."""

    def __len__(self) -> int: ...

    def take(self, numbers: Sequence[int]) -> Tensor:
        """These images, uint8 [B, 3, S, S]."""
        ...


class Frames:
    """Images that lie in memory, uint8 [N, 3, S, S]."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._pixels = torch.from_numpy(pixels)

    def __len__(self) -> int:
        return len(self._pixels)

    def take(self, numbers: Sequence[int]) -> Tensor:
        return self._pixels[torch.tensor(numbers)]


class Folder:
    """The image files under a folder, read when they are wanted: the middle square, scaled to one size.

    Raises:
        UsageError: if there are none, or when one can't be read, naming it.
    """

    def __init__(self, folder: Path, size: int) -> None:
        if not folder.is_dir():
            raise UsageError(f"there is no folder of images {folder}")
        self._paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
        if not self._paths:
            raise UsageError(f"{folder} holds no images: looked for files that end in {', '.join(ENDINGS)}")
        self._size = size
        self._pool = ThreadPoolExecutor(DECODERS)

    def __len__(self) -> int:
        return len(self._paths)

    def take(self, numbers: Sequence[int]) -> Tensor:
        return torch.from_numpy(np.stack(list(self._pool.map(self._read, (self._paths[k] for k in numbers)))))

    def _read(self, path: Path) -> NDArray[np.uint8]:
        from PIL import Image, ImageOps

        try:
            with Image.open(path) as image:
                square = ImageOps.fit(image.convert("RGB"), (self._size, self._size), Image.Resampling.BICUBIC)
        except (OSError, ValueError, SyntaxError) as error:
            raise UsageError(f"{path} can't be read as an image: {first_line(error)}; remove it") from error
        return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


class Draw:
    """Which images each step sees: all in a random order, then all in another, by the seed and the step alone."""

    def __init__(self, count: int, batch: int, seed: int) -> None:
        self._count = count
        self._batch = batch
        self._seed = seed
        self._epoch = -1
        self._order: list[int] = []

    def __call__(self, step: int) -> list[int]:
        """The numbers of the images of a step."""
        return [self._at(place) for place in range(step * self._batch, (step + 1) * self._batch)]

    def _at(self, place: int) -> int:
        epoch, within = divmod(place, self._count)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(derive(self._seed, "epoch", epoch))
            self._epoch, self._order = epoch, torch.randperm(self._count, generator=generator).tolist()
        return self._order[within]


def augment(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Images [B, 3, S, S] uint8 as random crops of one random size, half of them mirrored, uint8 [B, 3, size, size]."""
    side = images.shape[-1]
    least = max(1, round(LEAST_CROP * side))
    crop = int(torch.randint(least, side + 1, (), generator=generator))
    corners = torch.randint(side - crop + 1, (len(images), 2), generator=generator).tolist()
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    cut = torch.stack([image[:, y : y + crop, x : x + crop] for image, (y, x) in zip(images, corners, strict=True)])
    cut[mirrored] = cut[mirrored].flip(-1)
    return functional.interpolate(cut, (size, size), mode="bilinear", antialias=True)
