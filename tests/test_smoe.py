"""Spatial mixture of experts: what is chosen, how gates learn, and the encoder's contract."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robovision.encoders.smoe import SMoE, SpatialMixture
from robovision.errors import UsageError
from robovision.testing import check_encoder


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_the_encoder_keeps_the_contract_at_its_size_only() -> None:
    torch.manual_seed(0)
    check_encoder(SMoE(64), 64, 64)
    with pytest.raises(ValueError, match="made for images of 64 x 64 px, got 96 x 64"):
        SMoE(64)(torch.zeros(1, 3, 96, 64))


@pytest.mark.parametrize("routing", ["published", "straight", "sampled"])
def test_each_place_has_its_best_experts(routing: str) -> None:
    torch.manual_seed(0)
    layer = SpatialMixture(2, 3, (4, 5), 3, 1, routing=routing).eval()  # type: ignore[arg-type]
    maps = random(2, 2, 4, 5)
    planes = layer.conv(maps).view(2, 3, 3, 4, 5)
    best = layer.gate.argmax(0)
    expected = planes.gather(1, best.expand(2, 1, 3, 4, 5))[:, 0]
    assert torch.allclose(layer(maps), expected, atol=1e-6)
    assert (layer.selected().sum(0) == 1).all()


def test_published_gates_turn_from_wrong_experts_and_wrong_places_teach_nothing() -> None:
    torch.manual_seed(0)
    layer = SpatialMixture(1, 1, (4, 4), 2, 1, kernel=1, routing="published").train()
    before = layer.selected()
    signal = torch.zeros(1, 1, 4, 4)
    signal[..., 0, 0] = 1.0  # wrong at one place
    layer(torch.ones(1, 1, 4, 4)).backward(signal)
    assert layer.gate.grad is not None
    chosen = before.bool()
    assert float(layer.gate.grad[:, 0, 0][chosen[:, 0, 0]]) > 0  # descends
    assert float(layer.gate.grad[:, 0, 0][~chosen[:, 0, 0]]) < 0
    assert (layer.gate.grad[:, 1:, 1:][chosen[:, 1:, 1:]] < 0).all()
    assert layer.conv.weight.grad is not None and float(layer.conv.weight.grad.abs().max()) == 0


def test_straight_through_gates_follow_the_loss() -> None:
    """Two places that begin with the same expert want another multiple of the input each: the gates find the expert."""
    torch.manual_seed(0)
    layer = SpatialMixture(1, 1, (1, 2), 2, 1, kernel=1).train()
    with torch.no_grad():
        layer.gate.copy_(torch.tensor([0.1, 0.0])[:, None, None].expand_as(layer.gate))
    wanted = torch.tensor([[[[1.0, -1.0]]]])
    optimizer = torch.optim.Adam(layer.parameters(), 0.1)
    for _ in range(200):
        maps = torch.randn(16, 1, 1, 2)
        loss = (layer(maps) - wanted * maps).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (layer.gate.argmax(0)[0, 0] != layer.gate.argmax(0)[0, 1]).item()
    maps = random(8, 1, 1, 2)
    with torch.no_grad():
        off = layer.eval()(maps) - wanted * maps
    assert float(off.square().mean()) < 0.1 * float(maps.square().mean())


def test_sampled_gates_draw_experts_by_their_probability_and_only_in_training() -> None:
    torch.manual_seed(0)
    layer = SpatialMixture(1, 1, (100, 100), 3, 1, kernel=1, routing="sampled")
    with torch.no_grad():
        layer.conv.weight.zero_()
        layer.conv.bias.copy_(torch.tensor([1.0, 10.0, 100.0]))  # type: ignore[union-attr]
        layer.gate.copy_(torch.tensor([0.6, 0.3, 0.1]).log()[:, None, None].expand_as(layer.gate))
        drawn = layer.train()(torch.zeros(1, 1, 100, 100)).round()
        assert [float((drawn == value).float().mean()) for value in (1, 10, 100)] == pytest.approx(
            [0.6, 0.3, 0.1], abs=0.02
        )
        assert (layer.eval()(torch.zeros(1, 1, 100, 100)).round() == 1).all()


def test_wrong_numbers_and_grids_are_told() -> None:
    with pytest.raises(UsageError, match="choose 1 to 4 experts, got 5"):
        SpatialMixture(1, 1, (4, 4), 4, 5)
    with pytest.raises(UsageError, match=r"made for maps of \[4, 4\] places and don't fit \[4, 5\]"):
        SpatialMixture(1, 1, (4, 4))(torch.zeros(1, 1, 4, 5))
