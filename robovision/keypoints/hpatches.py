"""HPatches (Balntas et al., CVPR 2017): image pairs with homographies, in the two protocols that papers publish."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from robovision.errors import UsageError, first_line
from robovision.keypoints.extractors import Extractor
from robovision.keypoints.pixels import read_grey
from robovision.keypoints.planar import FULL_SIZE, GLUE_FACTORY, VERIFY, Estimator, Score, resize, score
from robovision.types import Array

LEFT_OUT = frozenset(
    {
        *("i_contruction", "i_crownnight", "i_dc", "i_pencils", "i_whitebuilding"),
        *("v_artisans", "v_astronautis", "v_talent"),
    }
)
"""Sequences with images over 1600 x 1200 pixels, which all papers since D2-Net (Dusmanu et al., CVPR 2019) omit."""
IMAGES = range(2, 7)
"""Numbers of the images that image 1 is paired with."""

Protocol = Literal["hpatches", "hpatches-full"]


@dataclass(frozen=True)
class Setting:
    """What sets the protocols apart."""

    keypoints: int
    shorter: int | None
    """Pixels of the images' shorter side, or None for images as they are."""
    estimators: tuple[Estimator, ...]
    """The one that is published, and ours."""


SETTINGS: dict[Protocol, Setting] = {
    "hpatches": Setting(1024, 480, (GLUE_FACTORY, VERIFY)),
    "hpatches-full": Setting(2048, None, (FULL_SIZE, VERIFY)),
}
"""hpatches: glue-factory's (Pautrat, Lindenberger et al.); hpatches-full: D2-Net's."""


@dataclass(frozen=True)
class Sequence:
    """Six images of one scene: of changing light if its name starts with i_, of changing viewpoint if with v_."""

    path: Path

    @property
    def name(self) -> str:
        """Its folder's name."""
        return self.path.name

    def image(self, number: int) -> Array:
        """Image 1 to 6, grey float32 [H, W] in 0..1."""
        files = sorted(self.path.glob(f"{number}.*"))
        if len(files) != 1:
            raise UsageError(f"{self.path} must hold one image {number}.ppm, and holds {len(files)}")
        return read_grey(files[0])

    def homography(self, number: int) -> Array:
        """From pixels of image 1 to those of another one, float64 [3, 3]."""
        path = self.path / f"H_1_{number}"
        try:
            matrix = np.loadtxt(path)
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} holds no homography: {first_line(error)}") from error
        if matrix.shape != (3, 3):
            raise UsageError(f"{path} must hold 3 x 3 numbers, got {list(matrix.shape)}")
        return np.asarray(matrix)


def sequences(folder: Path) -> list[Sequence]:
    """The sequences of a local copy that the protocols use.

    Raises:
        UsageError: if there is none.
    """
    found = [
        Sequence(path)
        for path in sorted(folder.glob("[iv]_*"))
        if path.name not in LEFT_OUT and (path / "H_1_2").is_file()
    ]
    if not found:
        raise UsageError(
            f"{folder} holds no sequences of HPatches: folders such as v_wall with 1.ppm to 6.ppm and H_1_2"
        )
    return found


def measure(
    extractors: Mapping[str, Extractor],
    found: list[Sequence],
    setting: Setting,
    progress: Callable[[], object] = lambda: None,
) -> tuple[dict[str, dict[str, list[Score]]], list[str]]:
    """Scores of each extractor, by sequence, and a message for each sequence that is damaged, which is left out.

    `progress` is called after each sequence.
    """
    scores: dict[str, dict[str, list[Score]]] = {name: {} for name in extractors}
    faults = []
    for sequence in found:
        try:
            rows = _rows(extractors, sequence, setting)
        except UsageError as error:
            faults.append(f"{sequence.name} is left out: {error}")
        else:
            for name in extractors:
                scores[name][sequence.name] = rows[name]
        progress()
    return scores, faults


def _rows(extractors: Mapping[str, Extractor], sequence: Sequence, setting: Setting) -> dict[str, list[Score]]:
    """Scores of each extractor for the pairs of a sequence."""
    first, scale = _scaled(sequence.image(1), setting)
    known = {name: extractor.extract(first) for name, extractor in extractors.items()}
    rows: dict[str, list[Score]] = {name: [] for name in extractors}
    for number in IMAGES:
        second, other = _scaled(sequence.image(number), setting)
        truth = other @ sequence.homography(number) @ np.linalg.inv(scale)
        for name, extractor in extractors.items():
            rows[name].append(score(known[name], extractor.extract(second), truth, setting.estimators))
    return rows


def _scaled(image: Array, setting: Setting) -> tuple[Array, Array]:
    return (image, np.eye(3)) if setting.shorter is None else resize(image, setting.shorter)
