"""Extractors: every one keeps the same contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from robovision import keypoints
from robovision.errors import UsageError
from robovision.keypoints.extractors import METHODS, uniform_coverage
from robovision.keypoints.pixels import grey, read_grey
from robovision.types import Array
from tests.keypoint_pictures import blobs

NAMES = sorted(METHODS)


@pytest.mark.parametrize("name", NAMES)
def test_keypoints_follow_a_shift_by_whole_pixels(name: str) -> None:
    """Pixel centres are integers, and image_size is (width, height)."""
    extractor = keypoints.load(name, 100)
    canvas = blobs(200, 260)
    first, second = extractor.extract(canvas[:160, :220]), extractor.extract(canvas[16:176, 32:252])
    assert first.image_size == (220, 160)
    distance = np.linalg.norm(first.xy[:, None] - (second.xy[None] + [32, 16]), axis=2)
    assert (distance.min(axis=1) < 1).mean() > 0.5


@pytest.mark.parametrize("name", NAMES)
def test_quarter_turn_turns_the_angles(name: str) -> None:
    image = blobs(161, 161)
    first, second = (keypoints.load(name, 50).extract(i) for i in (image, np.ascontiguousarray(np.rot90(image))))
    moved = np.stack([first.xy[:, 1], 160 - first.xy[:, 0]], 1)
    distance = np.linalg.norm(moved[:, None] - second.xy[None], axis=2)
    nearest = distance.argmin(axis=1)
    near = distance.min(axis=1) < 1
    assert near.mean() > 0.5
    assert first.angles is not None
    assert second.angles is not None
    turn = second.angles[nearest] - first.angles + np.pi / 2  # to the left, to the eye
    assert (np.abs(np.angle(np.exp(1j * turn[near]))) < 0.2).mean() > 0.6


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("uniform", [False, True])
def test_strongest_first_and_never_more_than_asked_for(name: str, uniform: bool) -> None:
    found = keypoints.load(name, 30, uniform).extract(blobs(240, 320))
    assert len(found) == 30
    assert (np.diff(found.scores) <= 0).all()
    assert found.descriptors is not None
    assert len(found.descriptors) == 30


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (64, 64)])
def test_level_and_tiny_images_have_no_keypoints(name: str, shape: tuple[int, int]) -> None:
    found = keypoints.load(name).extract(np.full(shape, 0.5))
    assert len(found) == 0
    assert found.image_size == (shape[1], shape[0])
    assert found.descriptors is not None
    assert found.descriptors.shape[0] == 0
    assert found.descriptors.shape[1] in (0, 128, 256)


def test_every_form_of_an_image_gives_the_same_keypoints() -> None:
    extractor = keypoints.load("sift", 50)
    image = np.rint(blobs(120, 140) * 255).astype(np.uint8)
    colour = np.repeat(image[..., None], 3, axis=2)
    opaque = np.concatenate([colour, np.full((120, 140, 1), 255, np.uint8)], axis=2)
    tensor = torch.from_numpy(colour).permute(2, 0, 1)
    forms: list[Array | torch.Tensor] = [
        *(image, image[..., None], colour, opaque, image / 255, image.astype(np.uint16) * 257),
        *(tensor, tensor / 255, torch.from_numpy(image)),
    ]
    expected = extractor.extract(image)
    assert len(expected) == 50
    for found in extractor.extract_batch(forms) + extractor.extract_batch(torch.stack([tensor, tensor])):
        assert np.array_equal(found.xy, expected.xy)
        assert np.array_equal(found.scores, expected.scores)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((0, 4)), "empty"),
        (np.full((4, 4), np.nan), "NaN"),
        (np.full((4, 4), 255.0), "0..1"),
        (np.zeros((4, 4, 7)), "C in 1..4"),
        (np.zeros((2, 4, 4, 3)), "shape"),
        (np.zeros((4, 4), np.int64), "int64"),
    ],
)
def test_images_that_are_none_are_refused(image: Array, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        keypoints.load("orb").extract(image)


@pytest.mark.parametrize("image", ["photograph.png", [[0.5]], Image.new("L", (9, 9))])
def test_what_is_no_array_is_refused_with_the_remedy(image: Any) -> None:
    with pytest.raises(ValueError, match=r"must be a NumPy array or a tensor, got a .*; pixels\.read_grey"):
        keypoints.load("orb").extract(image)


def test_names_and_numbers_are_checked() -> None:
    with pytest.raises(UsageError, match="nearest: sift"):
        keypoints.load("siftt")
    with pytest.raises(UsageError, match="at least 1"):
        keypoints.load("sift", 0)
    for name in ("sift=weights.safetensors", "strek="):
        with pytest.raises(UsageError, match="strek=FILE or strek-fast=FILE"):
            keypoints.load(name)
    with pytest.raises(UsageError, match=r"no weight file none\.safetensors"):
        keypoints.load("strek=none.safetensors")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has the CUDA device that is to be missing")
@pytest.mark.parametrize("name", NAMES)
def test_a_missing_device_is_refused_by_every_extractor(name: str) -> None:
    with pytest.raises(UsageError, match="no cuda device here"):
        keypoints.load(name, device="cuda")


def test_transparent_is_black_and_colours_weigh_as_in_opencv() -> None:
    colour = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    assert np.abs(grey(colour) * 255 - cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY)).max() <= 0.51
    clear = np.concatenate([colour, np.zeros((5, 6, 1), np.uint8)], axis=2)
    assert not grey(clear).any()


def test_rootsift_is_the_root_of_sift() -> None:
    image = blobs(120, 140)
    plain, root = (keypoints.load(name, 50).extract(image) for name in ("sift", "rootsift"))
    assert plain.descriptors is not None
    assert root.descriptors is not None
    assert np.allclose(root.descriptors**2, plain.descriptors / plain.descriptors.sum(1, keepdims=True), atol=1e-6)


def test_orb_distances_are_hamming_distances() -> None:
    image = np.rint(blobs(120, 140) * 255).astype(np.uint8)
    found = keypoints.load("orb", 20).extract(image).descriptors
    assert found is not None
    packed = np.packbits(found.astype(np.uint8), axis=1)
    hamming = cv2.norm(packed[0], packed[1], cv2.NORM_HAMMING)
    assert ((found[0] - found[1]) ** 2).sum() == hamming > 0


@pytest.mark.parametrize("name", NAMES)
def test_uniform_coverage_spreads_the_points_of_every_extractor(name: str) -> None:
    image = blobs(240, 320)
    strongest, even = (keypoints.load(name, 40, uniform).extract(image).xy for uniform in (False, True))
    assert _spacing(even) > 1.2 * _spacing(strongest)


def test_uniform_coverage_by_hand() -> None:
    xy = np.array([[0, 0], [1, 0], [2, 0], [50, 0]], np.float32)
    scores = np.array([9, 8, 4, 1], np.float32)
    assert uniform_coverage(xy, scores, 2, 1.0).tolist() == [0, 3]
    assert uniform_coverage(xy, scores, 2, 0.8).tolist() == [0, 1]  # 8 is not clearly weaker than 9
    assert uniform_coverage(xy, scores, 9).tolist() == [0, 1, 2, 3]
    rng = np.random.default_rng(0)
    many, strength = rng.uniform(0, 100, (300, 2)), rng.uniform(0, 1, 300)
    assert np.array_equal(uniform_coverage(many, strength, 40), uniform_coverage(many, strength, 40, chunk=7))


def test_files_are_read_upright_and_with_all_their_bits(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert np.allclose(read_grey(tmp_path / "deep.png"), values / 65535, atol=1e-6)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    left_bright = np.zeros((40, 80), np.uint8)
    left_bright[:, :40] = 255
    Image.fromarray(left_bright).save(tmp_path / "turned.jpg", exif=exif, quality=100)
    turned = read_grey(tmp_path / "turned.jpg")
    assert turned.shape == (80, 40)
    assert turned[:35].min() > 0.9 > 0.1 > turned[45:].max()
    Image.new("RGBA", (4, 4), (255, 255, 255, 0)).save(tmp_path / "clear.png")
    assert not read_grey(tmp_path / "clear.png").any()
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "turned.jpg").read_bytes()[:300])
    for name in ("cut.jpg", "none.png"):
        with pytest.raises(UsageError, match=name):
            read_grey(tmp_path / name)


def test_even_coverage_takes_any_scores() -> None:
    xy = np.random.default_rng(0).uniform(0, 100, (200, 2)).astype(np.float32)
    scores = np.random.default_rng(1).uniform(-2, -1, 200).astype(np.float32)
    chosen = uniform_coverage(xy, scores, 20)
    assert chosen[0] == scores.argmax()
    assert _spacing(xy[chosen]) > 1.2 * _spacing(xy[np.argsort(-scores)[:20]])


def _spacing(xy: Array) -> float:
    """The mean distance to the nearest other point."""
    apart = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    return float(np.sort(apart, axis=1)[:, 1].mean())
