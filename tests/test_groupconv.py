"""Group convolutions: C_N and D_N answer in kind, and the plain form gives the same."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from robovision.errors import UsageError
from robovision.symmetry.groupconv import FieldNorm, GroupMax, LiftingConv, PlaneGroup, RegularConv, export, harmonics
from robovision.symmetry.plane import Rotation, act
from robovision.testing import assert_equivariant, equivariance_error

GROUPS = ["C1", "C4", "C8", "D1", "D4", "D8"]


def network(name: str, kernel: int = 5, layers: int = 3, fields: int = 2) -> nn.Sequential:
    """A regular network with weights and batch statistics drawn at random."""
    group = PlaneGroup.parse(name)
    parts: list[nn.Module] = [LiftingConv(group, 1, fields, kernel), FieldNorm(group, fields), nn.ReLU()]
    for _ in range(layers - 2):
        parts += [RegularConv(group, fields, fields, kernel), FieldNorm(group, fields), nn.ReLU()]
    whole = nn.Sequential(*parts, RegularConv(group, fields, fields, kernel))
    for part in whole:
        if isinstance(part, FieldNorm):
            nn.init.normal_(part.weight, 1, 0.1)
            nn.init.normal_(part.bias, 0, 0.1)
            nn.init.normal_(part.running_mean, 0, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(part.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return whole.eval()


def smooth_noise(side: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Noise without frequencies that a turn on pixels would lose."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, 1, side, side, generator=generator)
    axis = torch.arange(-6, 7).float()
    blur = torch.exp(-(axis**2) / (2 * 1.5**2))
    blur = (blur[:, None] * blur)[None, None]
    return torch.nn.functional.conv2d(noise - 0.5, blur / blur.sum(), padding=6).to(dtype) * 10


@pytest.mark.parametrize("name", GROUPS)
def test_quotients_are_those_of_a_group(name: str) -> None:
    group = PlaneGroup.parse(name)
    table = group.quotients()
    everyone = torch.arange(group.size)
    assert (table.sort(dim=1).values == everyone).all()
    assert (table.diagonal() == 0).all()
    assert (table[0] == everyone).all()
    for g in range(group.size):  # (a^-1 g)^-1 (a^-1 h) = g^-1 h
        moved = table[g]
        assert (table[moved[:, None], moved[None, :]] == table).all()


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quarter_turns_and_reflections_are_exact(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    group = PlaneGroup.parse(name)
    layers = network(name).to(dtype)
    image = torch.rand(2, 1, 21, 24, dtype=dtype)
    for element in range(group.size):
        if round(math.degrees(float(group.angles()[element]))) % 180 == 0:
            assert_equivariant(
                layers,
                image,
                lambda x, g=element: group.act_on_plane(g, x),  # type: ignore[misc]
                lambda x, g=element: group.act_on_regular(g, x),  # type: ignore[misc]
                tolerance=None if dtype == torch.float32 else 1e-6,  # the basis is kept in float32
            )


@pytest.mark.parametrize("name", ["C4", "C8", "D4"])
def test_a_quarter_turn_of_a_square_is_exact(name: str) -> None:
    torch.manual_seed(0)
    group = PlaneGroup.parse(name)
    quarter = group.order // 4
    image = torch.rand(1, 1, 23, 23)
    assert_equivariant(
        network(name),
        image,
        lambda x: x.rot90(1, (2, 3)),
        lambda x: group.act_on_regular(quarter, x),
        tolerance=1e-5,
    )
    pooled = nn.Sequential(network(name), GroupMax(group))
    assert_equivariant(pooled, image, lambda x: x.rot90(1, (2, 3)), tolerance=1e-5)


@pytest.mark.parametrize("name", ["C8", "D4"])
def test_shifts_move_the_maps(name: str) -> None:
    torch.manual_seed(0)
    assert_equivariant(network(name), torch.rand(1, 1, 30, 30), lambda x: x[..., 3:, 5:], tolerance=1e-5)


def spot(side: int) -> Tensor:
    """Smooth noise that fades towards the edges, so that a turn brings nothing in from outside."""
    axis = torch.linspace(-1, 1, side)
    radius = torch.hypot(axis[:, None], axis)
    return smooth_noise(side) * (1 - (radius / 0.75).clamp(max=1) ** 2) ** 2


def answer(whole: nn.Module, image: Tensor) -> Tensor:
    """What a network says of an image, beyond what it says of none."""
    answered: Tensor = whole(image) - whole(torch.zeros_like(image))
    return answered


@pytest.mark.parametrize(("name", "tolerance"), [("C4", 0.25), ("C8", 0.15), ("D8", 0.15), ("C16", 0.08)])
@pytest.mark.parametrize("degrees", [22.5, 30.0, 45.0, 137.0])
def test_any_turn_moves_the_maximum_over_the_group(name: str, tolerance: float, degrees: float) -> None:
    torch.manual_seed(0)
    whole = nn.Sequential(network(name), GroupMax(PlaneGroup.parse(name)))
    assert_equivariant(
        lambda image: answer(whole, image), spot(81), lambda x: act(Rotation(degrees), x)[0], tolerance=tolerance
    )


class FreeKernels(nn.Module):
    """The alternative: one free kernel, turned by bilinear interpolation."""

    def __init__(self, group: PlaneGroup, inputs: int, fields: int, kernel: int) -> None:
        super().__init__()
        free = torch.randn(fields * inputs, 1, kernel, kernel)
        turns = [act(Rotation(math.degrees(float(a))), free)[0] for a in group.angles()]
        bank = torch.stack(turns).view(group.size, fields, inputs, kernel, kernel)
        quotients = group.quotients()
        if inputs == 1:
            self.weight = bank.transpose(0, 1).flatten(0, 1)
        else:
            per_field = bank.view(group.size, fields, inputs // group.size, group.size, kernel, kernel)
            rows = [per_field[g][:, :, quotients[g]].flatten(1, 2) for g in range(group.size)]
            self.weight = torch.stack(rows, dim=1).flatten(0, 1)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(maps, self.weight / self.weight[0].norm())


@pytest.mark.parametrize("degrees", [22.5, 30.0, 45.0])
def test_turns_are_closer_than_with_free_kernels(degrees: float) -> None:
    torch.manual_seed(0)
    group = PlaneGroup.parse("C8")
    ours = nn.Sequential(network("C8"), GroupMax(group))
    free = nn.Sequential(
        FreeKernels(group, 1, 2, 5),
        nn.ReLU(),
        FreeKernels(group, 16, 2, 5),
        nn.ReLU(),
        FreeKernels(group, 16, 2, 5),
        GroupMax(group),
    )
    errors = [
        equivariance_error(lambda image, net=net: answer(net, image), spot(81), lambda x: act(Rotation(degrees), x)[0])  # type: ignore[misc]
        for net in (ours, free)
    ]
    assert errors[0] < errors[1]


def test_harmonics_of_a_frequency_vanish_in_the_middle_and_turn_exactly() -> None:
    basis = harmonics(PlaneGroup.parse("C8"), 5)
    assert basis.shape == (8, 1 + 5 + 7, 5, 5)
    assert (basis[0, :, 2, 2].abs() > 1e-12).sum() == 3  # one a ring: frequency 0
    assert torch.allclose(basis[2], basis[0].rot90(1, (1, 2)), atol=1e-12)
    first, turned = basis[0].flatten(1), basis[1].flatten(1)
    solution = torch.linalg.lstsq(first.T, turned.T).solution
    assert torch.allclose(first.T @ solution, turned.T, atol=1e-9)  # steerable: the turned basis is in its span


@pytest.mark.parametrize("name", ["C8", "D4"])
def test_plain_convolutions_give_the_same(name: str) -> None:
    torch.manual_seed(0)
    layers, image = network(name), torch.rand(2, 1, 26, 31)
    plain = export(layers)
    assert {type(part) for part in plain} == {nn.Conv2d, nn.ReLU}
    with torch.no_grad():
        assert torch.allclose(plain(image), layers(image), atol=1e-5)


def test_the_training_form_learns() -> None:
    layers = network("C4").train()
    layers(torch.rand(2, 1, 20, 20)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layers.parameters())


@pytest.mark.parametrize("name", ["E8", "C0", "c8", "D", "C100"])
def test_unknown_groups_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="no group of the plane"):
        PlaneGroup.parse(name)


def test_wrong_layers_are_refused() -> None:
    group = PlaneGroup.parse("C4")
    with pytest.raises(UsageError, match="odd"):
        LiftingConv(group, 1, 1, 4)
    with pytest.raises(UsageError, match="order"):
        PlaneGroup(0)
    with pytest.raises(UsageError, match="only after"):
        export(nn.Sequential(nn.ReLU(), FieldNorm(group, 2)))
