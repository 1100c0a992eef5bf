"""Oriented boxes as tensors: corners, overlaps, points inside, non-maximum suppression; any device, float32 or float64.

Convention:
    boxes: [N, 7], metres and radians: geometric centre x, y, z; length along the heading, width, height; yaw,
        counter-clockwise about z from the x axis. Sizes are not negative.
    rectangles: [N, 4], pixels: left, top, right, bottom.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from robovision.symmetry.space import check_boxes
from robovision.types import Boxes3D

PAIRS = 1 << 15
"""Pairs whose overlap is computed at once: some 16 MB in float64, however many boxes there are."""

NEARBY = 1 << 21
"""Pairs whose distance is looked at at once."""


def to_tensor(boxes: Boxes3D, dtype: torch.dtype = torch.float64) -> Tensor:
    """The boxes as a tensor [N, 7] on the CPU."""
    columns = np.concatenate([boxes.centers, boxes.sizes, boxes.yaw[:, None]], axis=1)
    return torch.from_numpy(columns).to(dtype)


def corners(boxes: Tensor) -> Tensor:
    """The corners [N, 8, 3] of boxes [N, 7]: counter-clockwise from the front left, the bottom four first."""
    check_boxes(boxes)
    ground = boxes[:, None, :2] + _rotate(_outline(boxes[:, 3:5]), boxes[:, None, 6])
    half = boxes[:, 5] / 2
    heights = torch.stack([boxes[:, 2] - half, boxes[:, 2] + half], dim=1).repeat_interleave(4, dim=1)
    return torch.cat([ground.repeat(1, 2, 1), heights[..., None]], dim=2)


def bev_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union [N, M] of the ground rectangles of boxes [N, 7] and [M, 7]; 0 where both are points."""
    return _pairwise(a, b, paired_bev_iou)


