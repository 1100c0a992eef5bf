"""What heads are taught and how they are read: anchors, peaks, codes of boxes, and the choice among them."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from robovision.lidar.detectors import anchor_head, anchors, center_head
from robovision.lidar.detectors.anchor_head import AnchorHead
from robovision.lidar.detectors.center_head import CenterHead
from robovision.lidar.detectors.config import DetectorConfig
from robovision.lidar.detectors.heads import Found, Maps, Objects, choose
from robovision.lidar.detectors.models import MODELS
from tests.lidar_scenes import ANCHORED, AXES, CENTER, boxes, same_boxes


def turned(count: int = 12) -> Objects:
    """Cars and pedestrians that head every way, apart from each other."""
    step = torch.arange(count)
    place = torch.stack([1.2 + step % 4 * 3.1, -4.5 + step // 4 * 4.3, torch.full((count,), -0.9)], dim=1)
    sizes = torch.tensor([[3.7, 1.5, 1.6], [0.7, 0.65, 1.7]])[step % 2]
    yaw = -math.pi + 2 * math.pi * step / count + 0.05
    return Objects(torch.cat([place, sizes, yaw[:, None]], dim=1).float(), step % 2)


def test_anchors_by_hand() -> None:
    found = anchors.make_anchors(MODELS["pointpillars"], (248, 216))
    assert found.shape == (248, 216, 3, 2, 7)
    assert torch.allclose(found[0, 0, 0, 0], torch.tensor([0.0, -39.68, -1.0, 3.9, 1.6, 1.56, 0.0]))
    assert torch.allclose(found[-1, -1, 1, 1], torch.tensor([69.12, 39.68, 0.265, 0.8, 0.6, 1.73, 1.57]))


def test_codes_undo_each_other() -> None:
    truth = turned().boxes
    reference = torch.tensor([[2.0, 1.0, -1.0, 3.9, 1.6, 1.56, 1.57]]).expand_as(truth)
    code = anchors.encode(truth, reference)
    same_boxes(anchors.decode(code, reference), truth)
    by_hand = torch.tensor([[2.0, 1.0, -1.0, 3.9, 1.6, 3.12, 1.57]])
    assert torch.allclose(anchors.encode(by_hand, reference[:1]), torch.tensor([[0, 0, 0, 0, 0, math.log(2), 0]]))


def test_assignment_by_hand() -> None:
    config = dataclasses.replace(ANCHORED, classes=("Car",), anchors=ANCHORED.anchors[:1])
    grid = anchors.make_anchors(config, (4, 4))
    here = grid[1, 2, 0, 0].clone()
    near = here + torch.tensor([0.5, 0, 0, 0, 0, 0, 0])  # overlap (3.9 - 0.5) / (3.9 + 0.5) = 0.77
    match = anchors.assign(config, grid, Objects(torch.stack([near]), torch.tensor([0])))
    assert match[1, 2, 0, 0] == 0 and (match == 0).sum() == 1
    assert (match == anchors.NOTHING).sum() == match.numel() - 1
    far = here + torch.tensor([1.5, 0, 0, 0, 0, 0, 0])  # overlap 0.44, and no anchor overlaps it more
    assert anchors.assign(config, grid, Objects(torch.stack([far]), torch.tensor([0])))[1, 2, 0, 0] == 0
    both = Objects(torch.stack([here, here + torch.tensor([1.2, 0, 0, 0, 0, 0, 0])]), torch.tensor([0, 0]))
    assert anchors.assign(config, grid, both)[1, 2, 0, 0] == 0
    other = anchors.assign(config, grid, Objects(torch.stack([here]), torch.tensor([1])))
    assert (other == anchors.NOTHING).all()
    # A pair of anchors at one place: the one across overlaps 0.26 and stands for nothing.
    exact = anchors.assign(config, grid, Objects(here[None], torch.tensor([0])))
    assert exact[1, 2, 0].tolist() == [0, anchors.NOTHING]


def anchor_maps(head: AnchorHead, objects: Objects, shape: tuple[int, int]) -> Maps:
    """The maps that say exactly these objects."""
    grid = anchors.make_anchors(head.config, shape)
    match = anchors.assign(head.config, grid, objects)
    logits = torch.full((*match.shape, len(head.config.classes)), -9.0)
    box, direction = torch.zeros_like(grid), torch.zeros(*match.shape, 2)
    place = (match >= 0).nonzero(as_tuple=True)
    true = objects.boxes[match[place]]
    logits[(*place, objects.labels[match[place]])] = 9.0
    box[place] = anchors.encode(true, grid[place])
    # The sine can't tell a code from one that is half a turn off; the direction must.
    box[..., 6] += math.pi * (torch.arange(box[..., 6].numel()) % 2).view(box.shape[:-1])
    direction[(*place, anchor_head.direction_of(true[:, 6]))] = 1.0
    return {
        name: values.flatten(2).permute(2, 0, 1)[None]
        for name, values in {"cls": logits, "box": box, "dir": direction}.items()
    }


def test_anchor_head_reads_what_is_written() -> None:
    head = AnchorHead(4, ANCHORED)
    objects = turned()
    maps = anchor_maps(head, objects, (32, 32))
    (found,) = head.decode(maps)
    order = torch.cdist(objects.boxes[:, :2], found.boxes[:, :2]).argmin(dim=1)
    assert len(found.boxes) == len(objects.boxes)
    same_boxes(found.boxes[order], objects.boxes)
    assert torch.equal(found.labels[order], objects.labels)
    losses = head.losses(maps, [objects])
    assert losses["box_loss"] < 1e-4 and losses["class_loss"] < 0.01
    wrong = head.losses({**maps, "cls": -maps["cls"]}, [objects])
    assert wrong["class_loss"] > 100 * losses["class_loss"]


@pytest.mark.parametrize("config", [CENTER, AXES], ids=["directions", "axes"])
def test_center_head_reads_what_is_written(config: DetectorConfig) -> None:
    head = CenterHead(4, config)
    objects = turned()
    heat, cells, code = center_head.peaks(objects, config, (32, 32))
    if config.center.axis:
        code[:, 8] = 20 * code[:, 8] - 10  # chances as logits
    assert heat.shape == (2, 32, 32) and (heat == 1).sum() == len(objects.boxes) and heat.min() >= 0
    flat = torch.zeros(code.shape[1], 32 * 32)
    flat[:, cells] = code.T
    grid = flat.view(1, -1, 32, 32)
    parts = center_head.BOX | (center_head.WAY if config.center.axis else {})
    maps = dict(zip(parts, torch.split(grid, list(parts.values()), dim=1), strict=True))
    maps["hm"] = torch.where(heat == 1, 6.0, -9.0)[None]
    (found,) = head.decode(maps)
    order = torch.cdist(objects.boxes[:, :2], found.boxes[:, :2]).argmin(dim=1)
    assert len(found.boxes) == len(objects.boxes)
    same_boxes(found.boxes[order], objects.boxes)
    assert torch.equal(found.labels[order], objects.labels)
    losses = head.losses(maps, [objects])
    assert losses["box_loss"] < 1e-4
    assert head.losses({**maps, "hm": -maps["hm"]}, [objects])["heat_loss"] > 10 * losses["heat_loss"]
    if config.center.axis:
        back = {**maps, "way": -maps["way"]}
        assert head.losses(back, [objects])["way_loss"] > 1 > 1e3 * losses["way_loss"]
        (found,) = head.decode(back)
        order = torch.cdist(objects.boxes[:, :2], found.boxes[:, :2]).argmin(dim=1)
        assert torch.allclose((found.boxes[order, 6] - objects.boxes[:, 6]).cos(), torch.tensor(-1.0), atol=1e-4)


def test_objects_outside_teach_no_peak() -> None:
    outside = Objects(boxes().boxes + torch.tensor([40.0, 0, 0, 0, 0, 0, 0]), boxes().labels)
    heat, cells, _ = center_head.peaks(outside, CENTER, (32, 32))
    assert heat.max() == 0 and len(cells) == 0


def test_gaussian_radius_by_hand() -> None:
    # A square of side 10 at overlap 0.5: moving by r leaves (10 - r)^2 / (200 - (10 - r)^2).
    (radius,) = center_head.gaussian_radius(torch.tensor([[10.0, 10.0]]), 1 / 3).tolist()
    b, c = -2 / 3 * 20, -2 / 3 * 100
    assert radius <= 10 and radius == pytest.approx((b + math.sqrt(b * b - 4 * 4 / 3 * c)) / 2, rel=1e-5)


def test_choice_is_greedy_and_bounded() -> None:
    table = boxes().boxes[[0, 0, 1]] + torch.tensor([[0.0] * 7, [0.2] + [0.0] * 6, [0.0] * 7])
    found = Found(table, torch.tensor([0, 1, 1]), torch.tensor([0.5, 0.9, 0.4]))
    kept = choose(found, 0.2, 10)
    assert kept.scores.tolist() == pytest.approx([0.9, 0.4]) and kept.labels.tolist() == [1, 1]
    assert len(choose(found, 0.2, 1).boxes) == 1
