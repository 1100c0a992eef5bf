"""The groups' elements: axioms, their action on every kind of data, and what they do not act on."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from robovision.errors import UsageError
from robovision.symmetry.data import (
    Boxes,
    FlowField,
    Image,
    Items,
    Keypoints,
    Kind,
    Points,
    RegularMap,
    States,
    Tokens,
    Vectors,
)
from robovision.symmetry.elements import Element, Permutation, SceneFlow
from robovision.symmetry.groups import GROUPS, O3, SE3, find_group, turns
from robovision.symmetry.plane import CyclicShift, Flip, Rotation, Translation, Zoom
from robovision.symmetry.planegroup import PlaneGroup
from robovision.symmetry.space import Isometry, Similarity

SIZE = (9, 7)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def elements(name: str, data: Tensor) -> list[Element]:
    group = find_group(name)
    return [element for size in group.magnitudes for element in group.at(size, data)]


PLANE = ["SO(2)", "flip", "scale", "shifts", "C8", "D4"]
SPACE = ["SO(3)", "SE(3)", "O(3)", "yaw", "ground shifts", "scale of space", "mirror"]
DATA: dict[str, tuple[Kind, Tensor, list[str]]] = {
    "keypoints": (Keypoints(SIZE), random(5, 2), PLANE),
    "points": (Points(), random(5, 3), [*SPACE, "permutation", "scene flow"]),
    "vectors": (Vectors(), random(5, 3), [*SPACE, "permutation", "scene flow"]),
    "states": (States(), random(5, 6), [*SPACE, "permutation", "scene flow"]),
    "items": (Items(), random(2, 6, 3), ["permutation"]),
    "boxes": (Boxes(), random(5, 7), ["yaw", "ground shifts", "scale of space", "mirror", "permutation"]),
    "torus": (Image(), random(1, 2, 8, 9), ["cyclic shifts"]),
    "square": (Image(), random(1, 2, 9, 9), ["C4", "D4", "flip"]),
    "field": (FlowField(), random(1, 2, 9, 9), ["C4", "D4", "flip"]),
    "tokens": (Tokens(8.0), random(1, 81, 3), ["C4", "D4", "flip"]),
    "regular C8": (RegularMap(PlaneGroup(8)), random(1, 16, 9, 9), ["C4"]),
    "regular D4": (RegularMap(PlaneGroup(4, True)), random(1, 16, 9, 9), ["D4"]),
}
CASES = [(kind, name) for kind, (_, _, names) in DATA.items() for name in names]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_the_action_keeps_the_groups_axioms(kind: str, name: str) -> None:
    action, data, _ = DATA[kind]
    found = elements(name, data)
    odd = kind == "torus"  # the highest frequency of an even side does not come back
    for g in found:
        moved = action.act(g, data)
        back = action.comparable(action.act(g.inverse(), moved))
        limit = 0.5 if odd else 1e-9
        assert torch.allclose(back, action.comparable(data), atol=limit)
        for h in found[:3]:
            one, two = action.act(g @ h, data), action.act(g, action.act(h, data))
            assert torch.allclose(action.comparable(one), action.comparable(two), atol=limit)


@pytest.mark.parametrize("name", ["SO(2)", "shifts", "flip", "scale", "C8", "D4"])
def test_keypoints_move_with_the_picture(name: str) -> None:
    """A blob goes where its keypoint goes."""
    axis = torch.arange(61).double()
    for element in elements(name, random(1, 1, 61, 61)):
        place = torch.tensor([33.0, 25.0]).double()
        blob = torch.exp(-((axis[None, :] - place[0]) ** 2 + (axis[:, None] - place[1]) ** 2) / 8)[None, None]
        moved = Image().act(element, blob)[0, 0]
        centre = torch.stack([(moved * axis[None, :]).sum(), (moved * axis[:, None]).sum()]) / moved.sum()
        assert torch.allclose(centre, element.keypoints(place, (61, 61)), atol=0.05)


def test_fractional_shifts_of_the_torus_compose_and_are_those_of_a_wave() -> None:
    x = torch.arange(16).double()
    wave = (2 * math.pi * 3 * x / 16).cos().expand(1, 1, 4, 16)
    moved = CyclicShift(0.0, 0.3).maps(wave)[0]
    assert torch.allclose(moved[0, 0, 1], (2 * math.pi * 3 * (x - 0.3) / 16).cos(), atol=1e-12)
    eight = wave
    for _ in range(8):
        eight = CyclicShift(0.125, 0.125).maps(eight)[0]
    assert torch.allclose(eight, wave.roll((1, 1), (2, 3)), atol=1e-12)


def test_a_token_grid_turns_like_its_image() -> None:
    tokens = torch.arange(9).double().view(1, 9, 1)
    turned = Tokens(4.0).act(Rotation(90), tokens)
    assert turned.flatten().tolist() == pytest.approx([2, 5, 8, 1, 4, 7, 0, 3, 6])


def test_a_turned_field_is_the_field_of_turned_vectors() -> None:
    field = torch.zeros(1, 2, 3, 3).double()
    field[0, 0, 1, 2] = 1.0  # at the right, to the right
    turned = FlowField().act(Rotation(90), field)
    expected = torch.zeros(1, 2, 3, 3).double()
    expected[0, 1, 0, 1] = -1.0  # at the top, upwards
    assert torch.allclose(turned, expected, atol=1e-9)


def test_boxes_follow_isometries_that_stay_level() -> None:
    boxes = random(4, 7)
    up = torch.tensor([0.0, 0.0, 1.0])
    moved = Isometry(Isometry.turn(up, 30).matrix, torch.tensor([1.0, 2.0, 3.0]).double()).boxes(boxes)
    expected = Similarity(math.radians(30), (1.0, 2.0, 3.0)).boxes(boxes)
    assert torch.allclose(Boxes().comparable(moved), Boxes().comparable(expected))
    with pytest.raises(UsageError, match="tilts the ground"):
        Isometry.turn(torch.tensor([1.0, 0.0, 0.0]), 30).boxes(boxes)
    with pytest.raises(ValueError, match=r"boxes must be floating point \[N, 7\]"):
        Isometry.turn(up, 30).boxes(boxes[:, :6])


def test_groups_have_the_right_hands() -> None:
    data = random(5, 3)
    assert all(torch.linalg.det(g.matrix) < 0 for g in elements("O(3)", data) if isinstance(g, Isometry))
    assert all(torch.linalg.det(g.matrix) > 0 for g in elements("SE(3)", data) if isinstance(g, Isometry))
    assert len(elements("D4", data)) == 7
    assert len(elements("C8", data)) == 7
    assert {O3.name, SE3.name} <= set(GROUPS)


@pytest.mark.parametrize(
    ("kind", "element", "data", "message"),
    [
        (Points(), Translation(1, 0), random(4, 3), "Translation does not act on points"),
        (Keypoints(SIZE), Similarity(), random(4, 2), "Similarity does not act on keypoints"),
        (Image(), Permutation((1, 0)), random(1, 1, 4, 4), "Permutation does not act on images and maps"),
        (Boxes(), SceneFlow(random(4, 3), 1.0), random(4, 7), "SceneFlow does not act on boxes"),
        (Items(), Flip(), random(4, 3), "Flip does not act on sets of items"),
        (Vectors(), CyclicShift(1, 1), random(4, 3), "CyclicShift does not act on vectors"),
        (FlowField(), CyclicShift(1, 1), random(1, 2, 4, 4), "CyclicShift does not act on directions"),
        (Items(), Permutation((1, 0)), random(4, 3), "permutation of 2 things does not act on 4"),
        (Points(), SceneFlow(random(5, 3), 1.0), random(4, 3), r"flow of \[5, 3\] does not act on points of \[4, 3\]"),
        (Tokens(8.0), Flip(), random(1, 10, 2), "10 tokens fill no square grid"),
        (Tokens(8.0, (2, 3)), Flip(), random(1, 10, 2), "10 tokens fill no grid of 2 x 3"),
        (Tokens(8.0), Flip(), random(10, 2), r"tokens must be \[B, N, D\], got \[10, 2\]"),
        (Image(), Flip(), random(3, 4, 4), r"must be \[B, C, H, W\], got \[3, 4, 4\]"),
        (FlowField(), Flip(), random(1, 3, 4, 4), "has 2 channels"),
        (RegularMap(PlaneGroup(8)), Rotation(30), random(1, 8, 5, 5), "none of its elements"),
        (RegularMap(PlaneGroup(8)), Flip(), random(1, 8, 5, 5), "none of its elements"),
        (RegularMap(PlaneGroup(8)), Flip(), random(1, 9, 5, 5), "9 channels are no fields of 8 elements"),
        (Points(), Similarity(), random(4, 2), r"points must be \[..., 3\], got \[4, 2\]"),
        (States(), Similarity(), random(4, 3), r"states must be \[..., 6\]"),
    ],
)
def test_what_a_group_does_not_act_on_is_said(kind: Kind, element: Element, data: Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kind.act(element, data)


def test_wrong_elements_and_names_are_refused() -> None:
    with pytest.raises(UsageError, match=r"names each of 0\.\.1 once"):
        Permutation((0, 0))
    with pytest.raises(UsageError, match="of 2 and of 3 things"):
        _ = Permutation((0, 1)) @ Permutation((0, 1, 2))
    with pytest.raises(UsageError, match="positive factor, got 0"):
        Zoom(0)
    with pytest.raises(UsageError, match="orthogonal matrix"):
        Isometry(2 * torch.eye(3).double(), torch.zeros(3).double())
    with pytest.raises(UsageError, match=r"unknown group 'SO\(4\)'; nearest: SO"):
        find_group("SO(4)")
    assert find_group("C6").magnitudes == turns("C6").magnitudes == (60, 120, 180, 240, 300)
