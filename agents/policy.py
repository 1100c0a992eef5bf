"""The visuo-motor policy of the CortexBench protocol (Majumdar et al., NeurIPS 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robovision.agents.config import TrainConfig
from robovision.encoders.base import Encoder, Features
from robovision.encoders.build import build, set_trainable

CHANNELS = 16
MIN_SCALE = 0.05


class Policy(nn.Module):
    """Actions from the last images and the present proprioception.

    The images' vectors e0, e1, e2 are fused as [e1 - e0, e2 - e1, e2] ("flare", Shang et al., 2021), the
    proprioception is appended, and BatchNorm and an MLP of three hidden layers give the action.

    Args:
        encoder: looks at each image.
        tokens: how many tokens of the encoder are read, or 0 to read its pooled vector.
        history: how many images.
        proprioception: numbers of proprioception.
        actions: numbers of an action.
    """

    action_mean: Tensor
    action_scale: Tensor

    def __init__(self, encoder: Encoder, tokens: int, history: int, proprioception: int, actions: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.readout = nn.Linear(encoder.width, CHANNELS) if tokens else None
        self.history = history
        inputs = history * (CHANNELS * tokens or encoder.pooled_width) + proprioception
        self.head = nn.Sequential(
            nn.BatchNorm1d(inputs),
            *(nn.Linear(inputs, 256), nn.ReLU()),
            *(nn.Linear(256, 256), nn.ReLU()),
            *(nn.Linear(256, 256), nn.ReLU()),
            nn.Linear(256, actions),
        )
        self.register_buffer("action_mean", torch.zeros(actions))
        self.register_buffer("action_scale", torch.ones(actions))
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(0.01)
            last.bias.zero_()

    def train(self, mode: bool = True) -> Policy:
        """As in torch, but a frozen encoder keeps the batch statistics that it came with."""
        super().train(mode)
        self.encoder.train(mode and any(p.requires_grad for p in self.encoder.parameters()))
        return self

    def embed(self, images: Tensor) -> Tensor:
        """One vector [N, D] an image [N, 3, H, W]."""
        features: Features = self.encoder(images)
        return self.read(features.pooled if self.readout is None else features.tokens)

    def read(self, features: Tensor) -> Tensor:
        """One vector [N, D] from what is read of the encoder, tokens [N, T, W] or pooled vectors [N, D]."""
        if self.readout is None:
            return features
        return self.readout(features).flatten(1)  # type: ignore[no-any-return]

    def act(self, embedded: Tensor, proprioception: Tensor) -> Tensor:
        """Actions [B, A] from embedded histories [B, H, D], oldest first, and proprioception [B, P]."""
        motion = embedded.diff(dim=1).flatten(1)
        fused = torch.cat([motion, embedded[:, -1], proprioception], dim=1)
        return self.action_mean + self.action_scale * self.head(fused)  # type: ignore[no-any-return]

    def fit_actions(self, actions: Tensor) -> None:
        """Measure mean and deviation of the demonstrated actions [M, A], so that each counts alike.

        Where the hand must go sideways is a small motion but the only one that needs eyes.
        """
        self.action_mean.copy_(actions.mean(0))
        self.action_scale.copy_(actions.std(0).clamp_min(MIN_SCALE))

    def loss(self, predicted: Tensor, actions: Tensor) -> Tensor:
        """Mean squared error of actions [M, A], in units of their deviations."""
        return ((predicted - actions) / self.action_scale).square().mean()


class History:
    """The last embedded images of several episodes that are played side by side."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._embedded: Tensor | None = None

    def push(self, embedded: Tensor) -> Tensor:
        """[B, H, D], oldest first, after [B, D] came; at the start of an episode the first one repeats."""
        if self._embedded is None:
            self._embedded = embedded[:, None].repeat(1, self._length, 1)
        else:
            self._embedded = torch.cat([self._embedded[:, 1:], embedded[:, None]], dim=1)
        return self._embedded


def make_policy(config: TrainConfig, proprioception: int, actions: int) -> Policy:
    """The policy that a run describes, with random weights, and only what is to be trained requiring gradients."""
    options, image_size = config.encoder, config.env.size
    encoder = build(options.name, image_size, options.adapter, options.weights is not None)
    set_trainable(encoder, options.train)
    rows, columns = encoder.grid(image_size, image_size)
    tokens = rows * columns if options.readout == "spatial" else 0
    return Policy(encoder, tokens, config.history, proprioception, actions)
