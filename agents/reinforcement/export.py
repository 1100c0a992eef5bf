"""A policy that reinforcement learning trained as a function without state, to be written to a file."""

from __future__ import annotations

from typing import cast

import torch
from gymnasium import spaces
from torch import Tensor, nn

from robovision.agents.reinforcement.agent import CLIP, EPSILON, ReinforcedAgent
from robovision.agents.reinforcement.extractor import PixelExtractor
from robovision.agents.reinforcement.policies import PixelPPOPolicy, PixelSACPolicy, PixelTD3Policy, prepare

Inputs = dict[str, Tensor]


class MostLikely(nn.Module):
    """The policy's most likely actions [B, A] from observations by name, what was normalised in training included."""

    def __init__(self, agent: ReinforcedAgent) -> None:
        super().__init__()
        self.policy = agent.policy
        self.normalised = list(agent.moments)
        for name, (mean, variance) in agent.moments.items():
            self.register_buffer(f"mean_{name}", torch.as_tensor(mean, dtype=torch.float32))
            self.register_buffer(f"deviation_{name}", torch.as_tensor(variance + EPSILON).sqrt().float())

    def forward(self, observations: Inputs) -> tuple[Tensor]:
        parts = dict(observations)
        for name in self.normalised:
            mean, deviation = self.get_buffer(f"mean_{name}"), self.get_buffer(f"deviation_{name}")
            parts[name] = ((parts[name] - mean) / deviation).clamp(-CLIP, CLIP)
        return (self._actions(parts).clamp(-1, 1),)

    def _actions(self, parts: Inputs) -> Tensor:
        policy = self.policy
        if isinstance(policy, PixelPPOPolicy):
            features = cast(PixelExtractor, policy.features_extractor)(prepare(parts))
            return cast(Tensor, policy.action_net(policy.mlp_extractor.forward_actor(features)))
        if isinstance(policy, PixelTD3Policy):
            return cast(Tensor, policy.actor.mu(policy.extractor(prepare(parts))))
        assert isinstance(policy, PixelSACPolicy)
        return cast(Tensor, policy.actor.mu(policy.actor.latent_pi(policy.extractor(prepare(parts))))).tanh()


def random_observations(agent: ReinforcedAgent, batch: int, seed: int) -> Inputs:
    """Observations [B, ...] as the policy knows them, of noise."""
    generator = torch.Generator().manual_seed(seed)
    return {name: _noise(cast(spaces.Box, space), batch, generator) for name, space in agent.space.spaces.items()}


def _noise(space: spaces.Box, batch: int, generator: torch.Generator) -> Tensor:
    shape = (batch, *space.shape)
    if space.dtype == "uint8":
        return torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    return torch.randn(shape, generator=generator)
