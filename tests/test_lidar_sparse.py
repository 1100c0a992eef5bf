from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from robovision.lidar import rulebooks
from robovision.lidar.detectors.config import Grid
from robovision.lidar.rulebooks import Triple, output_shape, submanifold
from robovision.lidar.sparse import (
    InverseConv3d,
    Sites,
    SparseConvolution,
    SparseMap,
    SparseSequential,
    StridedConv3d,
    SubmanifoldConv3d,
)
from robovision.lidar.voxels import voxelise

SHAPE = (5, 9, 11)
KERNELS = (((3, 3, 3), (2, 2, 2), (1, 1, 1)), ((3, 3, 3), (2, 2, 2), (0, 1, 1)), ((3, 1, 1), (2, 1, 1), (0, 0, 0)))


def random_map(width: int, seed: int, share: float = 0.15, shape: Triple = SHAPE, size: int = 2) -> SparseMap:
    """Features at random sites, those at the grid's edges among them."""
    generator = torch.Generator().manual_seed(seed)
    there = torch.rand(size, *shape, generator=generator) < share
    there[:, 0, 0, 0] = there[:, -1, -1, -1] = there[:, 0, 0, -1] = there[:, -1, 0, 0] = True
    coordinates = there.nonzero()
    features = torch.randn(len(coordinates), width, generator=generator)
    return SparseMap(features.requires_grad_(), Sites(coordinates, shape, size))


def dense_kernel(layer: SparseConvolution) -> Tensor:
    """The kernel as Conv3d has it: [outputs, inputs, D, H, W]."""
    _, width, channels = layer.weight.shape
    return layer.weight.view(*layer.kernel, width, channels).permute(4, 3, 0, 1, 2)


def at(grid: Tensor, sites: Sites) -> Tensor:
    sample, z, y, x = sites.coordinates.unbind(dim=1)
    return grid[sample, :, z, y, x]


def same(sparse: Tensor, dense: Tensor, *leaves: Tensor) -> None:
    """Equal values and equal gradients of the leaves, within 1e-5 of their size."""
    close(sparse, dense)
    weight = torch.randn(sparse.shape, generator=torch.Generator().manual_seed(9)).to(sparse)
    ours = torch.autograd.grad((sparse * weight).sum(), leaves, retain_graph=True)
    theirs = torch.autograd.grad((dense * weight).sum(), leaves, retain_graph=True)
    for one, other in zip(ours, theirs, strict=True):
        assert other.abs().max() > 0
        close(one, other)


def close(one: Tensor, other: Tensor) -> None:
    assert one.shape == other.shape
    assert (one - other).abs().max() <= 1e-5 * other.abs().max().clamp(min=1)


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 5), (1, 1, 1)])
def test_submanifold_equals_dense(kernel: Triple) -> None:
    torch.manual_seed(0)
    inputs = random_map(4, 1)
    layer = SubmanifoldConv3d(4, 6, kernel)
    padding = tuple(side // 2 for side in kernel)
    dense = functional.conv3d(inputs.dense(), dense_kernel(layer), layer.bias, padding=padding)
    result = layer(inputs)
    assert result.sites is inputs.sites and layer.bias is not None
    same(result.features, at(dense, inputs.sites), inputs.features, layer.weight, layer.bias)


@pytest.mark.parametrize(("kernel", "stride", "padding"), KERNELS)
def test_strided_and_inverse_equal_dense(kernel: Triple, stride: Triple, padding: Triple) -> None:
    torch.manual_seed(1)
    inputs = random_map(3, 2)
    layer = StridedConv3d(3, 5, kernel, stride, padding, bias=False)
    result = layer(inputs)
    dense = functional.conv3d(inputs.dense(), dense_kernel(layer), None, stride, padding)
    assert tuple(dense.shape[2:]) == result.sites.shape == output_shape(SHAPE, kernel, stride, padding)
    # Sites are exactly where a kernel of ones meets an input.
    met = functional.conv3d(
        (inputs.dense() != 0).any(1, True).float(), torch.ones(1, 1, *kernel), None, stride, padding
    )
    assert torch.equal(result.sites.coordinates, (met[:, 0] > 0).nonzero())
    same(result.features, at(dense, result.sites), inputs.features, layer.weight)

    back = InverseConv3d(5, 2, kernel, bias=False)
    returned = back(result)
    assert returned.sites is inputs.sites
    weight = back.weight.view(*kernel, 5, 2).permute(3, 4, 0, 1, 2)
    extra = [SHAPE[k] - ((result.sites.shape[k] - 1) * stride[k] - 2 * padding[k] + kernel[k]) for k in range(3)]
    grid = functional.conv_transpose3d(result.dense(), weight, None, stride, padding, extra)
    same(returned.features, at(grid, inputs.sites), inputs.features, back.weight, layer.weight)


def test_many_blocks_and_double_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rulebooks, "BLOCK", 1000)
    torch.manual_seed(2)
    inputs = random_map(2, 3, share=0.6, shape=(6, 20, 20))
    assert len(inputs.sites.submanifold((3, 3, 3)).forward) > 10
    layer = SubmanifoldConv3d(2, 3, bias=False).double()
    features = inputs.features.detach().double().requires_grad_()
    result = layer(SparseMap(features, inputs.sites)).features
    grid = SparseMap(features, inputs.sites).dense()
    dense = at(functional.conv3d(grid, dense_kernel(layer), padding=1), inputs.sites)
    assert (result - dense).abs().max() < 1e-13
    same(result, dense, features, layer.weight)


