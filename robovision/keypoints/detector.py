"""The detector of S-TREK: how good a keypoint each pixel is, and its orientation, in kind when the image turns.

After Santellani et al., "S-TREK: Sequential translation and rotation equivariant keypoints for local feature
extraction", ICCV 2023 (arXiv 2308.14598), from the paper's description: its code and weights are not public. The
orientation is an addition: the last layer has a second regular field, read as a vector.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision import weights
from robovision.errors import UsageError, first_line
from robovision.keypoints.strek_config import DetectorOptions
from robovision.symmetry.claims import Symmetry
from robovision.symmetry.data import FlowField, Image
from robovision.symmetry.groupconv import (
    FieldNorm,
    LiftingConv,
    PlaneGroup,
    RegularConv,
    export,
    quarter_symmetries,
    split,
)

ABOUT = "detector"
"""Under which a file of weights says the detector's options, as JSON."""


@dataclass(frozen=True)
class Detection:
    """What the detector makes of images [B, 1, H, W].

    Convention:
        logits: [B, H - 2 margin, W - 2 margin], in -1..1, larger is better; the entry (0, 0) is the pixel
            (margin, margin). The bound is a softsign: a tanh would be 1 to rounding for all the strongest.
        vectors: [B, 2, ...], (x, y) with y down: the direction is the keypoint's orientation, the length says how
            clear it is.
    """

    logits: Tensor
    vectors: Tensor


class Detector(nn.Module):
    """Images [B, 1, H, W] in 0..1, grey, to a `Detection`."""

    compass: Tensor

    def __init__(self, options: DetectorOptions) -> None:
        super().__init__()
        group = PlaneGroup.parse(options.group)
        fields, kernel = options.fields, options.kernel
        parts: list[nn.Module] = [
            LiftingConv(group, 1, fields, kernel),
            FieldNorm(group, fields),
            nn.ReLU(inplace=True),
        ]
        for _ in range(options.layers - 2):
            parts += [RegularConv(group, fields, fields, kernel), FieldNorm(group, fields), nn.ReLU(inplace=True)]
        self.options = options
        self.group = group
        self.layers = nn.Sequential(*parts, RegularConv(group, fields, 2, kernel))
        angles = group.angles()
        compass = torch.stack([angles.cos(), -angles.sin()]).float()
        self.register_buffer("compass", compass, persistent=False)

    def symmetries(self) -> tuple[Symmetry, ...]:
        """Shifts, and the quarter turns that the group holds, move the logits, and move and turn the vectors."""
        groups = [claim.group for claim in quarter_symmetries(self.group, Image(), Image())]
        logits = [Symmetry(group, "exact", part=lambda found: found.logits[:, None]) for group in groups]
        vectors = [Symmetry(g, "exact", Image(), FlowField(), part=lambda found: found.vectors) for g in groups]
        return (*logits, *vectors)

    def forward(self, images: Tensor) -> Detection:
        return self.read(self.layers(images))

    def read(self, maps: Tensor) -> Detection:
        """The detection in the last layer's maps [B, 2 * group, H - 2 margin, W - 2 margin]."""
        fields = split(maps, self.group.size)
        return Detection(
            functional.softsign(fields[:, 0].amax(1)), torch.einsum("bghw,cg->bchw", fields[:, 1], self.compass)
        )

    def exported(self) -> Detector:
        """The same detector in evaluation, of plain convolutions: faster, but it can't be trained."""
        plain = Detector(self.options)
        plain.layers = export(self.layers)
        return plain.eval().requires_grad_(False).to(self.compass)


def saved_options(path: Path) -> DetectorOptions | None:
    """The architecture that a file of weights is of, by what it says; None if it says nothing.

    Raises:
        UsageError: if it can't be read, or says something else there.
    """
    said = weights.about(path).get(ABOUT)
    if said is None:
        return None
    known = {field.name: type(field.default) for field in dataclasses.fields(DetectorOptions)}
    try:
        options = json.loads(said)
        if any(type(value) is not known[name] for name, value in options.items()):
            raise ValueError(said)
        return DetectorOptions(**options)
    except (AttributeError, KeyError, ValueError, UsageError) as error:
        raise UsageError(f"{path} says of its detector what no detector is: {first_line(error)}") from error
