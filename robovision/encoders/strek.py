"""S-TREK keypoints as an encoder: where an image's strongest points are, how good, how turned, and what they show."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from robovision.encoders.base import Encoder, Features, Normalisation, whole_cells
from robovision.errors import UsageError
from robovision.keypoints.description import SIDE, SPACING, WIDTH, Descriptor, patches, soften
from robovision.keypoints.detector import Detection, Detector
from robovision.keypoints.pixels import LUMA
from robovision.keypoints.strek_config import DetectorOptions
from robovision.symmetry import claims
from robovision.symmetry.claims import Symmetry
from robovision.symmetry.data import Tokens
from robovision.symmetry.groups import shifts, turns

CELL = 8
"""Side in pixels of the cells of which each has a token."""
PLACE = 7
"""Numbers of a token before the descriptor."""
PLAIN = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""The detector takes images in 0..1 as they are."""


class StrekEncoder(Encoder):
    """One token for each cell of 8 x 8 pixels: the strongest keypoint in it.

    The strongest of the whole image would change their order from frame to frame; a cell's does not. The image's edge
    is repeated outside, so that keypoints are found up to it. Images are read in grey.

    Convention:
        tokens: [B, H / 8 * W / 8, 135], of each keypoint: x and y in the image and x and y in its cell, all in -1..1;
            score in 0..1; cosine and sine of its orientation; descriptor of 128 numbers.
        pooled: [B, 135], the mean token.
    """

    def __init__(self) -> None:
        super().__init__(PLACE + WIDTH, PLAIN)
        self.detector = Detector(DetectorOptions())
        self.descriptor = Descriptor()

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return whole_cells(height, width, CELL)

    def symmetries(self) -> tuple[Symmetry, ...]:
        """Shifts by cells move all but the place in the image, where neither detector nor patch sees the border."""
        reach = math.ceil(SIDE / 2 * SPACING * math.sqrt(2)) + 1
        margin = -(-max(reach, self.detector.options.margin) // CELL) + 1
        cells = Tokens(CELL)
        return (
            Symmetry(shifts(CELL), "interior", outputs=cells, margin=margin, part=lambda seen: seen.tokens[..., 2:]),
            Symmetry(turns("C4"), "none", outputs=cells, part=claims.tokens),
        )

    def encode(self, images: Tensor) -> Features:
        if images.dtype not in (torch.float32, torch.float64):
            raise UsageError(f"strek sees in float32, not in {images.dtype}: half precision has too many equal maxima")
        with torch.autocast(images.device.type, enabled=False):  # half precision has too many equal maxima
            grey = torch.einsum("bchw,c->bhw", images, torch.from_numpy(LUMA).to(images))[:, None]
            detection = self._detect(grey)
            xy, score, direction = _read(detection, _strongest(detection.logits))
            described = self.descriptor(patches(soften(grey), xy, direction)).view(*xy.shape[:2], WIDTH)
        tokens = torch.cat([*_places(xy, images.shape[-2:]), score[..., None], direction, described], 2)
        return Features(tokens, tokens.mean(1))

    def _detect(self, grey: Tensor) -> Detection:
        """The detection in all of the image."""
        padded = functional.pad(grey, [self.detector.options.margin] * 4, mode="replicate")
        detection: Detection = self.detector(padded)
        return detection


def _strongest(logits: Tensor) -> Tensor:
    """The pixel of each cell's largest logit: int64 [B, cells], row * W + column."""
    _, found = functional.max_pool2d(logits[:, None], CELL, CELL, return_indices=True)
    return found.flatten(1)


def _read(detection: Detection, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels [B, N, 2], scores in 0..1 [B, N] and unit directions [B, N, 2] at these places of the map."""
    columns = detection.logits.shape[-1]
    xy = torch.stack([cells % columns, cells // columns], 2).to(detection.logits)
    score = (detection.logits.flatten(1).gather(1, cells) + 1) / 2
    vectors = detection.vectors.flatten(2).gather(2, cells[:, None].expand(-1, 2, -1)).mT
    return xy, score, functional.normalize(vectors, dim=2)


def _places(xy: Tensor, sides: torch.Size) -> tuple[Tensor, Tensor]:
    """Pixels [B, N, 2] in the image and in their cell, both in -1..1."""
    size = xy.new_tensor([sides[1], sides[0]])
    return (xy + 0.5) / size * 2 - 1, ((xy + 0.5) % CELL) / CELL * 2 - 1
