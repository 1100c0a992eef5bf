"""S-TREK's descriptor."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robovision.keypoints.description import SIDE, Descriptor, patches, triplet_loss
from tests.keypoint_pictures import leaf_picture


@pytest.fixture(scope="module")
def leaf() -> Tensor:
    return leaf_picture()


def test_patches_turn_with_their_direction(leaf: Tensor) -> None:
    image = leaf[None, None, :81, :81]
    middle = torch.tensor([[[40.0, 40.0]]])
    upright = patches(image, middle, torch.tensor([[[1.0, 0.0]]]))
    turned = patches(image.rot90(1, (2, 3)), middle, torch.tensor([[[0.0, -1.0]]]))  # to the right becomes up
    assert upright.shape == (1, 1, SIDE, SIDE)
    assert torch.allclose(upright, turned, atol=1e-5)


def test_the_descriptor_exports() -> None:
    torch.manual_seed(0)
    descriptor, seen = Descriptor(), torch.rand(20, 1, SIDE, SIDE)
    descriptor(seen)  # gives the batch statistics other values than those at the start
    with torch.no_grad():
        assert torch.allclose(descriptor.exported()(seen), descriptor.eval()(seen), atol=1e-5)


def test_triplet_loss_by_hand() -> None:
    cosines = torch.tensor([[0.9, 0.6, 0.2], [0.1, 0.8, 0.2], [0.1, 0.2, 0.7]])
    none = torch.zeros(3, 3, dtype=torch.bool)
    assert float(triplet_loss(cosines, none)) == pytest.approx(((0.2 + 0 + 0) / 3 + (0 + 0.3 + 0) / 3) / 2)
    same = none.clone()
    same[0, 1] = True
    assert float(triplet_loss(cosines, same)) == pytest.approx(0, abs=1e-6)
    assert float(triplet_loss(cosines[:1, :1], none[:1, :1])) == 0
