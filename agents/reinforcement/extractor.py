"""Our encoders as a features extractor of Stable-Baselines3: pixels and whatever else is observed become one vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from robovision.agents.config import EncoderOptions
from robovision.agents.reinforcement.config import RINGS, LidarOptions
from robovision.agents.reinforcement.memory import FrameMemory
from robovision.agents.reinforcement.readers import CHANNELS, PointReader, RingReader, SweepReader, VectorReader
from robovision.encoders.base import Encoder
from robovision.encoders.build import build, set_trainable, shut_gate
from robovision.errors import UsageError
from robovision.lidar.detectors.sweep_encoder import SweepEncoder

RGB = 3
EncoderMaker = Callable[[int], Encoder]
"""From the side of the images in pixels to a new encoder, with random weights."""


class PixelExtractor(BaseFeaturesExtractor):
    """One vector [B, features_dim] of observations: images by an encoder, everything else by a reader of its kind.

    Convention:
        observations: a dictionary, or an image alone, as Stable-Baselines3 hands them over.
        Images: uint8 [B, 3 k, H, W], or floating point in 0..1: k RGB frames along the channels, oldest first.
        `lidar`: [B, rings, columns], metres. `keypoints` and `points`: [B, N, D], a set whose order means nothing,
        padded with rows of zeros. Vectors: [B, D].

    Each frame is encoded by itself; the frames' vectors e0, e1, e2 are fused as [e1 - e0, e2 - e1, e2] ("flare",
    Shang et al., 2021), and a linear layer, layer norm and tanh make `features` numbers of them (as in SAC+AE and
    DrQ). While the policy acts, a frame is encoded once and not for each stack that it is in (`FrameMemory`).
    Batch norms use the statistics that they hold, in training too, because what acts and what learns must be the same
    function; `fit_batch_norms` measures them. Without images there is no encoder.

    Args:
        observation_space: of the environment.
        encoder: options of an encoder by name, or a function that makes any encoder that fulfils the contract.
        features: numbers that are made of each image, or stack of images.
        lidar: what reads `lidar`.
        sensor: name of the LiDAR, where a detector's backbone reads it.

    Raises:
        UsageError: for an observation that has no reader, and for an encoder that does not fit the images, naming
            both shapes.
    """

    def __init__(
        self,
        observation_space: spaces.Space[object],
        encoder: EncoderOptions | EncoderMaker,
        features: int = 128,
        lidar: LidarOptions = LidarOptions(),  # noqa: B008  frozen
        sensor: str = "planar",
    ) -> None:
        parts = (
            dict(observation_space.spaces) if isinstance(observation_space, spaces.Dict) else {"": observation_space}
        )
        images = {name: space for name, space in parts.items() if _is_image(space)}
        others = {
            name: _sweep_reader(lidar, sensor, space) if name == "lidar" else _reader(name, space)
            for name, space in parts.items()
            if name not in images
        }
        super().__init__(observation_space, features * len(images) + sum(reader.width for reader in others.values()))
        sizes = {name: frames_of(name, space) for name, space in images.items()}
        self.stacks = {name: frames for name, (frames, _) in sizes.items()}
        self.eye = _Eye(encoder, sizes) if images else None
        width = self.eye.width if self.eye else 0
        self.trunks = nn.ModuleDict({_key(name): _trunk(k * width, features) for name, k in self.stacks.items()})
        self.readers = nn.ModuleDict({_key(name): reader for name, reader in others.items()})

    @property
    def sweep_encoder(self) -> SweepEncoder | None:
        """The backbone that sees the LiDAR's points; None for none."""
        return next((r.encoder for r in self.readers.values() if isinstance(r, SweepReader)), None)

    @property
    def encoder(self) -> Encoder | None:
        """The encoder; None where nothing is seen."""
        return self.eye.encoder if self.eye else None

    def set_half(self, half: bool) -> None:
        """Whether images are seen in bfloat16; for acting, not for learning."""
        if self.eye is not None:
            self.eye.to(torch.bfloat16 if half else torch.float32)

    def forward(self, observations: Tensor | dict[str, Tensor]) -> Tensor:
        parts = observations if isinstance(observations, dict) else {"": observations}
        seen = [self.trunks[_key(name)](self._fuse(parts[name], k)) for name, k in self.stacks.items()]
        felt = [reader(parts[name]) for name, reader in self.readers.items()]
        return torch.cat([*seen, *felt], dim=1)

    def _fuse(self, images: Tensor, count: int) -> Tensor:
        """The vectors of stacks of images [B, 3 k, H, W], fused to [B, k D]."""
        frames = images.reshape(-1, RGB, *images.shape[-2:])
        assert self.eye is not None
        written = torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
        remembers = not (self.training or torch.is_grad_enabled() or written)
        vectors = self.eye.memory(frames) if remembers else self.eye(frames)
        vectors = vectors.view(images.shape[0], count, -1)
        return torch.cat([vectors.diff(dim=1).flatten(1), vectors[:, -1]], dim=1)