def iou_3d(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union [N, M] of the volumes of boxes [N, 7] and [M, 7]; 0 where both are empty."""
    return _pairwise(a, b, paired_iou_3d)


def paired_bev_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union [P] of the ground rectangles of boxes a[p] and b[p]."""
    return _over_union(_bev_intersection(a, b), a[:, 3] * a[:, 4], b[:, 3] * b[:, 4])


def paired_iou_3d(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union [P] of the volumes of boxes a[p] and b[p]."""
    top = torch.minimum(a[:, 2] + a[:, 5] / 2, b[:, 2] + b[:, 5] / 2)
    bottom = torch.maximum(a[:, 2] - a[:, 5] / 2, b[:, 2] - b[:, 5] / 2)
    shared = _bev_intersection(a, b) * (top - bottom).clamp(min=0)
    return _over_union(shared, a[:, 3:6].prod(dim=1), b[:, 3:6].prod(dim=1))


def rectangle_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union [...] of upright rectangles [..., 4]; shapes broadcast; 0 where both are points."""
    return _over_union(_rectangle_intersection(a, b), _rectangle_area(a), _rectangle_area(b))


def rectangle_coverage(a: Tensor, b: Tensor) -> Tensor:
    """Share [...] of the area of rectangles a [..., 4] that lies in b; shapes broadcast; 0 where a is a point."""
    area = _rectangle_area(a)
    return torch.where(area > 0, _rectangle_intersection(a, b) / area, 0.0)


def points_in_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    """Which points [P, 3] lie in which boxes [N, 7], bool [N, P]; the surface belongs to the box."""
    check_boxes(boxes)
    inside = torch.zeros(len(boxes), len(points), dtype=torch.bool, device=boxes.device)
    rows = max(1, NEARBY // max(1, len(points)))
    for first in range(0, len(boxes), rows):
        part = boxes[first : first + rows]
        # Few points come near a box; only those are turned into its frame.
        beside = (points[None, :, 0] - part[:, None, 0]).abs() <= part[:, 3:5].norm(dim=1)[:, None]
        i, j = beside.nonzero().unbind(dim=1)
        box, offset = part[i], points[j] - part[i, :3]
        ground = _rotate(offset[:, :2], -box[:, 6]).abs() <= box[:, 3:5] / 2
        inside[first + i, j] = ground.all(dim=1) & (offset[:, 2].abs() <= box[:, 5] / 2)
    return inside


def nms_bev(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Indices int64 [K], best first, of the boxes [N, 7] that no better kept box overlaps by more than the threshold.

    Overlap is the intersection over union on the ground. Of equal scores [N] the first box is the better one.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    better, worse = _overlapping(boxes[order], threshold)
    keep = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    while True:
        # A box's fate depends on better boxes only, so this settles the best first, and then the next best: its
        # fixed point is what the greedy loop over boxes gives, reached in as many steps as the longest chain has.
        beaten = torch.zeros_like(keep)
        beaten[worse[keep[better]]] = True
        if torch.equal(keep, ~beaten):
            return order[keep]
        keep = ~beaten


def _overlapping(boxes: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Indices [P] and [P] of the pairs, the earlier box first, that overlap on the ground by more than a threshold."""
    found = [torch.zeros(2, 0, dtype=torch.int64, device=boxes.device)]
    for i, j in _near(boxes, boxes):
        i, j = i[i < j], j[i < j]
        over = paired_bev_iou(boxes[i], boxes[j]) > threshold
        found.append(torch.stack([i[over], j[over]]))
    better, worse = torch.cat(found, dim=1)
    return better, worse


def _pairwise(a: Tensor, b: Tensor, measure: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The measure [N, M] of all pairs, which must be 0 for boxes that are too far apart to touch."""
    result = a.new_zeros(len(a), len(b))
    for i, j in _near(a, b):
        result[i, j] = measure(a[i], b[j])
    return result


def _near(a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices into a and b, a bounded number at a time, of pairs whose circles around the ground rectangles meet."""
    check_boxes(a)
    check_boxes(b)
    reach_a, reach_b = a[:, 3:5].norm(dim=1) / 2, b[:, 3:5].norm(dim=1) / 2
    rows = max(1, NEARBY // max(1, len(b)))
    for first in range(0, len(a), rows):
        part = slice(first, first + rows)
        apart = (a[part, None, :2] - b[None, :, :2]).square().sum(dim=-1)
        near = apart <= (reach_a[part, None] + reach_b[None]).square()
        for pairs in near.nonzero().split(PAIRS):
            yield pairs[:, 0] + first, pairs[:, 1]


def _bev_intersection(a: Tensor, b: Tensor) -> Tensor:
    """Area [P], square metres, that the ground rectangles of boxes a[p] and b[p] share: exact polygon clipping.

    In b's own frame, b is |x| <= l/2, |y| <= w/2. Clamp the outline of a to it, coordinate by coordinate: the closed
    curve that comes out winds once around every inner point of the intersection and around nothing else, so that its
    integral of x dy is the area (Green's theorem). The clamped outline is straight between the times at which an edge
    crosses the four lines, so trapezoids integrate it exactly. Nothing is decided by comparison: shared edges,
    touching corners and identical boxes need no case of their own.
    """
    middle = _rotate(a[:, :2] - b[:, :2], -b[:, 6]).T
    # The pairs come last, so that every operation runs along memory: [2 coordinates, 4 corners, P].
    outline = _rotate(_outline(a[:, 3:5]), (a[:, 6] - b[:, 6])[:, None]).permute(2, 1, 0)
    start = (middle[:, None] + outline).contiguous()
    step = start.roll(-1, dims=1) - start
    half = b[:, 3:5].T[:, None] / 2
    tiny = torch.finfo(a.dtype).tiny
    inverse = 1 / torch.where(step.abs() < tiny, tiny, step)  # any time will do where nothing changes
    one, other = (-half - start) * inverse, (half - start) * inverse
    enter, leave = torch.minimum(one, other).clamp_(0, 1), torch.maximum(one, other).clamp_(0, 1)
    first, last = enter[1], leave[1]
    area = torch.zeros_like(a[:, 0])
    before = None
    for time in (first, enter[0].clamp(first, last), leave[0].clamp(first, last), last):
        x, y = torch.minimum(torch.maximum(torch.addcmul(start, time, step), -half), half)
        if before is not None:
            area += ((x + before[0]) * (y - before[1])).sum(dim=0)
        before = x, y
    return area / 2


def _rectangle_intersection(a: Tensor, b: Tensor) -> Tensor:
    extent = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    return extent.clamp(min=0).prod(dim=-1)


def _rectangle_area(a: Tensor) -> Tensor:
    return (a[..., 2:] - a[..., :2]).prod(dim=-1)


def _over_union(shared: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Shared over united area, with rounding kept from leaving 0..1; 0 where the union has no area."""
    shared = torch.minimum(shared.clamp(min=0), torch.minimum(a, b))
    union = a + b - shared
    return torch.where(union > 0, shared / union, 0.0)


def _outline(sizes: Tensor) -> Tensor:
    """Corners [N, 4, 2], counter-clockwise, of rectangles of sizes [N, 2] around the origin."""
    signs = sizes.new_tensor([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    return sizes[:, None] / 2 * signs


def _rotate(points: Tensor, angle: Tensor) -> Tensor:
    """Points [..., 2] turned counter-clockwise by angles [...]."""
    x, y = points.unbind(dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1)
