"""`robovision symmetry` on any module: layer by layer, in decibel, and on clouds."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robovision.cli import main
from robovision.encoders.base import Features
from robovision.lidar.clouds import write_cloud
from robovision.symmetry.data import Image, Points, Same
from robovision.symmetry.decibel import PERFECT, decibels, fine_act
from robovision.symmetry.groups import FLIP, GROUND, PERMUTATION, SO3, Group, shifts
from robovision.symmetry.plane import Rotation, Translation
from robovision.symmetry.probe import Views, cloud_views, image_views, probe, record
from robovision.types import PointCloud
from tests import symmetry_models

MODELS = "tests.symmetry_models"


def picture(side: int, channels: int = 3) -> Tensor:
    """Smooth noise in 0..1."""
    noise = torch.rand(1, channels, side + 8, side + 8, generator=torch.Generator().manual_seed(0))
    return nn.functional.avg_pool2d(nn.functional.avg_pool2d(noise, 5, 1), 5, 1)


def errors(model: nn.Module, views: Views, group: Group) -> dict[str, float]:
    found = probe(model, views, (group,))
    return {layer.name: found.errors[layer.name, group.name, group.magnitudes[-1]] for layer in found.layers}


def test_each_layer_is_measured_and_what_is_equivariant_is_0() -> None:
    torch.manual_seed(0)
    valid = nn.Sequential(nn.Conv2d(3, 4, 5), nn.Tanh(), nn.AvgPool2d(2))
    found = errors(valid, image_views(picture(64), 40), shifts(2))
    assert set(found) == {"0", "1", "2", "output"}
    assert max(found.values()) < 1e-5
    padded = errors(nn.Sequential(nn.Conv2d(3, 4, 5, padding=2)), image_views(picture(64), 40), shifts(2))
    assert padded["output"] > 1e-3
    assert errors(valid, image_views(picture(64), 40), FLIP)["output"] > 0.1


def test_vectors_are_taken_for_invariants_and_grids_for_tokens() -> None:
    class Encoder(nn.Module):
        def forward(self, x: Tensor) -> Features:
            maps = nn.functional.avg_pool2d(x, 8).flatten(2).transpose(1, 2)
            prefixed = torch.cat([maps.mean(1, keepdim=True), maps], dim=1)
            return Features(prefixed, maps.mean(1))

    found = probe(Encoder(), image_views(picture(64), 40), (shifts(8),))
    assert [(layer.name, layer.taken_for) for layer in found.layers] == [("tokens", "tokens"), ("pooled", "invariant")]
    assert found.errors["tokens", "shifts by 8 px", 8.0] < 1e-5
    assert isinstance(found.layers[1].kind, Same)


def test_maps_with_channels_last_are_told() -> None:
    class Last(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.avg_pool2d(x, 4).permute(0, 2, 3, 1)

    found = probe(Last(), image_views(picture(64), 40), (shifts(4), FLIP))
    assert found.layers[0].taken_for == "map"
    assert max(found.errors.values()) < 1e-5


def test_clouds_move_in_space() -> None:
    points = torch.randn(1, 20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    class Centred(nn.Module):
        def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
            moved = points - points.mean(1, keepdim=True)
            return points + moved, moved.norm(dim=-1).amax(1, keepdim=True)

    for group in (SO3, GROUND, PERMUTATION):
        assert max(errors(Centred(), cloud_views(points), group).values()) < 1e-9
    assert errors(symmetry_models.PointNet().double(), cloud_views(points), PERMUTATION)["output"] < 1e-9
    assert errors(symmetry_models.PointNet().double(), cloud_views(points), SO3)["output"] > 0.01
    kinds = [layer.kind for layer in probe(Centred(), cloud_views(points), (SO3,)).layers]
    assert isinstance(kinds[0], Points) and isinstance(kinds[1], Same)
    with_intensity = torch.cat([points, points[..., :1]], dim=-1)
    assert cloud_views(with_intensity).moved(SO3.at(90, points)[0]).shape == (1, 20, 4)


def test_a_models_decibels() -> None:
    canvas = picture(80)
    same = decibels(nn.Identity(), canvas, 48)
    assert same.translation > 120 and decibels(nn.Identity(), canvas.double(), 48).translation == PERFECT
    assert same.fractional > 45 and same.rotation > 45
    aliased = decibels(lambda x: x[..., ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3), canvas, 48)
    assert aliased.translation < 40 < same.fractional
    assert aliased.rotation < same.rotation - 10
    with pytest.raises(ValueError, match=r"images of 48 x 48 out, got \[1, 3, 24, 24\]"):
        decibels(nn.AvgPool2d(2), canvas, 48)


def test_fine_motions_are_closer_to_the_truth_than_linear_ones() -> None:
    axis = torch.arange(48).double()
    wave = (axis * 1.3).cos().expand(1, 1, 48, 48)
    moved, inside = fine_act(Translation(0.0, 0.5), wave)
    expected = ((axis - 0.5) * 1.3).cos().expand(1, 1, 48, 48)
    assert float((moved - expected)[..., 8:-8].abs().max()) < 0.02
    assert float((Translation(0.0, 0.5).maps(wave)[0] - expected)[..., 8:-8].abs().max()) > 0.1
    assert torch.allclose(
        fine_act(Rotation(90), wave)[0][..., 8:-8, 8:-8], wave.rot90(1, (2, 3))[..., 8:-8, 8:-8], atol=0.02
    )
    assert not inside[:, 0].any()


def test_only_floating_outputs_are_kept_and_dictionaries_are_opened() -> None:
    class Dictionary(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"map": x, "mean": x.mean((2, 3))}

    assert set(record(Dictionary(), picture(16))) == {"output map", "output mean"}
    assert isinstance(probe(Dictionary(), image_views(picture(64), 40), (FLIP,)).layers[0].kind, Image)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    from PIL import Image as Pillow

    path = tmp_path / "photo.png"
    Pillow.effect_noise((90, 90), 50).resize((180, 180)).save(path)
    return path


def test_the_command_measures_a_users_module(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    options = ["--on", str(photo), "--size", "64", "--out", str(out)]
    assert main(["symmetry", f"{MODELS}:torus", *options]) == 0
    output = capsys.readouterr().out
    assert "| layer " in output and "| output |" in output
    assert "EQ-T " in output and "EQ-R " in output
    assert (out / "symmetry.png").read_bytes().startswith(b"\x89PNG")
    with (out / "symmetry.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["group"] for row in rows} == {"shifts", "SO(2)", "scale", "flip"}
    assert all(math.isfinite(float(row["error"])) for row in rows)
    assert main(["symmetry", f"{MODELS}:grey", *options]) == 0
    assert "EQ-T" not in capsys.readouterr().out


def test_the_command_looks_at_a_cloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sweep.npz"
    write_cloud(path, PointCloud(np.random.default_rng(0).normal(size=(50, 3))))
    options = ["--on", str(path), "--out", str(tmp_path)]
    assert main(["symmetry", f"{MODELS}:PointNet", *options]) == 0
    assert "| permutation 1 of all" in capsys.readouterr().out
    assert main(["symmetry", "vit-tiny", *options]) == 2
    assert "is a point cloud" in capsys.readouterr().err
    write_cloud(path, PointCloud(np.zeros((1, 3))))
    assert main(["symmetry", f"{MODELS}:PointNet", *options]) == 2
    assert "holds 1 points" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (f"{MODELS}:toros", "unknown factory of tests.symmetry_models 'toros'; nearest: torus"),
        ("no_such_package:make", "can't import no_such_package: ModuleNotFoundError"),
        (":make", "is no import path: write package.module:factory"),
        (f"{MODELS}:fails", "raised KeyError: 'weights'; it is called without arguments"),
        (f"{MODELS}:number", "returned int, not a torch.nn.Module"),
        (f"{MODELS}:Raises", "Raises raised RuntimeError on an input of [1, 3, 64, 64]: it wants 7 channels"),
        (f"{MODELS}:Unsteady", "gives [1, 3, 64, 63] of the input after Translation"),
        (f"{MODELS}:Words", "Words returned str; it must return a tensor"),
        (f"{MODELS}:seven", "takes images of 7 channels"),
        (f"{MODELS}:Noise", "Noise gives other numbers for the same input at output"),
        (f"{MODELS}:Void", "Void returned nothing: output of [0, 3, 64, 64]"),
        (f"{MODELS}:Undefined", "Undefined returned NaN or infinite numbers: output of [1, 3, 64, 64]"),
        (f"{MODELS}.torus", "is no encoder and no folder; your own module would be tests.symmetry_models:torus"),
    ],
)
def test_a_module_that_cannot_be_measured_is_told(
    model: str, message: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["symmetry", model, "--on", str(photo), "--size", "64", "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_numbers_masks_and_half_precision_are_measured(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--on", str(photo), "--size", "64", "--out", str(tmp_path / "out")]
    for name, kinds in {"Numbers": ("| invariant |", "| map "), "Mask": ("EQ-T",), "ready": ("EQ-T",)}.items():
        assert main(["symmetry", f"{MODELS}:{name}", *options]) == 0
        output = capsys.readouterr().out
        assert all(kind in output for kind in kinds)
    assert main(["symmetry", f"{MODELS}:ready", *options[:4], "--out", str(photo)]) == 2
    assert "photo.png" in capsys.readouterr().err


def test_wrong_options_are_told(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["symmetry", f"{MODELS}:torus", "--weights", "x.pt"]) == 2
    assert "leave out --weights" in capsys.readouterr().err
    assert main(["symmetry", f"{MODELS}:torus", "--on", str(photo), "--size", "8"]) == 2
    assert "--size must be at least 32" in capsys.readouterr().err
