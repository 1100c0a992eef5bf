"""Motions of the plane acting on maps, and what is measured of a ViT's tokens."""

from __future__ import annotations

import copy
import csv
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from robovision.agents.policy import make_policy
from robovision.cli import main
from robovision.encoders.adapters import adapt
from robovision.encoders.build import build
from robovision.encoders.names import ENCODERS
from robovision.encoders.vit import Attention, Block, ViT, ViTSize
from robovision.errors import UsageError
from robovision.images import read_image
from robovision.run import Run
from robovision.symmetry.plane import Rotation, Translation, act
from robovision.symmetry.tokens import (
    attention_rollout,
    canvas_side,
    depths,
    equivariance_by_depth,
    fit,
    inspect,
    middle,
    relative_log_amplitude,
    token_maps,
)
from tests.helpers import TINY

SMALL = ViTSize(32, 2, 2)
SIZE = 64


@pytest.mark.parametrize("shape", [(5, 5), (4, 6)])
def test_a_shift_by_whole_cells_moves_them(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 3, *shape, dtype=torch.float64)
    moved, inside = act(Translation(8.0, -4.0), maps, cell=4.0)
    assert torch.allclose(moved[..., 2:, :-1], maps[..., :-2, 1:], atol=1e-12)
    assert inside.sum() == (shape[0] - 2) * (shape[1] - 1)
    assert moved[..., ~inside].abs().sum() == 0


@pytest.mark.parametrize("side", [4, 5])
@pytest.mark.parametrize("quarters", [-1, 1, 2, 3])
def test_quarter_turns_are_counter_clockwise_and_exact(side: int, quarters: int) -> None:
    torch.manual_seed(0)
    maps = torch.randn(1, 2, side, side, dtype=torch.float64)
    moved, inside = act(Rotation(90.0 * quarters), maps)
    assert torch.allclose(moved, maps.rot90(quarters, (2, 3)), atol=1e-9)
    assert inside.all()


def test_half_a_cell_lies_between_two() -> None:
    moved, inside = act(Translation(0.0, 0.5), torch.tensor([[[[1.0, 3.0, 7.0]]]]))
    assert moved[0, 0, 0].tolist() == pytest.approx([0, 2, 5], abs=1e-6)
    assert inside.tolist() == [[False, True, True]]


def canvas(vit: ViT) -> torch.Tensor:
    side = canvas_side(SIZE, vit.patch)
    return torch.rand(1, 3, side, side)


def errors(vit: ViT, motion: Translation | Rotation) -> list[float]:
    picture = canvas(vit)
    with torch.no_grad():
        return equivariance_by_depth(vit, picture, SIZE, token_maps(vit, middle(picture, SIZE)), [motion])


def test_whole_patches_move_patches_exactly_and_positions_break_it() -> None:
    torch.manual_seed(0)
    vit = ViT(SMALL, patch=8, image_size=SIZE).eval()
    patches, entering, *_ = errors(vit, Translation(8, -8))
    assert patches < 1e-4
    assert entering > 0.1
    nn.init.zeros_(vit.pos_embed)
    assert errors(vit, Translation(8, -8))[1] < 1e-4
    assert errors(vit, Translation(4, 0))[0] > 0.5


def test_symmetric_patches_turn_exactly() -> None:
    torch.manual_seed(0)
    vit = ViT(SMALL, patch=8, image_size=SIZE).eval()
    assert errors(vit, Rotation(90))[0] > 0.5
    weight = vit.patch_embed.proj.weight
    weight.data = torch.stack([weight.data.rot90(k, (2, 3)) for k in range(4)]).mean(0)
    assert errors(vit, Rotation(90))[0] < 1e-4


def test_unrelated_tokens_have_an_error_of_the_root_of_two() -> None:
    """A patch of noise shifted by half a patch and interpolated would not do: tokens by chance, one a cell."""
    torch.manual_seed(0)
    vit = ViT(SMALL, patch=8, image_size=SIZE).eval()
    with torch.no_grad():
        unrelated = token_maps(vit, torch.rand(1, 3, SIZE, SIZE))
        value = equivariance_by_depth(vit, canvas(vit), SIZE, unrelated, [Translation(8, 0)])[0]
    assert value == pytest.approx(math.sqrt(2), abs=0.05)


def test_amplitudes_of_a_checkerboard_are_known() -> None:
    i = torch.arange(8)
    board = 1 + 0.25 * (-1.0) ** (i[:, None] + i)
    amplitude = relative_log_amplitude(board.expand(1, 1, 3, 8, 8))
    assert amplitude.shape == (1, 5)
    assert float(amplitude[0, 0]) == 0
    assert float(amplitude[0, 4]) == pytest.approx(math.log(0.25), abs=1e-5)
    spike = torch.zeros(1, 1, 1, 7, 7)
    spike[..., 3, 2] = 5.0
    assert torch.allclose(relative_log_amplitude(spike), torch.zeros(1, 4), atol=1e-5)


def test_attention_weights_are_those_that_attention_uses() -> None:
    torch.manual_seed(0)
    layer = Attention(32, 4).double()
    x = torch.randn(2, 5, 32, dtype=torch.float64)
    value = layer.qkv(x)[..., 64:].view(2, 5, 4, 8).transpose(1, 2)
    expected = layer.proj((layer.weights(x) @ value).transpose(1, 2).reshape(2, 5, 32))
    assert torch.allclose(layer(x), expected, atol=1e-12)


