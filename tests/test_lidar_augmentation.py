from __future__ import annotations

import pytest
import torch

from robovision.errors import UsageError
from robovision.lidar.boxes import points_in_boxes
from robovision.lidar.detectors.augment_options import AugmentOptions
from robovision.lidar.detectors.augmentation import augment
from tests.lidar_scenes import same_boxes, scene


def test_augmentation_tells_its_group_element() -> None:
    before = scene()
    options = AugmentOptions(flip=1.0, turn=2.0, scale=0.2, shift=(1.0, 1.0, 0.5))
    after, element = augment(before, options, torch.Generator().manual_seed(3))
    assert element.mirror and element.scale != 1 and element.yaw != 0
    inside = points_in_boxes(before.points[:, :3], before.objects.boxes)
    assert torch.equal(points_in_boxes(after.points[:, :3], after.objects.boxes), inside) and inside.sum() > 300
    back = element.inverse()
    assert torch.allclose(back.points(after.points[:, :3]), before.points[:, :3], atol=1e-4)
    same_boxes(back.boxes(after.objects.boxes), before.objects.boxes)
    assert torch.equal(after.points[:, 3], before.points[:, 3])
    thinned, _ = augment(before, AugmentOptions(thin=0.9), torch.Generator().manual_seed(1))
    assert len(thinned.points) < len(before.points)
    with pytest.raises(UsageError, match="shares"):
        AugmentOptions(flip=2)
