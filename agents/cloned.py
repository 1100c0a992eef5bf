"""The policy of a behaviour cloning in use: it embeds each image once and keeps the last ones' vectors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robovision import weights
from robovision.agents.agent import Actions, Agent, Observation, find_step
from robovision.agents.config import TrainConfig
from robovision.agents.policy import Ensemble, History, Policy, make_policy
from robovision.devices import Device
from robovision.errors import UsageError
from robovision.run import Run


def load(run: Run, checkpoint: str, device: Device, half: bool) -> Agent:
    """The policy of a run of `robovision train`."""
    found = run.at(find_step(run, checkpoint))
    config = run.config(TrainConfig)
    return ClonedAgent(policy_of(config, found.tensors("model"), found.path).to(device), config.env.size, half)


def policy_of(config: TrainConfig, tensors: Mapping[str, Tensor], source: Path) -> Policy:
    """The policy that has these weights, in evaluation; how much it feels and does is read off them.

    Raises:
        UsageError: if the weights don't fit the config, naming those at fault.
    """
    try:
        inputs, actions = len(tensors["head.0.weight"]), len(tensors["action_mean"])
    except KeyError as error:
        raise UsageError(f"{source} holds no policy of `robovision train`: it lacks {error}") from None
    policy = make_policy(config, 0, actions)
    felt = inputs - policy.inputs
    if felt > 0:
        policy = Policy(policy.encoder, policy.tokens, config.history, felt, actions, config.chunk)
    weights.assign(policy, tensors, str(source))
    return policy.eval()


class ClonedAgent(Agent):
    """A policy that sees square images of `size` pixels, on request in bfloat16."""

    def __init__(self, policy: Policy, size: int, half: bool = False) -> None:
        self.policy = policy
        if half:
            policy.encoder.bfloat16()
        if half and policy.readout is not None:
            policy.readout.bfloat16()
        self.size = size
        self.reset()

    def reset(self) -> None:
        self._history, self._ensemble = History(self.policy.history), Ensemble(self.policy.chunk)

    @torch.inference_mode()
    def act(self, observations: Observation) -> Actions:
        images, felt = (value.to(self.policy.action_mean.device) for value in self._check(observations))
        embedded = self.policy.embed(images).to(felt.dtype)
        plan = self.policy.plan(self._history.push(embedded), felt)
        actions: Actions = self._ensemble.push(plan).clamp(-1, 1).cpu().numpy()
        return actions

    def _check(self, observations: Observation) -> tuple[Tensor, Tensor]:
        """Images and proprioception, or UsageError if they are not what the policy was trained on."""
        if "pixels" not in observations:
            raise UsageError(
                f"the policy sees pixels, and the observation holds {', '.join(observations) or 'nothing'}"
            )
        pixels = np.asarray(observations["pixels"])
        wanted = (3, self.size, self.size)
        if pixels.shape[1:] != wanted or pixels.dtype != np.uint8:
            raise UsageError(
                f"the policy sees pixels uint8 {list(wanted)}, and they are {pixels.dtype} {list(pixels.shape[1:])}"
            )
        nothing = np.zeros((len(pixels), 0), np.float32)
        felt = np.asarray(observations.get("proprioception", nothing), np.float32) if self.policy.felt else nothing
        if felt.shape[1:] != (self.policy.felt,):
            raise UsageError(
                f"the policy feels {self.policy.felt} numbers of proprioception, and there are {list(felt.shape[1:])}"
            )
        return torch.from_numpy(pixels), torch.from_numpy(felt)