@torch.no_grad()
def test_rollout_of_two_blocks_by_hand() -> None:
    torch.manual_seed(0)
    vit = ViT(SMALL, patch=16, image_size=SIZE).eval()
    images = torch.rand(2, 3, SIZE, SIZE)
    x = vit.embed(vit.normalise(images[:1]))
    path = torch.eye(17)
    for block in vit.blocks:
        assert isinstance(block, Block)
        mean = block.attn.weights(block.norm1(x))[0].mean(0)
        path = (mean + torch.eye(17)) / 2 @ path
        x = block(x)
    rollout = attention_rollout(vit, images)
    assert torch.allclose(rollout.flatten(), path[0, 1:] / path[0, 1:].sum(), atol=1e-6)
    assert float(rollout.sum()) == pytest.approx(1)


@pytest.mark.parametrize("kind", ["none", "coin", "adaptformer", "roboadapter", "lora"])
def test_every_adapter_can_be_inspected(kind: str) -> None:
    torch.manual_seed(0)
    vit = ViT(SMALL, patch=16, image_size=SIZE)
    if kind == "coin":
        built = build("vit-tiny", SIZE, "coin")
        assert isinstance(built, ViT)
        vit = built
    elif kind != "none":
        adapt(vit, kind)
    steps: list[int] = []
    found = inspect(vit, canvas(vit), SIZE, lambda: steps.append(1))
    assert len(steps) == 10
    places = len(depths(vit))
    assert all(len(values) == places and torch.tensor(values).isfinite().all() for values in found.rotation.values())
    assert list(found.translation) == [1, 4, 8, 16, 32]
    assert found.amplitude.shape == (places, 3)
    assert found.rollout.shape == (4, 4)


@pytest.mark.parametrize("family", ["clip", "dinov2", "dinov2-reg", "plain"])
def test_every_family_of_names_can_be_inspected(family: str) -> None:
    from robovision.encoders.build import STYLES

    patch = next(spec.patch for spec in ENCODERS.values() if spec.family == family)
    vit = ViT(SMALL, patch=patch, image_size=4 * patch, style=STYLES[family])
    side = canvas_side(4 * patch, patch)
    found = inspect(vit, torch.rand(1, 3, side, side), 4 * patch)
    assert found.translation[float(patch)][0] < 1e-4
    with pytest.raises(UsageError, match="at least 4 patches"):
        inspect(vit, torch.rand(1, 3, side, side), 3 * patch)
    with pytest.raises(ValueError, match="the picture must be"):
        inspect(vit, torch.rand(1, 3, side, side + 1), 4 * patch)


def test_a_picture_of_any_shape_is_fitted() -> None:
    assert fit(torch.zeros(3, 10, 37, dtype=torch.uint8), 64).shape == (1, 3, 64, 64)
    same = torch.randint(256, (3, 64, 64), dtype=torch.uint8)
    assert torch.equal(fit(same, 64)[0], same)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    from PIL import Image

    path = tmp_path / "photo.png"
    Image.effect_noise((150, 90), 50).save(path)
    return path


def test_the_command_leaves_a_picture_and_every_number(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["symmetry", "vit-tiny", "--image", str(photo), "--size", "64", "--out", str(out)]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert "| patches | " in output
    assert "0.00 / 0.00" in output
    assert "random weights" in output
    assert (out / "symmetry.png").read_bytes().startswith(b"\x89PNG")
    with (out / "symmetry.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 14 * (5 + 5 + 3)
    assert {row["encoder"] for row in rows} == {"plain", "CoIn"}


def test_a_run_is_inspected_without_its_coin_too(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run.create(tmp_path / "run", "train", TINY, space=0)
    arguments = ["symmetry", str(run.path), "--image", str(photo), "--size", "64", "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "no checkpoint yet" in capsys.readouterr().err
    policy = make_policy(TINY, 4, 4)
    run.save(1, {}, {"model": copy.deepcopy(policy.state_dict())}, keep=True)
    assert main(arguments) == 0
    assert "without CoIn / CoIn" in capsys.readouterr().out
    assert main([*arguments, "--weights", "x.pt"]) == 2
    assert main([*arguments[:4], "--size", "32"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vit-tyni"], "nearest: vit-tiny"),
        (["vit-tiny", "--on", "sweep.bin"], "vit-tiny sees images, and sweep.bin is a point cloud"),
        (["vit-tiny", "--image", "none.png"], "there is no image none.png"),
        (["vit-tiny", "--image", "pyproject.toml"], "is no readable image"),
        (["vit-tiny", "--size", "50"], "--size must be a multiple of the patch"),
        (["clip-vit-b16"], "weights fetch clip-vit-b16"),
    ],
)
def test_what_cannot_be_inspected_is_said(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ROBOVISION_CACHE", str(tmp_path))
    assert main(["symmetry", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_truncated_image_is_named(photo: Path) -> None:
    photo.write_bytes(photo.read_bytes()[:200])
    with pytest.raises(UsageError, match=r"photo\.png is no readable image"):
        read_image(photo)
    photo.write_bytes(b"")
    with pytest.raises(UsageError, match="is no readable image"):
        read_image(photo)
