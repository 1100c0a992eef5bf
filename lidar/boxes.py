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

PAIRS = 1 << 12
"""Pairs whose overlap is computed at once: some 2 MB in float64, which a core's cache holds, however many there are."""

NEARBY = 1 << 17
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
    return _pairwise(a, b, _bev_iou)


def iou_3d(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union [N, M] of the volumes of boxes [N, 7] and [M, 7]; 0 where both are empty."""
    return _pairwise(a, b, _iou_3d)


def paired_bev_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union [P] of the ground rectangles of boxes a[p] and b[p]."""
    return _bev_iou(_columns(a), _columns(b))


def paired_iou_3d(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union [P] of the volumes of boxes a[p] and b[p]."""
    return _iou_3d(_columns(a), _columns(b))


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
    order = points[:, 0].argsort()
    ascending = points.index_select(0, order)
    x = ascending[:, 0].contiguous()
    # Few points come near a box; only those are turned into its frame. Rounding must not lose any.
    reach = 0.51 * boxes[:, 3:5].norm(dim=1) + 1e-6 * boxes[:, 0].abs()
    first = torch.searchsorted(x, (boxes[:, 0] - reach).to(x.dtype)).tolist()
    last = torch.searchsorted(x, (boxes[:, 0] + reach).to(x.dtype), right=True).tolist()
    for k, box in enumerate(boxes):
        offset = ascending[first[k] : last[k], :3] - box[:3]
        ground = _rotate(offset[:, :2], -box[6]).abs() <= box[3:5] / 2
        held = ground.all(dim=1) & (offset[:, 2].abs() <= box[5] / 2)
        inside[k, order[first[k] : last[k]][held]] = True
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
    columns = _columns(boxes)
    for i, j in _near(columns, columns):
        i, j = i[i < j], j[i < j]
        over = _bev_iou(columns.index_select(1, i), columns.index_select(1, j)) > threshold
        found.append(torch.stack([i[over], j[over]]))
    better, worse = torch.cat(found, dim=1)
    return better, worse


def _pairwise(a: Tensor, b: Tensor, measure: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The measure [N, M] of all pairs of columns, which must be 0 for boxes that are too far apart to touch."""
    result = a.new_zeros(len(a) * len(b))
    one, other = _columns(a), _columns(b)
    for i, j in _near(one, other):
        result.index_copy_(0, i * len(b) + j, measure(one.index_select(1, i), other.index_select(1, j)))
    return result.view(len(a), len(b))


def _columns(boxes: Tensor) -> Tensor:
    """Boxes [N, 7] as [8, N]: centre x, y, z; half length, width, height; cosine and sine of the yaw.

    Raises:
        ValueError: naming the first box that is not finite or has a negative size: no overlap is defined for it.
    """
    check_boxes(boxes)
    wrong = ~boxes.isfinite().all(dim=1) | (boxes[:, 3:6] < 0).any(dim=1)
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise ValueError(f"boxes must be finite, with sizes >= 0; box {first} is {boxes[first].tolist()}")
    return torch.cat([boxes[:, :3].T, boxes[:, 3:6].T / 2, boxes[:, 6:].T.cos(), boxes[:, 6:].T.sin()])


def _near(a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices into columns a and b, a bounded number at a time, of pairs whose circles around the rectangles meet."""
    reach_a, reach_b = a[3:5].square().sum(dim=0).sqrt(), b[3:5].square().sum(dim=0).sqrt()
    rows = max(1, NEARBY // max(1, b.shape[1]))
    for first in range(0, a.shape[1], rows):
        part = slice(first, first + rows)
        apart = (a[0, part, None] - b[0]).square_()
        apart += (a[1, part, None] - b[1]).square_()
        near = apart <= (reach_a[part, None] + reach_b).square_()
        for pairs in torch.split(near.nonzero(), PAIRS):
            yield pairs[:, 0] + first, pairs[:, 1]


def _bev_iou(a: Tensor, b: Tensor) -> Tensor:
    return _over_union(_bev_intersection(a, b), 4 * a[3] * a[4], 4 * b[3] * b[4])


def _iou_3d(a: Tensor, b: Tensor) -> Tensor:
    top = torch.minimum(a[2] + a[5], b[2] + b[5])
    bottom = torch.maximum(a[2] - a[5], b[2] - b[5])
    shared = _bev_intersection(a, b) * (top - bottom).clamp(min=0)
    return _over_union(shared, 8 * a[3:6].prod(dim=0), 8 * b[3:6].prod(dim=0))


def _bev_intersection(a: Tensor, b: Tensor) -> Tensor:
    """Area [P], square metres, that the ground rectangles of columns a[:, p] and b[:, p] share: exact clipping.

    In b's own frame, b is |x| <= l/2, |y| <= w/2. Clamp the outline of a to it, coordinate by coordinate: the closed
    curve that comes out winds once around every inner point of the intersection and around nothing else, so that its
    integral of x dy is the area (Green's theorem). Of an edge only the time between the crossings of |y| = w/2 counts,
    where y is not clamped; there x is straight between the crossings of |x| = l/2, so trapezoids integrate it exactly.
    Nothing is decided by comparison: shared edges, touching corners and identical boxes need no case of their own.
    """
    x, y, length, width = a[0] - b[0], a[1] - b[1], a[3], a[4]
    cos, sin = a[6] * b[6] + a[7] * b[7], a[7] * b[6] - a[6] * b[7]
    # The pairs come last, so that every operation runs along memory: [4 edges, P]; the third runs against the first.
    along, across = (cos * length, sin * length), (-sin * width, cos * width)
    (x, dx), (y, dy) = (
        _edges(middle, u, v)
        for middle, u, v in zip((b[6] * x + b[7] * y, b[6] * y - b[7] * x), along, across, strict=True)
    )
    first, last = _crossings(y, dy, b[4])
    enter, leave = (time.clamp_(first, last) for time in _crossings(x, dx, b[3]))
    low = -b[3]
    area = (enter - first) * torch.addcmul(x, first, dx).clamp_(low, b[3])
    area.addcmul_(leave - first, torch.addcmul(x, enter, dx).clamp_(low, b[3]))
    area.addcmul_(last - enter, torch.addcmul(x, leave, dx).clamp_(low, b[3]))
    area.addcmul_(last - leave, torch.addcmul(x, last, dx).clamp_(low, b[3]))
    return (area * dy).sum(dim=0) / 2


def _edges(middle: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """One coordinate of where the four edges of a rectangle start, counter-clockwise, and of their steps, [4, P]."""
    front, back = middle + u, middle - u
    return torch.stack([front + v, back + v, back - v, front - v]), torch.stack([-u, -v, u, v]) * 2


def _crossings(start: Tensor, step: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """The times [4, P] in 0..1 from and until which |start + time step| <= half; equal if it never is."""
    tiny = torch.finfo(step.dtype).tiny ** 0.5
    inverse = torch.where(step[2:].abs() < tiny, tiny, step[2:]).reciprocal_()  # any will do where nothing changes
    inverse = torch.cat([-inverse, inverse])
    middle, around = start * inverse, half * inverse.abs()
    return (-around - middle).clamp_(0, 1), (around - middle).clamp_(0, 1)


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
