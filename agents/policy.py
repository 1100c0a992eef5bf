"""The visuo-motor policy of the CortexBench protocol (Majumdar et al., NeurIPS 2023)."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor, nn

from robovision.agents.config import TrainConfig
from robovision.encoders.base import Encoder, Features
from robovision.encoders.build import build, set_trainable, shut_gate

CHANNELS = 16
DECAY = 0.01
MIN_SCALE = 0.05


class Policy(nn.Module):
    """Actions from the last images and the present proprioception.

    The images' vectors e0, e1, e2 are fused as [e1 - e0, e2 - e1, e2] ("flare", Shang et al., 2021), the
    proprioception is appended, and BatchNorm and an MLP of three hidden layers give the action.

    Args:
        encoder: looks at each image.
        tokens: how many tokens of the encoder are read, or 0 to read its pooled vector.
        history: how many images.
        felt: numbers of proprioception.
        actions: numbers of an action.
        chunk: how many consecutive actions are predicted at once (Zhao et al., RSS 2023).
    """

    action_mean: Tensor
    action_scale: Tensor

    def __init__(self, encoder: Encoder, tokens: int, history: int, felt: int, actions: int, chunk: int = 1) -> None:
        super().__init__()
        self.encoder = encoder
        self.readout = nn.Linear(encoder.width, CHANNELS) if tokens else None
        self.tokens, self.history, self.felt, self.chunk = tokens, history, felt, chunk
        inputs = self.inputs = history * (CHANNELS * tokens or encoder.pooled_width) + felt
        self.head = nn.Sequential(
            nn.BatchNorm1d(inputs),
            *(nn.Linear(inputs, 256), nn.ReLU()),
            *(nn.Linear(256, 256), nn.ReLU()),
            *(nn.Linear(256, 256), nn.ReLU()),
            nn.Linear(256, chunk * actions),
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

    def forward(self, frames: Tensor, valid: Tensor, felt: Tensor, encoded: bool, half: bool) -> Tensor:
        """The plans [M, K, A] of a batch of clips, as `robovision.agents.clips.Batch` holds it; for training.

        Args:
            frames, valid, felt: the batch's frames, valid and proprioception.
            encoded: the frames are the encoder's features already.
            half: embed in bfloat16.
        """
        flat = frames.flatten(0, 1)
        with torch.autocast(flat.device.type, torch.bfloat16, enabled=half):
            embedded = self.read(flat) if encoded else self.embed(flat.contiguous(memory_format=torch.channels_last))
        return self.plan(histories(embedded.to(self.action_mean.dtype).view(*frames.shape[:2], -1), valid), felt)

    def embed(self, images: Tensor) -> Tensor:
        """One vector [N, D] an image [N, 3, H, W]."""
        features: Features = self.encoder(images)
        return self.read(features.pooled if self.readout is None else features.tokens)

    def read(self, features: Tensor) -> Tensor:
        """One vector [N, D] from what is read of the encoder, tokens [N, T, W] or pooled vectors [N, D]."""
        if self.readout is None:
            return features
        return self.readout(features).flatten(1)  # type: ignore[no-any-return]

    def act(self, embedded: Tensor, felt: Tensor) -> Tensor:
        """Actions [B, A] from embedded histories [B, H, D], oldest first, and proprioception [B, P]."""
        return self.plan(embedded, felt)[:, 0]

    def plan(self, embedded: Tensor, felt: Tensor) -> Tensor:
        """The actions [B, K, A] of this step and those after it, from the same as `act`."""
        motion = embedded.diff(dim=1).flatten(1)
        planned = self.head(torch.cat([motion, embedded[:, -1], felt], dim=1))
        return self.action_mean + self.action_scale * planned.unflatten(1, (self.chunk, -1))  # type: ignore[no-any-return]

    def fit_actions(self, actions: Tensor) -> None:
        """Measure mean and deviation of the demonstrated actions [M, A], so that each counts alike.

        Where the hand must go sideways is a small motion but the only one that needs eyes.
        """
        self.action_mean.copy_(actions.mean(0))
        self.action_scale.copy_(actions.std(0).clamp_min(MIN_SCALE))

    def loss(self, planned: Tensor, actions: Tensor, valid: Tensor) -> Tensor:
        """Mean squared error of plans [M, K, A], in units of the actions' deviations, where valid [M, K] says so."""
        return ((planned - actions) / self.action_scale).square().mean(2)[valid].mean()


def histories(embedded: Tensor, valid: Tensor) -> Tensor:
    """Embedded frames [C, F, D] as the histories [M, H, D] of the valid predicted frames."""
    windows = embedded.unfold(1, embedded.shape[1] - valid.shape[1] + 1, 1).transpose(2, 3)
    return windows[valid]


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


class Ensemble:
    """What the plans of the last steps say of the present one, on average ("temporal ensemble", Zhao et al., 2023).

    The oldest counts most: the one made i steps after it counts exp(-0.01 i) times as much.
    """

    def __init__(self, chunk: int) -> None:
        self._plans: deque[Tensor] = deque(maxlen=chunk)

    def push(self, plan: Tensor) -> Tensor:
        """The actions [B, A] of this step, after its plan [B, K, A] came."""
        self._plans.append(plan)
        said = torch.stack([past[:, k] for k, past in enumerate(reversed(self._plans))]).flip(0)
        weights = torch.exp(-DECAY * torch.arange(len(said), device=said.device))
        return (said * (weights / weights.sum()).view(-1, 1, 1)).sum(0)


def make_policy(config: TrainConfig, felt: int, actions: int) -> Policy:
    """The policy that a run describes, with random weights, and only what is to be trained requiring gradients."""
    options, image_size = config.encoder, config.env.size
    encoder = build(options.name, image_size, options.adapter, options.weights is not None)
    set_trainable(encoder, options.train)
    if options.gate == "shut":
        shut_gate(encoder)
    rows, columns = encoder.grid(image_size, image_size)
    tokens = rows * columns if options.readout == "spatial" else 0
    return Policy(encoder, tokens, config.history, felt, actions, config.chunk)
