"""Stable-Baselines3's algorithms with our policies and replay buffer, from a config; and what saves them."""

from __future__ import annotations

import inspect
import json
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor

from robovision import weights
from robovision.agents.reinforcement.config import RINGS, RLConfig
from robovision.agents.reinforcement.environments import sensor_of
from robovision.agents.reinforcement.policies import PixelPPOPolicy, PixelSACPolicy, PixelTD3Policy
from robovision.agents.reinforcement.replay import FrameReplayBuffer
from robovision.errors import UsageError, unknown
from robovision.optimisers import Named, load_optimizer, optimizer_tensors
from robovision.seeding import derive

Model = SAC | TD3 | PPO
ALGORITHMS: dict[str, tuple[type[Model], type[BasePolicy]]] = {
    "sac": (SAC, PixelSACPolicy),
    "td3": (TD3, PixelTD3Policy),
    "ppo": (PPO, PixelPPOPolicy),
}
NOISE = 0.2
"""Deviation of the noise on TD3's actions, which lie in -1..1."""
FIRST_ENTROPY = "auto_0.1"
"""SAC learns its entropy's weight from here on (DrQ, appendix B)."""


SAID = {
    "learning_rate": "--learning.lr",
    "gamma": "--learning.gamma",
    "n_steps": "--replay.n-steps or --rollout.steps",
    "buffer_size": "--replay.size",
    "learning_starts": "--replay.warm-up",
    "train_freq": "--envs and --replay.updates",
    **{f"replay_buffer_{part}": "--replay.n-steps and --replay.shift" for part in ("class", "kwargs")},
}
"""Arguments of the algorithms that can't be given as `options`, by what gives them."""


def make_model(config: RLConfig, env: VecEnv) -> Model:
    """The algorithm that a config describes, untrained, for these environments.

    Raises:
        UsageError: for an option that the algorithm does not take, with the nearest ones; for an encoder that does
            not fit the observations, with both shapes.
    """
    kind: Any
    kind, policy = ALGORITHMS[config.algorithm]
    learning = config.learning
    arguments: dict[str, Any] = {
        "learning_rate": learning.lr,
        "gamma": learning.gamma,
        "batch_size": learning.batch,
        "policy_kwargs": policy_options(config),
        "seed": derive(config.seed, "model") % 2**31,
        "device": config.device,
        **(_on_policy(config) if config.algorithm == "ppo" else _off_policy(config, env)),
        **parse_options(config),
    }
    model: Model = kind(policy, env, **arguments)
    return model


def policy_options(config: RLConfig) -> dict[str, Any]:
    """The arguments of the policy's class."""
    extractor: dict[str, Any] = {"encoder": config.encoder, "features": config.learning.features}
    if config.lidar.model != RINGS:
        extractor |= {"lidar": config.lidar, "sensor": sensor_of(config.task, config.env)}
    return {
        "net_arch": [config.learning.width] * 2,
        "optimizer_kwargs": {"fused": True},
        "encoder_pace": (config.learning.encoder_lr or config.learning.lr) / config.learning.lr,
        "features_extractor_kwargs": extractor,
    }


def parse_options(config: RLConfig) -> dict[str, Any]:
    """The config's `options` by name, their values read as JSON, or as text where they are none.

    Raises:
        UsageError: for one without `=`, or that the algorithm's class does not take, naming the nearest; for one that
            another option of ours gives.
    """
    own = {"self", "policy", "env", "policy_kwargs", "seed", "device", "_init_setup_model"}
    takes = [name for name in inspect.signature(ALGORITHMS[config.algorithm][0]).parameters if name not in own]
    parsed = {}
    for option in config.options:
        name, equals, value = option.partition("=")
        if not equals:
            raise UsageError(f"options are written name=value, got {option!r}")
        if name in SAID:
            raise UsageError(f"{name} is said by {SAID[name]}, on which more depends: leave it out of --options")
        if name not in takes:
            raise unknown(f"option of {config.algorithm}", name, [each for each in takes if each not in SAID])
        parsed[name] = _value(value)
    return parsed


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _on_policy(config: RLConfig) -> dict[str, Any]:
    return {
        "n_steps": config.rollout.steps,
        "n_epochs": config.rollout.epochs,
        "ent_coef": config.rollout.entropy,
    }


