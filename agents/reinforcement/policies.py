"""Policies of Stable-Baselines3 whose actor and critic see through one encoder, which the critic's loss alone trains.

The algorithms are theirs, untouched. With their own shared extractor the actor's loss would train it, and a step of SAC
would encode its batch three times and the next observations twice. As in DrQ-v2 (Yarats et al., ICLR 2022) the encoder
has no target copy, and actor, critic and target read the same features: each batch is encoded once.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy, ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import Actor as SACActor
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import Actor as TD3Actor
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor

from robovision.agents.reinforcement.extractor import PixelExtractor
from robovision.agents.reinforcement.optimiser import PacedAdam, paced

DEFAULTS: dict[str, Any] = {"features_extractor_class": PixelExtractor, "optimizer_class": PacedAdam}
EPSILON = 1e-5
"""Adam's in PPO, which Stable-Baselines3 sets only where nothing is said of the optimiser."""
REMEMBERED = 2
"""Batches whose features are kept in a training step: the observations and the next ones."""


class SharedFeatures:
    """Features of the batches of a training step, each made once, whoever asks for them."""

    def __init__(self, extractor: PixelExtractor) -> None:
        self._extractor = extractor
        self._made: list[tuple[PyTorchObs, Tensor]] = []

    def read(self, observations: PyTorchObs, learns: bool) -> Tensor:
        """The features [B, D] of preprocessed observations.

        Args:
            observations: the very object that the replay buffer gave; another with equal content is encoded anew.
            learns: whether a loss of these features is to train the encoder.
        """
        if not self._extractor.training:
            self._made.clear()
            return self._extract(observations)
        known = (made for seen, made in self._made if seen is observations)
        features = next((made for made in known if made.requires_grad or not learns), None)
        if features is None:  # or they were made without a graph, or gave it to a loss
            features = self._extract(observations)
            self._made = [*self._made, (observations, features)][-REMEMBERED:]
        if not learns:
            return features.detach()
        self._made = [(seen, made.detach()) for seen, made in self._made]  # this graph serves one loss
        return features

    def _extract(self, observations: PyTorchObs) -> Tensor:
        return cast(Tensor, self._extractor(prepare(observations)))


def prepare(observations: PyTorchObs) -> PyTorchObs:
    """Observations as `PixelExtractor` takes them: images stay uint8, everything else becomes float32."""
    if isinstance(observations, dict):
        return {name: value if value.dtype == torch.uint8 else value.float() for name, value in observations.items()}
    return observations


class _Heads(BaseFeaturesExtractor):
    """Stands in an actor or critic where its own extractor would be: what it sees comes from `SharedFeatures`."""

    shared: SharedFeatures

    def forward(self, observations: PyTorchObs) -> Tensor:
        raise NotImplementedError("features come from SharedFeatures")


class _SACActor(SACActor):
    def extract_features(self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor) -> Tensor:
        return cast(_Heads, features_extractor).shared.read(obs, learns=False)


class _TD3Actor(TD3Actor):
    def extract_features(self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor) -> Tensor:
        return cast(_Heads, features_extractor).shared.read(obs, learns=False)


class _Critic(ContinuousCritic):
    """Its loss trains the encoder; an actor's loss, whose actions require gradients, does not."""

    def forward(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, ...]:
        learns = torch.is_grad_enabled() and not actions.requires_grad
        features = cast(_Heads, self.features_extractor).shared.read(obs, learns)
        inputs = torch.cat([features, actions], dim=1)
        return tuple(network(inputs) for network in self.q_networks)

    def q1_forward(self, obs: Tensor, actions: Tensor) -> Tensor:
        features = cast(_Heads, self.features_extractor).shared.read(obs, learns=False)
        return cast(Tensor, self.q_networks[0](torch.cat([features, actions], dim=1)))


class _OneEncoder(BasePolicy):
    """What SAC's and TD3's policies have in common here."""

    critic: ContinuousCritic

    def __init__(self, *args: Any, encoder_pace: float = 1.0, **kwargs: Any) -> None:
        self.encoder_pace = encoder_pace
        super().__init__(*args, **(DEFAULTS | kwargs))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {"encoder_pace": self.encoder_pace}

    def _build(self, lr_schedule: Schedule) -> None:
        made = self.features_extractor_class(self.observation_space, **self.features_extractor_kwargs)
        self.extractor = cast(PixelExtractor, made)
        self.shared = SharedFeatures(self.extractor)
        super()._build(lr_schedule)  # type: ignore[misc]
        options: dict[str, Any] = {"lr": lr_schedule(1), **self.optimizer_kwargs}
        self.critic.optimizer = self.optimizer_class(paced(self.critic, self.extractor, self.encoder_pace), **options)

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        heads = _Heads(self.observation_space, self.extractor.features_dim)
        heads.shared = self.shared
        return heads

    def set_training_mode(self, mode: bool) -> None:
        super().set_training_mode(mode)
        self.extractor.train(mode)


class PixelSACPolicy(_OneEncoder, SACPolicy):
    """SAC's policy with one encoder; takes what `SACPolicy` takes, and `features_extractor_kwargs` of `PixelExtractor`.

    Its encoder learns at `encoder_pace` times the learning rate.

    Raises:
        UsageError: as `PixelExtractor` does.
    """

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> SACActor:
        return _SACActor(**self._update_features_extractor(self.actor_kwargs, features_extractor)).to(self.device)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        return _Critic(**self._update_features_extractor(self.critic_kwargs, features_extractor)).to(self.device)


class PixelTD3Policy(_OneEncoder, TD3Policy):
    """TD3's policy with one encoder; takes what `TD3Policy` takes, and `features_extractor_kwargs` of `PixelExtractor`.

    Its encoder learns at `encoder_pace` times the learning rate.

    Raises:
        UsageError: as `PixelExtractor` does.
    """

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> TD3Actor:
        return _TD3Actor(**self._update_features_extractor(self.actor_kwargs, features_extractor)).to(self.device)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        return _Critic(**self._update_features_extractor(self.critic_kwargs, features_extractor)).to(self.device)


class PixelPPOPolicy(ActorCriticPolicy):
    """PPO's policy with one encoder, trained by both losses, as Stable-Baselines3 does it.

    Takes what `ActorCriticPolicy` takes, and `features_extractor_kwargs` of `PixelExtractor`, whose weights keep their
    own initialisation. Its encoder learns at `encoder_pace` times the learning rate.

    Raises:
        UsageError: as `PixelExtractor` does.
    """

    def __init__(self, *args: Any, encoder_pace: float = 1.0, **kwargs: Any) -> None:
        self.encoder_pace = encoder_pace
        optimizer = {"eps": EPSILON} | (kwargs.get("optimizer_kwargs") or {})
        super().__init__(*args, **(DEFAULTS | kwargs | {"optimizer_kwargs": optimizer}))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {"encoder_pace": self.encoder_pace}

    def extract_features(self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor | None = None) -> Tensor:
        return cast(Tensor, self.features_extractor(prepare(obs)))

    def _build(self, lr_schedule: Schedule) -> None:
        before = {name: value.clone() for name, value in self.features_extractor.state_dict().items()}
        super()._build(lr_schedule)
        self.features_extractor.load_state_dict(before)
        extractor = cast(PixelExtractor, self.features_extractor)
        options: dict[str, Any] = {"lr": lr_schedule(1), **self.optimizer_kwargs}
        self.optimizer = self.optimizer_class(paced(self, extractor, self.encoder_pace), **options)
