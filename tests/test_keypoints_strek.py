"""S-TREK as an extractor, and its embedded weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from robovision import weights
from robovision.keypoints.description import WIDTH, Descriptor
from robovision.keypoints.detector import Detector
from robovision.keypoints.strek import ExtractorOptions, Strek
from robovision.keypoints.strek_config import DetectorOptions
from tests.keypoint_pictures import leaf_picture


@pytest.fixture(scope="module")
def leaf() -> Tensor:
    return leaf_picture()


@pytest.fixture(scope="module")
def extractor() -> Strek:
    torch.manual_seed(0)
    return Strek(Detector(DetectorOptions()), Descriptor(), ExtractorOptions(most=200))


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_quarter_turn_gives_the_same_keypoints(quarters: int, leaf: Tensor, extractor: Strek) -> None:
    image = leaf.numpy()
    first, second = extractor.extract(image), extractor.extract(np.ascontiguousarray(np.rot90(image, quarters)))
    assert len(first) == len(second) > 20
    x, y = first.xy.T
    edge = 159
    turned = {1: (y, edge - x), 2: (edge - x, edge - y), 3: (edge - y, x)}[quarters]
    distance = np.linalg.norm(np.stack(turned, 1)[:, None] - second.xy[None], axis=2)
    nearest = distance.argmin(1)
    assert distance.min(1).max() < 1e-2
    assert first.descriptors is not None and second.descriptors is not None
    cosines = (first.descriptors * second.descriptors[nearest]).sum(1)
    assert np.median(cosines) > 0.999
    assert first.angles is not None and second.angles is not None
    change = second.angles[nearest] - first.angles + quarters * np.pi / 2
    assert np.abs(np.sin(change / 2)).max() < 1e-2


def test_keypoints_are_complete_and_bounded(leaf: Tensor, extractor: Strek) -> None:
    found = extractor.extract(leaf.numpy())
    assert 0 < len(found) <= 200
    assert (np.diff(found.scores) <= 0).all()
    assert found.descriptors is not None and found.descriptors.shape == (len(found), WIDTH)
    assert np.linalg.norm(found.descriptors, axis=1) == pytest.approx(1, abs=1e-5)
    assert found.uncertainties is not None and (found.uncertainties > 0).all()


def test_strips_give_what_the_whole_gives(leaf: Tensor, extractor: Strek, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = extractor.extract(leaf.numpy())
    monkeypatch.setattr("robovision.keypoints.strek.STRIP", 160 * 37)
    pieces = extractor.extract(leaf.numpy())
    assert np.abs(pieces.xy - whole.xy).max() < 1e-3
    assert np.abs(pieces.scores - whole.scores).max() < 1e-5


def test_several_scales_find_larger_things(leaf: Tensor) -> None:
    torch.manual_seed(0)
    several = Strek(Detector(DetectorOptions()), Descriptor(), ExtractorOptions(multi_scale=True))
    large = np.kron(leaf.numpy(), np.ones((2, 2), np.float32))
    found = several.extract(large)
    assert found.scales is not None
    assert len(np.unique(found.scales)) == 3
    turned = several.extract(np.ascontiguousarray(np.rot90(large)))
    there = np.stack([found.xy[:, 1], 319 - found.xy[:, 0]], 1)
    distance = np.linalg.norm(there[:, None] - turned.xy[None], axis=2)
    assert (distance.min(1) < 0.05).mean() > 0.99


@pytest.mark.parametrize("shape", [(1, 1), (20, 20), (23, 300)])
def test_small_images_have_none(shape: tuple[int, int], extractor: Strek) -> None:
    assert len(extractor.extract(np.full(shape, 0.5, np.float32))) == 0


@pytest.mark.parametrize("tone", [0, 90, 201, 255])
def test_level_images_have_none(tone: int) -> None:
    assert len(Strek.load(ExtractorOptions()).extract(np.full((200, 230), tone / 255, np.float32))) == 0


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((30, 30), np.uint8),
        np.zeros((30, 30, 3), np.float32),
        np.zeros((0, 30), np.float32),
        np.full((30, 30), np.nan, np.float32),
        np.full((30, 30), 2.0, np.float32),
    ],
)
def test_wrong_images_are_refused(image: np.ndarray, extractor: Strek) -> None:
    with pytest.raises(ValueError, match="image must"):
        extractor.extract(image)


@pytest.mark.parametrize("multi_scale", [False, True])
def test_every_tensor_is_made_on_the_device_of_the_image(multi_scale: bool, leaf: Tensor) -> None:
    """With another default device, a tensor whose device nobody states is on the wrong one, and extraction fails."""
    image = np.kron(leaf.numpy(), np.ones((2, 2), np.float32))
    strek = Strek.load(ExtractorOptions(100, multi_scale=multi_scale))
    expected = strek.extract(image)
    with torch.device("meta"):
        found = strek.extract(image)
        assert len(strek.extract(image[:20, :20])) == 0
    assert np.array_equal(found.xy, expected.xy)
    assert found.descriptors is not None
    assert expected.descriptors is not None
    assert np.array_equal(found.descriptors, expected.descriptors)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("multi_scale", [False, True])
def test_cuda_finds_what_the_processor_finds(multi_scale: bool, leaf: Tensor) -> None:
    image = np.kron(leaf.numpy(), np.ones((2, 2), np.float32))
    here, there = (Strek.load(ExtractorOptions(300, multi_scale=multi_scale), device=d) for d in ("cpu", "cuda"))
    first, second = here.extract(image), there.extract(image)
    assert abs(len(first) - len(second)) <= 3
    distance = np.linalg.norm(first.xy[:, None] - second.xy[None], axis=2)
    nearest = distance.argmin(1)
    near = distance.min(1) < 0.01
    assert near.mean() > 0.98
    assert first.descriptors is not None
    assert second.descriptors is not None
    cosines = (first.descriptors * second.descriptors[nearest]).sum(1)
    assert np.median(cosines[near]) > 0.9999
    again = there.extract(image)
    assert np.array_equal(again.xy, second.xy)
    assert len(there.extract(np.full((200, 230), 0.3, np.float32))) == 0


def test_the_embedded_weights_are_small_have_a_card_and_hold_under_a_turn(leaf: Tensor) -> None:
    path = weights.find("strek")
    assert path.stat().st_size <= 4_000_000
    card = path.with_suffix(".md").read_text()
    assert weights.EMBEDDED["strek"].sha256 in card
    assert "robovision keypoints train" in card
    strek, image = Strek.load(ExtractorOptions(most=100)), leaf.numpy()
    first, second = strek.extract(image), strek.extract(np.ascontiguousarray(np.rot90(image)))
    assert first.descriptors is not None and second.descriptors is not None
    nearest = (first.descriptors @ second.descriptors.T).argmax(1)
    x, y = first.xy.T
    distance = np.linalg.norm(np.stack([y, 159 - x], 1) - second.xy[nearest], axis=1)
    assert (distance < 0.01).mean() > 0.98