def test_rulebooks_are_made_once() -> None:
    inputs = random_map(2, 4)
    net = SparseSequential(SubmanifoldConv3d(2, 2), torch.nn.BatchNorm1d(2), torch.nn.ReLU(), SubmanifoldConv3d(2, 2))
    net(inputs)
    book = inputs.sites.submanifold((3, 3, 3))
    net(inputs)
    assert inputs.sites.submanifold((3, 3, 3)) is book
    first, second = StridedConv3d(2, 2)(inputs).sites, StridedConv3d(2, 4)(inputs).sites
    assert first is second


@pytest.mark.parametrize("layer", [SubmanifoldConv3d(8, 8), StridedConv3d(8, 8)])
def test_autocast_is_near_and_has_gradients(layer: SubmanifoldConv3d | StridedConv3d) -> None:
    inputs = random_map(8, 5)
    exact = layer(inputs).features
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(inputs).features
    assert half.dtype is torch.bfloat16
    assert (half.float() - exact).abs().max() < 0.03 * exact.abs().max()
    (gradient,) = torch.autograd.grad(half.float().square().sum(), [layer.weight])
    (wanted,) = torch.autograd.grad(exact.square().sum(), [layer.weight])
    assert gradient.dtype is torch.float32
    assert (gradient - wanted).norm() < 0.05 * wanted.norm()


def test_inputs_that_lead_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a stride as long as the grid only the first slice of inputs meets any output, so that blocks are empty."""
    monkeypatch.setattr(rulebooks, "BLOCK", 8)
    torch.manual_seed(3)
    inputs = random_map(2, 7, share=0.9, shape=(4, 20, 20))
    layer = StridedConv3d(2, 3, (1, 1, 1), (4, 1, 1), 0)
    result = layer(inputs)
    book, _ = inputs.sites.strided((1, 1, 1), (4, 1, 1), (0, 0, 0))
    assert min(len(block.order) for block in book.backward) == 0 < len(book.forward) - 1
    dense = functional.conv3d(inputs.dense(), dense_kernel(layer), layer.bias, (4, 1, 1))
    assert layer.bias is not None
    same(result.features, at(dense, result.sites), inputs.features, layer.weight, layer.bias)
    with torch.no_grad():
        assert torch.equal(layer(inputs).features, result.features)


def test_nothing_in_nothing_out() -> None:
    sites = Sites(torch.zeros(0, 4, dtype=torch.int64), SHAPE, 1)
    inputs = SparseMap(torch.zeros(0, 3), sites)
    assert SubmanifoldConv3d(3, 5)(inputs).features.shape == (0, 5)
    down = StridedConv3d(3, 5)(inputs)
    assert down.features.shape == (0, 5)
    assert down.dense().shape == (1, 5, 3, 5, 6)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="odd"):
        SubmanifoldConv3d(1, 1, 2)
    with pytest.raises(ValueError, match="come from none"):
        InverseConv3d(4, 1)(random_map(4, 6))
    with pytest.raises(ValueError, match="size"):
        InverseConv3d(4, 1, 5)(StridedConv3d(4, 4)(random_map(4, 6)))


def test_neighbours_do_not_wrap_around() -> None:
    coordinates = torch.tensor([[0, 0, 0, 10], [0, 0, 1, 0], [0, 0, 8, 10], [0, 2, 0, 0], [1, 0, 0, 0]])
    pairs = [len(inputs) for inputs in submanifold(coordinates, SHAPE, (3, 3, 3)).inputs]
    assert pairs[13] == sum(pairs) == 5


@pytest.mark.parametrize("size", [0.5, 0.01])
def test_voxels_hold_their_points(size: float) -> None:
    grid = Grid((-2.0, -3.0, -1.0), (2.0, 3.0, 1.0), (size, size, size))
    generator = torch.Generator().manual_seed(7)
    points = torch.randn(500, 4, generator=generator) * 2
    sample = torch.randint(3, (500,), generator=generator).sort().values
    voxels = voxelise(points, sample, grid)
    low, high = torch.tensor(grid.low), torch.tensor(grid.high)
    inside = ((points[:, :3] >= low) & (points[:, :3] < high)).all(dim=1)
    assert 0 < inside.sum() < 500
    assert torch.equal(voxels.points, points[inside])
    cell = ((points[inside, :3] - low) / size).floor().long()
    wanted = torch.cat([sample[inside][:, None], cell[:, [2, 1, 0]]], dim=1)
    assert torch.equal(voxels.coordinates[voxels.index], wanted)
    assert torch.equal(voxels.coordinates, torch.unique(wanted, dim=0))
    mine = voxels.index == 0
    assert torch.allclose(voxels.mean(voxels.points)[0], voxels.points[mine].mean(dim=0))
    assert torch.equal(voxels.maximum(voxels.points.abs())[0], voxels.points[mine].abs().amax(dim=0))


def test_voxels_of_nothing() -> None:
    grid = Grid((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.5, 0.5, 0.5))
    for points in (torch.zeros(0, 3), torch.full((4, 3), 9.0)):
        voxels = voxelise(points, torch.zeros(len(points), dtype=torch.int64), grid)
        assert voxels.coordinates.shape == (0, 4) and len(voxels.points) == 0
    with pytest.raises(ValueError, match="sample"):
        voxelise(torch.zeros(3, 3), torch.zeros(2, dtype=torch.int64), grid)
