"""The masked autoencoder by itself, and the pictures that it learns from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from robovision.encoders.build import build
from robovision.encoders.mae import FAINT, MaskedAutoencoder, normalised_patches, patches_of, unpatch, visible
from robovision.encoders.pictures import Draw, Folder, augment
from robovision.encoders.vit import ViT, ViTSize
from robovision.errors import UsageError

SIDE = 64
PATCHES = 16


@pytest.fixture(scope="module")
def model() -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(ViT(ViTSize(32, 2, 2), 16, SIDE), ViTSize(16, 1, 2))


def random_images(count: int = 2, side: int = SIDE) -> Tensor:
    return torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def orders(count: int, patches: int = PATCHES) -> Tensor:
    return torch.rand(count, patches, generator=torch.Generator().manual_seed(2)).argsort(1)


def test_patches_are_cut_row_by_row_and_put_back() -> None:
    images = random_images()
    patches = patches_of(images, 16)
    assert torch.equal(patches[0, 1].view(3, 16, 16), images[0, :, :16, 16:32])
    assert torch.equal(unpatch(patches, (4, 4), 16), images)


def test_patches_are_normalised_one_by_one_and_flat_ones_stay_faint() -> None:
    images = random_images()
    images[0, :, :16, :16] = 7
    images[0, 0, 0, 0] = 8
    patches, mean, deviation = normalised_patches(images, 16)
    assert patches[:, 1:].mean(2).abs().max() < 1e-4
    assert patches[:, 1:].var(2) == pytest.approx(1, abs=0.02)
    assert patches[0, 0].abs().max() == pytest.approx(1 / 255 / FAINT**0.5, rel=0.02)
    assert torch.equal(normalised_patches(images.float() / 255, 16)[0], patches)
    assert (patches * deviation + mean) == pytest.approx(patches_of(images, 16).float() / 255, abs=1e-5)


def test_hidden_patches_are_not_seen_and_only_they_count(model: MaskedAutoencoder) -> None:
    images, order = random_images(), orders(2)
    painting = model.fill(images, order)
    assert painting.hidden.sum(1).tolist() == [PATCHES - visible(PATCHES)] * 2
    changed = patches_of(images, 16)
    for row in range(2):
        changed[row, order[row, visible(PATCHES) :]] = 0
    blanked = unpatch(changed, (4, 4), 16)
    assert torch.equal(model.fill(blanked, order).patches, painting.patches)
    assert model(blanked, order) != model(images, order)
    wanted = normalised_patches(images, 16)[0]
    error = (painting.patches - wanted).square().mean(2)[painting.hidden].mean()
    assert model(images, order).item() == pytest.approx(error.item(), rel=1e-5)


def test_the_order_within_the_seen_and_the_hidden_does_not_matter(model: MaskedAutoencoder) -> None:
    images, order = random_images(), orders(2)
    other = torch.cat([order[:, : visible(PATCHES)].flip(1), order[:, visible(PATCHES) :].flip(1)], dim=1)
    assert model(images, other).item() == pytest.approx(model(images, order).item(), rel=1e-5)


@pytest.mark.parametrize("side", [32, 96])
def test_other_sizes_are_taken(model: MaskedAutoencoder, side: int) -> None:
    loss = model(random_images(2, side), orders(2, (side // 16) ** 2))
    assert loss.isfinite()


def test_reconstructions_keep_what_was_seen(model: MaskedAutoencoder) -> None:
    images, order = random_images(), orders(2)
    with torch.no_grad():
        grey, filled = model.reconstruct(images, order)
    hidden = model.fill(images, order).hidden
    for picture in (grey, filled):
        kept = patches_of(picture, 16)[~hidden]
        assert torch.allclose(kept, patches_of(images, 16).float()[~hidden] / 255, atol=1e-5)
    assert (patches_of(grey, 16)[hidden] == 0.5).all()
    assert (patches_of(filled, 16)[hidden] != 0.5).any()


def test_it_learns_to_fill_in_stripes() -> None:
    """Stripes whose direction is the image's: what is hidden follows from what is seen."""
    torch.manual_seed(0)
    model = MaskedAutoencoder(ViT(ViTSize(32, 2, 2), 16, SIDE), ViTSize(32, 1, 2))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 3e-3)
    positions = model.encoder.pos_embed.clone()
    line = (torch.arange(SIDE) // 4 % 2 * 255).to(torch.uint8)
    across = line.expand(3, SIDE, SIDE)
    images = torch.stack([across, across.transpose(1, 2)] * 8)
    losses = []
    for step in range(80):
        order = torch.rand(16, PATCHES, generator=torch.Generator().manual_seed(step)).argsort(1)
        loss = model(images, order)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.8
    assert losses[-1] < 0.1
    assert torch.equal(model.encoder.pos_embed, positions)


def test_every_image_is_seen_once_an_epoch_whatever_the_batch() -> None:
    draw = Draw(10, 4, 0)
    seen = [number for step in range(5) for number in draw(step)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]
    assert Draw(10, 4, 0)(3) == seen[12:16]
    assert Draw(10, 4, 1)(0) != seen[:4]
    assert len(Draw(3, 8, 0)(0)) == 8


def test_crops_depend_on_the_generator_alone() -> None:
    images = random_images(4, 40)
    first, again, other = (augment(images, 32, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert first.shape == (4, 3, 32, 32)
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_folder_of_images_is_cut_square_and_scaled(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "deep").mkdir()
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40, 0] = 255
    Image.fromarray(wide).save(tmp_path / "deep" / "a.PNG")
    Image.fromarray(np.full((8, 8), 99, np.uint8)).save(tmp_path / "b.jpg")
    (tmp_path / "notes.txt").write_text("no image")
    images = Folder(tmp_path, 32)
    assert len(images) == 2
    grey, red = images.take([0, 1])
    assert (grey == 99).all()
    assert red[:, 16, 16].tolist() == [255, 0, 0]
    assert red.shape == (3, 32, 32)


def test_folders_without_images_and_broken_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder of images"):
        Folder(tmp_path / "none", 32)
    with pytest.raises(UsageError, match=r"holds no images.*\.png"):
        Folder(tmp_path, 32)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(UsageError, match=r"broken.png can't be read as an image.*remove it"):
        Folder(tmp_path, 32).take([0])


def test_an_encoder_of_any_size_is_taken() -> None:
    encoder = build("vit-small", 32)
    assert isinstance(encoder, ViT)
    assert MaskedAutoencoder(encoder)(random_images(1, 32), orders(1, 4)).isfinite()
