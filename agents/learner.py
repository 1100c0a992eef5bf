"""A policy with its optimiser: one step of behaviour cloning at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from robovision import optimisers, recorded
from robovision.agents import distributed
from robovision.agents.clips import Batch
from robovision.agents.config import TrainConfig
from robovision.agents.policy import Policy, make_policy
from robovision.encoders.adapters import pretrained_parameters
from robovision.encoders.checkpoints import load_pretrained
from robovision.optimisers import adamw, check_loss, descend, learning_rate
from robovision.run import Run

Tensors = tuple[Tensor, ...] | list[Tensor]


def moving_average(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """What moves averaged tensors towards the present ones, as `AveragedModel` calls it.

    After n steps the decay is at most (1 + n) / (10 + n): with a constant one of 0.999 half of what is evaluated after
    700 steps would be the weights that the training began with.
    """

    def update(averages: Tensors, currents: Tensors, count: Tensor | int) -> None:
        steps = int(count)
        move = get_ema_multi_avg_fn(min(decay, (1 + steps) / (10 + steps)))  # type: ignore[no-untyped-call]
        move(averages, currents, count)

    return update


class Learner:
    """The policy of a config on its device, with pretrained weights if the config names any.

    Args:
        config: completely resolved.
        felt: numbers of proprioception.
        actions: all demonstrated actions [N, A].
        begun: a checkpoint to restore has all the weights, so that the pretrained ones need no longer be there.

    Raises:
        UsageError: if there are more processes than clips in a batch.
    """

    def __init__(self, config: TrainConfig, felt: int, actions: Tensor, begun: bool = False) -> None:
        self.config = config
        distributed.check_shares(config.optimisation.batch // config.optimisation.clip)
        policy = make_policy(config, felt, actions.shape[1])
        if config.encoder.weights is not None and not begun:
            load_pretrained(policy.encoder, recorded.locate(config.encoder.weights))
        if config.optimisation.scale_actions:
            policy.fit_actions(actions)
        self.policy: Policy = policy.to(config.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._plan: torch.nn.Module = self.policy
        if distributed.processes() > 1:
            distributed.share_statistics(self.policy)
            self._plan = DistributedDataParallel(self.policy, static_graph=True)
        self.optimizer = adamw(
            self.policy,
            config.optimisation.weight_decay,
            paced=() if config.encoder.weights is None else pretrained_parameters(self.policy.encoder),
            pace=config.optimisation.pace,
        )
        self._average: AveragedModel | None = None
        if config.optimisation.ema:
            towards = moving_average(config.optimisation.ema)
            self._average = AveragedModel(self.policy, multi_avg_fn=towards, use_buffers=True)

    def descend(self, batch: Batch, step: int, steps: int, encoded: bool = False) -> tuple[Tensor, float]:
        """One step of AdamW on the loss of one batch; the loss and the learning rate.

        Args:
            batch: the whole batch, of which each process takes its share.
            step: from 0 on, of `steps`.
            encoded: the batch's frames are the encoder's features already.

        Raises:
            UsageError: if the loss or its gradient is no longer finite; the weights stay as they were.
        """
        config = self.config.optimisation
        rate = learning_rate(step, steps, config.lr)
        self.policy.train()
        loss = self.loss(batch, encoded)
        remedy = f"a lower --optimisation.lr than {config.lr:g}, or --optimisation.precision float32"
        check_loss(loss, step, remedy)
        descend(loss, self.policy, self.optimizer, rate, config.gradient_norm)
        if self._average is not None:
            self._average.update_parameters(self.policy)
        return loss.detach(), rate

    def loss(self, batch: Batch, encoded: bool = False) -> Tensor:
        """The loss of this process's share, so weighted that the mean over the processes is that of the whole batch."""
        part = batch.share(distributed.rank(), distributed.processes()).to(self.config.device)
        half = self.config.optimisation.precision == "bfloat16"
        plans = self._plan(part.frames, part.valid, part.proprioception, encoded, half)
        weight = distributed.processes() * part.planned.sum() / batch.planned.sum()
        return self.policy.loss(plans, part.actions, part.planned) * weight

    def save(self, run: Run, step: int, curve: list[dict[str, float]], seconds: float, keep: bool) -> None:
        """Write the checkpoint of a step; see `robovision.optimisers.save`."""
        optimisers.save(run, step, curve, seconds, self.policy, self.optimizer, keep, self._averaged)

    def restore(self, run: Run) -> tuple[int, list[dict[str, float]], float]:
        """Go on from the newest checkpoint; see `robovision.optimisers.restore`."""
        step, curve, seconds = optimisers.restore(run, self.policy, self.optimizer, self._averaged)
        if self._average is not None:
            self._average.n_averaged.fill_(step)
        return step, curve, seconds

    @property
    def _averaged(self) -> torch.nn.Module | None:
        return None if self._average is None else self._average.module
