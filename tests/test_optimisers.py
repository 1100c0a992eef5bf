from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from robovision.errors import UsageError
from robovision.optimisers import adamw, check_loss, descend, learning_rate, load_optimizer, optimizer_tensors, save
from robovision.run import Run
from tests.helpers import TINY


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    layer = nn.Linear(2, 1)
    run = Run.create(tmp_path / "run", "train", TINY, space=0)
    nn.init.constant_(layer.bias, torch.inf)
    with pytest.raises(UsageError, match="the weight bias is not finite after 5 steps; the last checkpoint is intact"):
        save(run, 5, [], 0.0, layer, torch.optim.AdamW(layer.parameters()))
    assert not run.checkpoints()


def test_a_gradient_that_is_not_finite_leaves_the_weights_as_they_were() -> None:
    layer = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(layer.parameters())
    before = layer.weight.detach().clone()
    loss = (layer(torch.ones(1, 2)) * torch.tensor([[0.0]])).sqrt().sum()  # the root's slope at 0 is infinite
    assert loss.isfinite()
    with pytest.raises(UsageError, match="the norm of the gradient is nan"):
        descend(loss, layer, optimizer, 0.1, 1.0)
    assert torch.equal(layer.weight, before)
    with pytest.raises(UsageError, match=r"the loss is 1e\+07 at step 3"):
        check_loss(torch.tensor(1e7), 3, "less")


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [learning_rate(step, 100, 1.0) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == pytest.approx(rates[4])
    assert rates[-1] < 0.001


def step_of(layers: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    loss = layers(torch.linspace(-1, 1, 12).view(4, 3)).square().sum()
    descend(loss, layers, optimizer, 0.1, 1.0)


def same_shapes() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))


def test_moments_follow_their_weights_into_groups_of_another_order() -> None:
    """All matrices have one shape, so that only names can tell them apart."""
    layers, twins = same_shapes(), same_shapes()
    optimizer = adamw(layers, 0.0)
    for _ in range(3):
        step_of(layers, optimizer)
    twins.load_state_dict(layers.state_dict())
    other = torch.optim.AdamW([{"params": [p]} for p in reversed([*twins.parameters()])], weight_decay=0.0)
    kept = optimizer_tensors(optimizer, layers.named_parameters())
    kept = {name: value.clone() for name, value in kept.items()}  # as if it came from a file
    load_optimizer(other, twins.named_parameters(), kept, "here")
    step_of(layers, optimizer)
    step_of(twins, other)
    assert all(torch.equal(a, b) for a, b in zip(layers.parameters(), twins.parameters(), strict=True))


def test_moments_of_other_weights_are_refused() -> None:
    layers = same_shapes()
    optimizer = adamw(layers, 0.0)
    step_of(layers, optimizer)
    kept = optimizer_tensors(optimizer, layers.named_parameters())
    refusals = {
        r"here holds 5.weight.exp_avg, but no such weight is trained": kept | {"5.weight.exp_avg": torch.zeros(3, 3)},
        r"here: 0.bias.exp_avg is \[2\], and its weight \[3\]": kept | {"0.bias.exp_avg": torch.zeros(2)},
        r"here keeps the optimiser's state by number.*begin anew": {"0.exp_avg": torch.zeros(3, 3)},
    }
    for message, tensors in refusals.items():
        with pytest.raises(UsageError, match=message):
            load_optimizer(optimizer, layers.named_parameters(), tensors, "here")


def test_a_weight_that_never_had_a_gradient_begins_anew() -> None:
    layers = same_shapes()
    unused = nn.ModuleDict({"used": layers, "unused": nn.Linear(3, 3)})
    optimizer = adamw(unused, 0.0)
    loss = layers(torch.ones(1, 3)).sum()
    descend(loss, unused, optimizer, 0.1, 1.0)
    kept = optimizer_tensors(optimizer, unused.named_parameters())
    assert {name.split(".")[0] for name in kept} == {"used"}
    other = adamw(unused, 0.0)
    load_optimizer(other, unused.named_parameters(), kept, "here")
    assert optimizer_tensors(other, unused.named_parameters()).keys() == kept.keys()


def pictures_step(layers: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """A step on pictures whose gradient is longer than it may be, so that clipping counts."""
    torch.manual_seed(0)
    seen = torch.randn(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    descend(100 * layers(seen).square().mean(), layers, optimizer, 0.1, 1.0)


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    layers: nn.Module = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Tanh(), nn.Flatten(), nn.Linear(180, 2))
    return layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def test_the_fused_optimiser_takes_the_steps_of_the_plain_one() -> None:
    layers, twins = convolutions(), convolutions()
    fused = adamw(layers, 0.1, paced=layers[0].parameters(), pace=0.5)  # type: ignore[index]
    assert all(group["fused"] for group in fused.param_groups)
    groups = adamw(twins, 0.1, paced=twins[0].parameters(), pace=0.5).param_groups  # type: ignore[index]
    plain = torch.optim.AdamW([{**group, "fused": False} for group in groups])
    for _ in range(5):
        pictures_step(layers, fused)
        pictures_step(twins, plain)
    for own, other in zip(layers.parameters(), twins.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


def test_moments_from_a_file_lie_as_their_weights_do() -> None:
    """The fused optimiser goes through the memory of both; a file's tensors are row by row, these weights are not."""
    layers, twins = convolutions(), convolutions()
    optimizer, other = adamw(layers, 0.0), adamw(twins, 0.0)
    pictures_step(layers, optimizer)
    twins.load_state_dict(layers.state_dict())
    kept = {
        name: value.contiguous().clone(memory_format=torch.contiguous_format)
        for name, value in optimizer_tensors(optimizer, layers.named_parameters()).items()
    }
    load_optimizer(other, twins.named_parameters(), kept, "here")
    pictures_step(layers, optimizer)
    pictures_step(twins, other)
    assert all(torch.equal(a, b) for a, b in zip(layers.parameters(), twins.parameters(), strict=True))
