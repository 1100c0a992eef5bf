"""Features of a frozen encoder on disk: found again, made again when damaged or stale, and trained on."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from torch import Tensor

from robovision.agents.config import EncoderOptions, Optimisation, TrainConfig
from robovision.agents.train import Training
from robovision.cli import main
from robovision.devices import make_deterministic
from robovision.encoders import features
from robovision.encoders.base import CLIP
from robovision.encoders.coin import CoIn
from robovision.encoders.features import Kept, Recipe, cache_size, digest, encode, keep
from robovision.encoders.vit import ViT, ViTSize
from robovision.errors import UsageError
from robovision.run import Run
from tests.helpers import TINY, TINY_ARGUMENTS

SMALL = ViTSize(32, 1, 2)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROBOVISION_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def encoder(seed: int = 0) -> ViT:
    torch.manual_seed(seed)
    return ViT(SMALL, image_size=32)


def recipe(of: ViT) -> Recipe:
    return Recipe(digest(of), "small + none", "tokens", 32, "float32", "fastest")


def episodes() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator) for n in (40, 7)]


def kept() -> Kept:
    vit = encoder()
    return keep(vit, recipe(vit), episodes())


def entries(cache: Path) -> list[Path]:
    return sorted(cache.glob("features/*/*.safetensors"))


def test_features_are_made_once_and_found_again(cache: Path) -> None:
    first, again = kept(), kept()
    assert (first.found, first.made, first.mended) == (0, 2, 0)
    assert (again.found, again.made, again.mended) == (2, 0, 0)
    assert torch.equal(first.features, again.features)
    vit = encoder()
    whole = torch.cat(episodes())
    assert first.features.shape == (47, 4, 32)
    assert torch.allclose(first.features, encode(vit, recipe(vit), whole), atol=1e-5)
    assert first.size == again.size == cache_size() == sum(path.stat().st_size for path in entries(cache))
    assert "47 frames" in str(first)
    assert "2 demonstrations were cached, 0 encoded" in str(again)
    assert not list(cache.rglob("*.partial"))
    stored = json.loads(next(cache.glob("features/*/recipe.json")).read_text())
    assert stored["weights"] == digest(vit)


def test_more_demonstrations_use_those_that_are_there() -> None:
    kept()
    vit = encoder()
    more = keep(vit, recipe(vit), [*episodes(), episodes()[0].flip(0)])
    assert (more.found, more.made) == (2, 1)


def test_pooled_vectors_and_half_precision_are_kept() -> None:
    vit = encoder()
    half = dataclasses.replace(recipe(vit), kind="pooled", precision="bfloat16")
    made = keep(vit, half, episodes())
    assert made.features.shape == (47, 32)
    assert made.features.dtype == torch.bfloat16
    assert torch.equal(keep(vit, half, episodes()).features, made.features)
    exact = encode(vit, dataclasses.replace(recipe(vit), kind="pooled"), torch.cat(episodes()))
    assert torch.allclose(made.features.float(), exact, atol=0.1)


def test_every_ingredient_has_a_folder_of_its_own() -> None:
    first = recipe(encoder())
    normalised = ViT(SMALL, image_size=32, normalisation=CLIP)
    normalised.load_state_dict(encoder().state_dict())
    others = [
        recipe(encoder(1)),
        recipe(normalised),
        dataclasses.replace(first, size=64),
        dataclasses.replace(first, preset="exact"),
        dataclasses.replace(first, precision="bfloat16"),
        dataclasses.replace(first, kind="pooled"),
        dataclasses.replace(first, encoder="clip + none"),
    ]
    assert len({first.folder, *(other.folder for other in others)}) == 8
    assert recipe(encoder()).folder == first.folder


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def swap(path: Path) -> None:
    """The features of the other episode, intact in themselves."""
    other = next(entry for entry in path.parent.glob("*.safetensors") if entry != path)
    shutil.copy(other, path)


def foreign(path: Path) -> None:
    """The same episode's features of other weights, from another folder."""
    vit = encoder(1)
    keep(vit, recipe(vit), episodes())
    shutil.copy(recipe(vit).folder / path.name, path)


@pytest.mark.parametrize("damage", [truncate, empty, flip, swap, foreign])
def test_a_damaged_or_foreign_entry_is_made_again(damage: object, cache: Path) -> None:
    before = kept()
    assert callable(damage)
    damage(entries(cache)[0])
    after = kept()
    assert (after.found, after.made, after.mended) == (1, 1, 1)
    assert "1 damaged or stale ones made again" in str(after)
    assert torch.equal(after.features, before.features)
    assert kept().mended == 0