class _Eye(nn.Module):
    """One vector [N, D] a frame [N, 3, H, W]: 16 numbers from each of the encoder's tokens, or its pooled vector."""

    def __init__(self, encoder: EncoderOptions | EncoderMaker, sizes: dict[str, tuple[int, int]]) -> None:
        super().__init__()
        side = next(iter(sizes.values()))[1]
        try:
            self.encoder = make_encoder(encoder, side)
        except UsageError as error:
            raise _misfit(encoder, sizes, error) from error
        tokens = check_fit(self.encoder, sizes)
        self.spatial = not isinstance(encoder, EncoderOptions) or encoder.readout == "spatial"
        self.width = CHANNELS * tokens if self.spatial else self.encoder.pooled_width
        self.readout = nn.Linear(self.encoder.width, CHANNELS) if self.spatial else nn.Identity()
        self.memory = FrameMemory(self, self)
        self.encoder.eval()

    def train(self, mode: bool = True) -> _Eye:
        """As in torch, but the encoder's batch norms keep the statistics that they hold."""
        super().train(mode)
        self.encoder.eval()
        if mode:
            self.memory.forget()
        return self

    def forward(self, frames: Tensor) -> Tensor:
        seen = self.encoder(frames)
        vectors = self.readout(seen.tokens).flatten(1) if self.spatial else seen.pooled
        return cast(Tensor, vectors.float() if vectors.dtype == torch.bfloat16 else vectors)


@torch.no_grad()
def fit_batch_norms(encoder: Encoder, images: Tensor, part: nn.Module | None = None) -> None:
    """Set the statistics of an encoder's batch norms to those of what it sees (data-dependent initialisation).

    Without this a network with random weights hardly tells images apart. One with pretrained weights brings its own:
    then `part` is the part of it that does not, such as CoIn.
    """
    part = encoder if part is None else part
    for module in part.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.reset_running_stats()
            module.momentum = None  # the mean over all calls
    part.train()
    encoder(images)
    part.eval()


def make_encoder(encoder: EncoderOptions | EncoderMaker, side: int) -> Encoder:
    """An encoder with random weights for square images of this side in pixels."""
    if not isinstance(encoder, EncoderOptions):
        return encoder(side)
    made = build(encoder.name, side, encoder.adapter, encoder.weights is not None)
    set_trainable(made, encoder.train)
    if encoder.gate == "shut":
        shut_gate(made)
    return made


def check_fit(encoder: Encoder, sizes: dict[str, tuple[int, int]]) -> int:
    """The number of tokens of an image, after checking that the encoder can take images of these sides in pixels.

    Raises:
        UsageError: naming the shape of the images and what the encoder takes.
    """
    sides = {side for _, side in sizes.values()}
    if len(sides) > 1:
        raise UsageError(f"all images must have one size for the encoder, got sides {sorted(sides)}")
    side = sides.pop()
    try:
        rows, columns = encoder.grid(side, side)
    except ValueError as error:
        raise _misfit(encoder, sizes, error) from error
    return rows * columns


def _misfit(encoder: object, sizes: dict[str, tuple[int, int]], error: Exception) -> UsageError:
    """The error for an encoder that can't take the observed images, with both shapes."""
    name = encoder.name if isinstance(encoder, EncoderOptions) else type(encoder).__name__
    seen = ", ".join(f"{key or 'the observation'} [{RGB * k}, {side}, {side}]" for key, (k, side) in sizes.items())
    return UsageError(f"the encoder {name}, which takes frames [{RGB}, H, W], does not fit {seen}: {error}")


def _trunk(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.Tanh())


def frames_of(name: str, space: spaces.Space[object]) -> tuple[int, int]:
    """How many RGB frames a stack of images holds, and their side in pixels.

    Raises:
        UsageError: if it isn't a square stack of RGB frames, channels first, naming its shape and the one wanted.
    """
    shape = space.shape
    assert shape is not None
    channels, height, width = shape
    if channels % RGB or height != width:
        turned = "; channels come last here" if shape[-1] % RGB == 0 and shape[0] == shape[1] else ""
        raise UsageError(f"{name or 'the observation'} has shape {list(shape)}, expected [3 k, S, S]{turned}")
    return channels // RGB, width


def _is_image(space: spaces.Space[object]) -> bool:
    return isinstance(space, spaces.Box) and space.dtype == "uint8" and len(space.shape) == 3


def _sweep_reader(options: LidarOptions, sensor: str, space: spaces.Space[object]) -> RingReader | SweepReader:
    """What reads the observation `lidar`.

    Raises:
        UsageError: if it is of another sensor, or none of rings and columns.
    """
    if not isinstance(space, spaces.Box) or len(space.shape) != 2:
        raise UsageError(f"the observation 'lidar' must be [rings, columns], got {space}")
    if options.model == RINGS:
        return RingReader(*space.shape, reach=float(space.high.max()))
    reader = SweepReader(options, sensor)
    try:
        reader.encoder.grid(*space.shape)
    except ValueError as error:
        raise UsageError(f"the backbone {options.model} can't read the observation 'lidar': {error}") from error
    return reader


def _reader(name: str, space: spaces.Space[object]) -> PointReader | VectorReader:
    """What reads an observation that is no image, by its name and shape."""
    shape = space.shape if isinstance(space, spaces.Box) else None
    if shape is not None and len(shape) == 1:
        return VectorReader(shape[0])
    if shape is not None and len(shape) == 2:
        return PointReader(*shape)
    raise UsageError(
        f"no reader for the observation {name!r}, {space}: images must be uint8 [3 k, S, S]; others vectors [D], "
        f"`lidar` [rings, columns], or sets of points [N, D]"
    )


def _key(name: str) -> str:
    """A name that a ModuleDict takes."""
    return name.replace(".", "_") or "image"