def _off_policy(config: RLConfig, env: VecEnv) -> dict[str, Any]:
    replay = config.replay
    arguments: dict[str, Any] = {
        "buffer_size": replay.size,
        "learning_starts": replay.warm_up,
        "train_freq": 1,
        "gradient_steps": replay.updates,
        "tau": replay.tau,
        "replay_buffer_class": FrameReplayBuffer,
        "replay_buffer_kwargs": {
            "shift": replay.shift,
            "n_steps": replay.n_steps,
            "gamma": config.learning.gamma,
        },
    }
    if config.algorithm == "sac":
        return arguments | {"ent_coef": FIRST_ENTROPY}
    size = int(np.prod(env.action_space.shape or ()))
    return arguments | {"action_noise": NormalActionNoise(np.zeros(size), np.full(size, NOISE))}


def policy_state(policy: BasePolicy) -> dict[str, Tensor]:
    """The policy's weights, each once: what PPO's policy knows by several names goes by the first."""
    state = policy.state_dict()
    first = _first_names(state)
    return {name: value for name, value in state.items() if first[name] == name}


def restore_policy(policy: BasePolicy, tensors: Mapping[str, Tensor], source: str) -> None:
    """The reverse of `policy_state`.

    Raises:
        UsageError: naming every missing, unexpected and misshapen tensor.
    """
    first = _first_names(policy.state_dict())
    named = {name: tensors[own] for name, own in first.items() if own in tensors}
    weights.assign(policy, {**tensors, **named}, source)


def _first_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """For each name the first one of the same tensor."""
    owners: dict[tuple[int, int], str] = {}
    return {name: owners.setdefault((value.data_ptr(), value.numel()), name) for name, value in state.items()}


def optimiser_state(model: Model) -> dict[str, Tensor]:
    """All that the model learns beside its policy's weights, as tensors by name, `_` for `.` in their owners' names."""
    names, variables = model._get_torch_save_params()
    tensors = {name: operator.attrgetter(name)(model).detach() for name in variables}
    for name in names:
        if name != "policy":
            own = optimizer_tensors(operator.attrgetter(name)(model), _learned(model))
            tensors |= {f"{name.replace('.', '_')}.{key}": value for key, value in own.items()}
    return tensors


def restore_optimisers(model: Model, tensors: Mapping[str, Tensor], source: str) -> None:
    """The reverse of `optimiser_state`.

    Raises:
        UsageError: as `load_optimizer` does.
    """
    names, variables = model._get_torch_save_params()
    with torch.no_grad():
        for name in variables:
            operator.attrgetter(name)(model).copy_(tensors[name])
    for name in names:
        if name != "policy":
            prefix = f"{name.replace('.', '_')}."
            own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            load_optimizer(operator.attrgetter(name)(model), _learned(model), own, source)


def _learned(model: Model) -> list[Named]:
    """All that an optimiser of the model may train, by name."""
    variables = model._get_torch_save_params()[1]
    return [*model.policy.named_parameters(), *((name, operator.attrgetter(name)(model)) for name in variables)]


def normaliser_state(normaliser: VecNormalize) -> dict[str, Tensor]:
    """The running statistics by name, each mean, variance and count."""
    moments = {"reward": normaliser.ret_rms, **_observed(normaliser)}
    return {
        f"normalise.{name}.{part}": torch.as_tensor(np.array(getattr(value, part), np.float64))
        for name, value in moments.items()
        for part in ("mean", "var", "count")
    }


def restore_normaliser(normaliser: VecNormalize, tensors: Mapping[str, Tensor]) -> None:
    """The reverse of `normaliser_state`."""
    for name, value in {"reward": normaliser.ret_rms, **_observed(normaliser)}.items():
        value.mean = tensors[f"normalise.{name}.mean"].numpy().copy()
        value.var = tensors[f"normalise.{name}.var"].numpy().copy()
        value.count = float(tensors[f"normalise.{name}.count"])


def _observed(normaliser: VecNormalize) -> dict[str, Any]:
    return dict(normaliser.obs_rms) if normaliser.norm_obs and isinstance(normaliser.obs_rms, dict) else {}
