"""`robovision bench claims`: the tasks are what they say, and the command leaves a table and a picture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from robovision.bench.claims import NAMES, coswin, dsd, jitter, lookhere, nat, smoe
from robovision.bench.claims.results import Curve, Result, draw
from robovision.cli import main
from robovision.symmetry.plane import fourier_shift


def test_a_signal_lies_in_one_patch_with_its_sign() -> None:
    generator = torch.Generator().manual_seed(0)
    signal = torch.nn.functional.normalize(torch.randn(dsd.WIDTH, generator=generator), dim=0)
    data = dsd.draw(signal, 500, 8, generator)
    along = data.inputs @ signal
    assert (along.abs().max(1).values > 0.4).float().mean() > 0.95
    strongest = along.gather(1, along.abs().argmax(1, keepdim=True))[:, 0]
    assert (strongest.sign() == data.labels).float().mean() > 0.98


def test_a_shared_filter_needs_fewer_samples_than_free_ones() -> None:
    assert dsd.error("CNN", 8, 40, 0) < 0.05 < dsd.error("FCN", 8, 20, 0)


def test_the_second_part_lies_where_the_class_says() -> None:
    task = lookhere.Task(torch.eye(4)[:, :, None, None].expand(4, 4, 4, 4)[:, :3] * 4)
    task.parts[1, 1] = 8
    pictures, classes = task.draw(50, 8, torch.Generator().manual_seed(0))
    patches = pictures.view(50, 3, 8, 4, 8, 4).mean((3, 5))
    first, second = (patches[:, k].flatten(1).argmax(1) for k in (0, 1))
    for k in range(50):
        down, right = lookhere.SIDES[int(classes[k])]
        assert int(second[k] - first[k]) == 8 * down + right


def test_gliding_pictures_are_shifted_ones() -> None:
    places, seeds = torch.tensor([[30.0, 28.0]]), torch.tensor([3])
    still = jitter.draw(places, seeds, torch.zeros(1, 2))
    moved = jitter.draw(places, seeds, torch.full((1, 2), 0.5))
    middle = slice(16, 48)
    expected = fourier_shift(still.double(), 0.5, 0.5)[..., middle, middle]
    assert torch.allclose(moved.double()[..., middle, middle], expected, atol=0.05)


def test_heat_stays_and_spreads() -> None:
    a = smoe.diffusivity(0)
    assert sorted(set(a.flatten().tolist())) == pytest.approx(smoe.DIFFUSIVITIES)
    field = torch.zeros(1, smoe.SIDE, smoe.SIDE)
    field[0, 5, 5] = 1.0
    level = torch.full_like(a, 0.25)
    inside = smoe.step(torch.ones(1, 64, 64), a)
    assert torch.allclose(inside[:, 1:-1, 1:-1], torch.ones(1, 62, 62)) and (inside[:, 0] < 1).all()
    assert float(smoe.step(field, level)[0, 5, 6]) == 0.25
    assert float(smoe.step(field, level).sum()) == pytest.approx(1)


def test_glyphs_lie_within_the_picture_and_differ() -> None:
    glyphs = torch.randn(coswin.GLYPHS, 5, 5, generator=torch.Generator().manual_seed(0))
    pictures, classes = coswin.draw(64, glyphs, torch.Generator().manual_seed(1))
    assert pictures.shape == (64, 3, coswin.SIDE, coswin.SIDE)
    assert float(pictures.min()) >= 0 and float(pictures.max()) <= 1
    assert len(torch.unique(classes)) == coswin.GLYPHS
    half = coswin.GLYPHS // 2
    flat = torch.cat([-torch.ones(half, 5, 5), torch.ones(half, 5, 5)])
    pictures, classes = coswin.draw(64, flat, torch.Generator().manual_seed(1))
    assert ((pictures.mean((1, 2, 3)) > 0.5) == (classes >= half)).all()


def test_textures_have_labels_of_their_place() -> None:
    pictures, labels = nat.draw(2, torch.Generator().manual_seed(0))
    assert pictures.shape == (2, 3, nat.SIDE + 1, nat.SIDE + 1)
    assert labels.shape == (2, nat.SIDE + 1, nat.SIDE + 1)
    assert set(torch.unique(labels).tolist()) <= set(range(nat.TEXTURES))
    pictures, labels = nat.draw(16, torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(pictures[:, :1], 3, 1, 1)[:, 0]
    down, right = (torch.gradient(smooth, dim=axis)[0] for axis in (1, 2))
    for label in range(nat.TEXTURES):
        y, x = down[labels == label], right[labels == label]
        turned = torch.atan2((2 * x * y).mean(), (x.square() - y.square()).mean()) / 2  # of the steepest direction
        off = (float(turned) - label * torch.pi / nat.TEXTURES) % torch.pi
        assert min(off, torch.pi - off) < 0.2


def test_a_result_says_what_was_not_reached(tmp_path: Path) -> None:
    curve = Curve("ours", [1, 2], [3.0, 4.0])
    result = Result("A claim", ["x"], [["1"]], [curve], ("x", "y"), {"half": True, "all": False})
    assert "- reached: half" in result.text()
    assert "- NOT reached: all" in result.text()
    draw(tmp_path / "a.png", result)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_tries_a_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"PATCHES": (2,), "MOST": 20, "STEPS": 5, "SEEDS": 1}.items():
        monkeypatch.setattr(dsd, name, value)
    assert main(["bench", "claims", "dsd", "--out", str(tmp_path)]) == 0
    assert "| patches k" in capsys.readouterr().out
    assert (tmp_path / "dsd.png").exists()
    assert main(["bench", "claims", "dsp"]) == 2
    assert "unknown claim 'dsp'" in capsys.readouterr().err
    assert set(NAMES) == {"dsd", "lookhere", "nat", "coswin", "dualtoken", "smoe", "jitter"}
