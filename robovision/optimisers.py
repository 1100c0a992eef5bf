"""What trainings share: AdamW, one step of it, the learning rate over the steps, and checkpoints of both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robovision import weights
from robovision.errors import UsageError
from robovision.run import Run

EXPLODED = 1e6
"""A loss from which no training comes back; they start near 1."""
WARM_UP = 0.05
"""Share of the steps over which the learning rate rises."""
PACE = "pace"
"""What a group of parameters learns at, as a multiple of the learning rate."""

Named = tuple[str, Tensor]
"""A parameter after its name."""


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over a twentieth of the steps, times a cosine from 1 to 0."""
    rise = min(1.0, (step + 1) / (WARM_UP * steps))
    return peak * rise * 0.5 * (1 + math.cos(math.pi * step / steps))


def adamw(
    model: nn.Module,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
    paced: Iterable[nn.Parameter] = (),
    pace: float = 1.0,
) -> torch.optim.AdamW:
    """AdamW over what is to be trained, each group of parameters in one pass; weight decay on matrices only.

    Args:
        model: whose parameters that require gradients are trained.
        weight_decay: of the matrices.
        betas: AdamW's.
        paced: those of its parameters that learn at `pace` times the rate of the others, such as pretrained ones.
        pace: see `paced`.
    """
    slow = {id(p) for p in paced}
    trained = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = []
    for chosen, factor in ((False, 1.0), (True, pace)):
        parameters = [p for p in trained if (id(p) in slow) is chosen]
        groups.append({"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay, PACE: factor})
        groups.append({"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, PACE: factor})
    return torch.optim.AdamW([group for group in groups if group["params"]], betas=betas, fused=True)


def descend(loss: Tensor, model: nn.Module, optimizer: torch.optim.Optimizer, rate: float, norm: float) -> None:
    """One step against the gradient of a loss, clipped to a norm, at this learning rate times each group's pace.

    Raises:
        UsageError: if the gradient is not finite; the weights then stay as they were.
    """
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    found = nn.utils.clip_grad_norm_(model.parameters(), norm)
    if not found.isfinite():
        raise UsageError(f"the norm of the gradient is {found.item()}; the last checkpoint is intact")
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(PACE, 1.0)
    optimizer.step()


def check_loss(loss: Tensor, step: int, remedy: str) -> None:
    """Raise UsageError for a loss that is not finite or has exploded; `remedy` says which options to try."""
    if not loss < EXPLODED:
        raise UsageError(f"the loss is {loss.item():g} at step {step}; the last checkpoint is intact. Try {remedy}")


def save(
    run: Run,
    step: int,
    curve: list[dict[str, float]],
    seconds: float,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    keep: bool = False,
    average: nn.Module | None = None,
) -> None:
    """Write the checkpoint of a step; `keep` keeps its model for good.

    With a moving average of the weights, that is the checkpoint's model, and beside it lie the weights in training.

    Raises:
        UsageError: if a weight is no longer finite, or the checkpoint can't be written; those before it stay intact.
    """
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise UsageError(f"the weight {name} is not finite after {step} steps; the last checkpoint is intact")
    tensors = {
        "model": (average or model).state_dict(),
        "optimizer": optimizer_tensors(optimizer, model.named_parameters()),
    }
    if average is not None:
        tensors["trained"] = model.state_dict()
    run.save(step, {"curve": curve, "seconds": seconds}, tensors, keep)


def restore(
    run: Run, model: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None = None
) -> tuple[int, list[dict[str, float]], float]:
    """The newest checkpoint into model and optimiser; its step, curve and seconds, or nothing before the first.

    With a moving average of the weights, that gets the checkpoint's model.

    Raises:
        UsageError: if it is damaged or of another model.
    """
    checkpoint = run.latest()
    if checkpoint is None:
        return 0, [], 0.0
    weights.assign(average or model, checkpoint.tensors("model"), str(checkpoint.path))
    if average is not None:
        weights.assign(model, checkpoint.tensors("trained"), str(checkpoint.path))
    load_optimizer(optimizer, model.named_parameters(), checkpoint.tensors("optimizer"), str(checkpoint.path))
    return checkpoint.step, checkpoint.state["curve"], checkpoint.state["seconds"]


def optimizer_tensors(optimizer: torch.optim.Optimizer, named: Iterable[Named]) -> dict[str, Tensor]:
    """The optimizer's state as flat tensors, `parameter.moment`: `head.0.weight.exp_avg`.

    Args:
        optimizer: of these parameters, in whatever order and groups.
        named: all its parameters with their names, and others.
    """
    names = _names(optimizer, named)
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {f"{names[number]}.{moment}": value for number, entry in state.items() for moment, value in entry.items()}


def load_optimizer(
    optimizer: torch.optim.Optimizer, named: Iterable[Named], tensors: Mapping[str, Tensor], source: str
) -> None:
    """The reverse of `optimizer_tensors`: each parameter gets back its own moments, wherever it stands by now.

    A parameter without any begins anew: it never had a gradient.

    Raises:
        UsageError: naming the source, for moments of parameters that are not there or of another shape, or that go by
            number, as they did before they had names.
    """
    parts = {key: key.rpartition(".")[::2] for key in tensors}
    if any(name.isdecimal() for name, _ in parts.values()):
        raise UsageError(
            f"{source} keeps the optimiser's state by number, as earlier versions did, and which weights these were is "
            "not known: go on with the version that run.json names, or begin anew. Its weights can still be used"
        )
    named = list(named)
    numbers = {name: number for number, name in enumerate(_names(optimizer, named))}
    parameters = dict(named)
    state: dict[int, dict[str, Tensor]] = {}
    for key, (name, moment) in parts.items():
        if name not in numbers:
            raise UsageError(f"{source} holds {key}, but no such weight is trained")
        value, weight = tensors[key], parameters[name]
        if value.ndim and value.shape != weight.shape:
            raise UsageError(f"{source}: {key} is {list(value.shape)}, and its weight {list(weight.shape)}")
        state.setdefault(numbers[name], {})[moment] = _laid_out_as(weight, value) if value.ndim else value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _laid_out_as(weight: Tensor, value: Tensor) -> Tensor:
    """The values in the order in memory of the weight: the fused optimiser goes through both from end to end."""
    return torch.empty_like(weight, dtype=value.dtype, device=value.device, requires_grad=False).copy_(value)


def _names(optimizer: torch.optim.Optimizer, named: Iterable[Named]) -> list[str]:
    """The names of the optimizer's parameters, as it numbers them: group by group."""
    known = {id(parameter): name for name, parameter in named}
    return [known[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
