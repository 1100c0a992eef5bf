"""What one training of S-TREK is: the options, without importing torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robovision.errors import UsageError

Sampler = Literal["sequential", "grid", "top-k"]
Reward = Literal["step", "linear"]


@dataclass(frozen=True)
class DetectorOptions:
    """The architecture of the detector. It sees `layers * (kernel - 1) + 1` pixels."""

    group: str = "C8"
    """C1 (a plain network), C4, C8, C16, or with reflections D4, D8."""
    fields: int = 2
    """Regular fields of each layer."""
    kernel: int = 5
    """Side of the kernels in pixels, odd."""
    layers: int = 5
    """Convolutions, none padded."""

    def __post_init__(self) -> None:
        if self.fields < 1 or self.layers < 2:
            raise UsageError(f"fields must be >= 1 and layers >= 2, got {self.fields} and {self.layers}")
        if self.kernel < 3 or self.kernel % 2 == 0:
            raise UsageError(f"kernel must be odd and at least 3, got {self.kernel}")

    @property
    def margin(self) -> int:
        """Pixels that the map lacks on each side."""
        return self.layers * (self.kernel // 2)


@dataclass(frozen=True)
class SamplingOptions:
    """How keypoints are drawn, rewarded and placed in training."""

    sampler: Sampler = "sequential"
    """sequential: one after the other from the whole map, as in the paper; grid: one in each cell, as in DISK;
    top-k: the strongest local maxima, without chance."""
    temperature: float = 0.05
    """Of the softmax."""
    radius: int = 6
    """Pixels around a drawn point in which no other is drawn; the grid's cells have sides of radius + 2."""
    remaining: float = 0.0
    """Stop when no more than this share of the probability is left; above 0, training can collapse to few points."""
    most: int = 40
    """Points of an image at most."""
    reward: Reward = "linear"
    """step: 1 within `within` of the other image's nearest point; linear: 1 on it, falling to 0 at `within`."""
    within: float = 3.0
    """Pixels."""
    penalty: float = 0.25
    """Subtracted for a point without a counterpart."""
    localisation: float = 0.0
    """Weight, beside the reward, of the distance in pixels between places and their counterparts; the model card says
    what 1 gains and loses."""

    def __post_init__(self) -> None:
        for name in ("temperature", "radius", "most", "within"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.remaining < 1:
            raise UsageError(f"remaining must be in 0..1, below 1, got {self.remaining}")
        for name in ("penalty", "localisation"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} must not be negative, got {getattr(self, name)}")


@dataclass(frozen=True)
class StrekConfig:
    """Training of S-TREK's detector, or of its descriptor at the points of a trained detector."""

    part: Literal["detector", "descriptor"] = "detector"
    """Which network to train."""
    detector: DetectorOptions = DetectorOptions()
    sampling: SamplingOptions = SamplingOptions()
    detector_weights: Path | None = None
    """Weights of the trained detector (.safetensors), for the descriptor."""
    images: Path | None = None
    """A folder of photographs to learn from, beside the procedural pictures."""
    leaves: int = 48
    """How many procedural pictures of 512 x 512 pixels to learn from."""
    size: int = 96
    """Side of the training pictures in pixels."""
    batch: int = 4
    """Pairs of pictures in one step."""
    steps: int = 600
    """Steps of the optimiser, over which the learning rate rises and falls."""
    stop: int | None = None
    """End after so many of these steps."""
    lr: float = 5e-4
    """Peak learning rate of AdamW."""
    seed: int = 0
    """Chooses initial weights, pictures and draws."""
    checkpoint_every: int = 50
    """Steps between two checkpoints."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the networks; bfloat16 is faster on processors that multiply it."""
    threads: int = 1
    """Threads of the processor; they decide the last bits."""

    def __post_init__(self) -> None:
        for name in ("batch", "steps", "lr", "checkpoint_every", "threads"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} must be positive, got {getattr(self, name)}")
        if self.stop is not None and not 0 < self.stop <= self.steps:
            raise UsageError(f"stop must be 1 to steps, {self.steps}, got {self.stop}")
        if self.leaves < 0 or (self.leaves == 0 and self.images is None):
            raise UsageError("nothing to learn from: give --leaves above 0, or a folder with --images")
        smallest = 2 * self.detector.margin + 32
        if not smallest <= self.size <= 256:
            raise UsageError(f"size must be {smallest} to 256 pixels, got {self.size}")
        if (self.part == "descriptor") != (self.detector_weights is not None):
            raise UsageError("--detector-weights goes with --part descriptor: the descriptor learns at its points")
