"""Stable-Baselines3's models of experts, and what of them an `Expert` needs."""

from __future__ import annotations

import functools
from typing import Any, cast

from robovision.envs.expert_envs import state_env  # first: it chooses the backend that mujoco reads

# isort: split
import numpy as np
from numpy.typing import NDArray
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from robovision.envs.expert_recipes import PPORecipe, Recipe, SACRecipe
from robovision.envs.experts import CLIP
from robovision.seeding import derive

ENVS = 8
"""Episodes that are played side by side in one process while training."""
WARM_UP = 4000
"""Random actions before the first gradient step."""
BUFFER = 400_000
"""Actions in the replay buffer."""
Model = SAC | PPO


def build(task: str, recipe: Recipe, seed: int) -> Model:
    """A fresh model, whose observations are normalised by their running mean and variance."""
    shared: dict[str, Any] = {
        "learning_rate": recipe.learning_rate,
        "gamma": recipe.gamma,
        "seed": derive(seed, "training") % 2**31,
        "device": "cpu",
    }
    widths = [recipe.hidden] * 2
    if isinstance(recipe, PPORecipe):
        return PPO(
            "MlpPolicy",
            VecNormalize(episodes(task), clip_obs=CLIP, gamma=recipe.gamma),
            n_steps=recipe.rollout // ENVS,
            batch_size=recipe.batch,
            n_epochs=recipe.epochs,
            target_kl=recipe.target_kl,
            policy_kwargs={"net_arch": widths, "log_std_init": recipe.log_std},
            **shared,
        )
    assert isinstance(recipe, SACRecipe)
    return SAC(
        "MlpPolicy",
        VecNormalize(episodes(task), norm_reward=False, clip_obs=CLIP),
        buffer_size=BUFFER,
        learning_starts=WARM_UP,
        train_freq=1,
        gradient_steps=recipe.updates,
        n_steps=recipe.n_steps,
        policy_kwargs={"net_arch": widths, "optimizer_kwargs": {"fused": True}},
        **shared,
    )


def actor_tensors(model: Model) -> dict[str, NDArray[Any]]:
    """What `Expert` needs to act as the model's deterministic policy does."""
    normaliser = normaliser_of(model)
    statistics = cast(RunningMeanStd, normaliser.obs_rms)  # it would be a dictionary if there were several states
    tensors = {"mean": statistics.mean, "std": np.sqrt(statistics.var + normaliser.epsilon)}
    for i, layer in enumerate(actor_layers(model)):
        tensors |= {f"layers.{i}.{name}": value.detach().numpy() for name, value in layer.named_parameters()}
    return tensors


def actor_layers(model: Model) -> list[nn.Linear]:
    """The layers that lead from the normalised state to the mean action, in their order."""
    policy: Any = model.policy
    modules = (
        [*policy.actor.latent_pi, policy.actor.mu]
        if isinstance(model, SAC)
        else [*policy.mlp_extractor.policy_net, policy.action_net]
    )
    return [module for module in modules if isinstance(module, nn.Linear)]


def episodes(task: str) -> DummyVecEnv:
    """Episodes of the task side by side."""
    return DummyVecEnv([functools.partial(state_env, task)] * ENVS)


def normaliser_of(model: Model) -> VecNormalize:
    """What normalises the model's observations."""
    normaliser = model.get_vec_normalize_env()
    assert normaliser is not None
    return normaliser