def test_entries_that_the_code_would_no_longer_make_are_stale() -> None:
    before = kept()
    vit = encoder()
    for images in episodes():
        path = recipe(vit).folder / f"{features._sha256(images)}.safetensors"
        features._write(path, recipe(vit), encode(vit, recipe(vit), images) * 1.1)
    after = kept()
    assert (after.found, after.mended) == (0, 2)
    assert torch.equal(after.features, before.features)


def test_two_processes_share_the_cache(cache: Path) -> None:
    code = "from tests.test_features import kept; print(float(kept().features.double().sum()))"
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = [process.communicate() for process in started]
    assert all(process.returncode == 0 for process in started), answers
    assert answers[0][0] == answers[1][0]
    assert len(entries(cache)) == 2
    assert not list(cache.rglob("*.partial"))
    assert kept().found == 2


def test_a_full_disk_and_a_bad_folder_are_said(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 0))
    with pytest.raises(
        UsageError, match="0 MB free and the features need 0 MB: free some space or set ROBOVISION_CACHE"
    ):
        kept()
    monkeypatch.undo()
    monkeypatch.setenv("ROBOVISION_CACHE", "/dev/null")
    with pytest.raises(UsageError, match="can't write /dev/null/features"):
        kept()


FROZEN = dataclasses.replace(
    TINY,
    encoder=EncoderOptions(train="frozen", adapter="none"),
    optimisation=Optimisation(epochs=6, batch=8, checkpoint_every=4, precision="float32"),
)


def train(run: Run) -> Training:
    """Everything but the evaluations."""
    training = Training(run, FROZEN)
    make_deterministic(FROZEN.seed, 1)
    training._prepare()
    training.milestones = []
    training._restore()
    training._encode()
    training._fit()
    return training


def final(run: Run) -> bytes:
    checkpoint = run.latest()
    assert checkpoint is not None
    assert checkpoint.step == 16
    return (checkpoint.path / "model.safetensors").read_bytes()


def test_training_on_kept_features_is_training_on_images(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run.create(tmp_path / "kept", "train", FROZEN, space=0)
    losses = train(run).curve
    assert len(entries(cache)) == 2
    assert "0 demonstrations were cached, 2 encoded" in capsys.readouterr().out
    whole = final(run)
    shutil.rmtree(run.path / "checkpoints" / "step-000016")
    shutil.rmtree(cache)
    train(run)
    assert final(run) == whole  # resumed without the cache: the same weights, bit by bit

    monkeypatch.setattr(Training, "_encode", lambda self: setattr(self, "encoded", False))
    other = Run.create(tmp_path / "images", "train", FROZEN, space=0)
    shutil.copytree(run.path / "demos", other.path / "demos")
    expected = train(other).curve
    assert [row["step"] for row in losses] == [row["step"] for row in expected]
    for row, from_images in zip(losses, expected, strict=True):
        assert row["loss"] == pytest.approx(from_images["loss"], rel=1e-4)


def test_shifted_images_are_not_kept() -> None:
    assert FROZEN.shift == 0
    assert TINY.shift == 4
    shifted = dataclasses.replace(FROZEN, optimisation=Optimisation(shift=2))
    assert shifted.shift == 2
    with pytest.raises(UsageError, match=r"optimisation\.shift must not be negative, got -1"):
        Optimisation(shift=-1)


def test_a_frozen_batch_norm_keeps_its_statistics() -> None:
    torch.manual_seed(0)
    vit = ViT(SMALL, image_size=32, injector=CoIn(32, stem=4, gamma=1.0)).train()
    before = digest(vit)
    made = keep(vit, recipe(vit), episodes())
    assert not made.features.requires_grad
    assert digest(vit) == before


def test_a_policy_learns_on_strek_keypoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBOVISION_CACHE", str(tmp_path / "cache"))
    assert main(["train", "--encoder", "strek", "--out", str(tmp_path / "run"), *TINY_ARGUMENTS]) == 0
    run = Run.open(tmp_path / "run")
    options = run.config(TrainConfig).encoder
    assert (options.name, options.adapter, options.train) == ("strek", "none", "frozen")
    assert list((tmp_path / "cache" / "features").rglob("*.safetensors"))
