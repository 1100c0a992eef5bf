"""LookHere, NAT, Swin, CoSwin and DualToken-ViT: the contract, published sizes, and what makes each of them."""

from __future__ import annotations

import math
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision.bench.convnet import multiply_adds
from robovision.encoders.base import Encoder
from robovision.encoders.build import build
from robovision.encoders.dualtoken import SIDE, DualTokenSize, DualTokenViT, Shrink
from robovision.encoders.lookhere import (
    DirectedAttention,
    LookHere,
    directed_attention,
    directed_heads,
    offset_table,
)
from robovision.encoders.names import check_adapter, check_image_size
from robovision.encoders.nat import NAT, NATSize
from robovision.encoders.nat import SIZES as NAT_SIZES
from robovision.encoders.neighborhood import NeighborhoodAttention, by_natten, neighborhood_attention
from robovision.encoders.swin import SIZES as SWIN_SIZES
from robovision.encoders.swin import Swin, SwinSize
from robovision.encoders.vit import ViTSize
from robovision.errors import UsageError
from robovision.testing import check_encoder

SMALL = ViTSize(48, 2, 12)
SHORT_NAT = NATSize(16, 2, (1, 2), 2, kernel=3)
SHORT_SWIN = SwinSize(8, 2, (2, 2), window=4)
SHORT_DUAL = DualTokenSize((8, 16, 24), (1, 1, 1), (2, 2, 2))


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("encoder", [LookHere(SMALL, 8), NAT(SHORT_NAT), Swin(SHORT_SWIN), Swin(SHORT_SWIN, True)])
def test_contract(encoder: Encoder) -> None:
    check_encoder(encoder, 48, 48)
    check_encoder(encoder, 64, 32)


def test_contract_of_dualtoken() -> None:
    torch.manual_seed(0)
    check_encoder(DualTokenViT(SHORT_DUAL), 64, 96)
    with pytest.raises(ValueError, match="multiples of 32 px, got 48 x 64"):
        DualTokenViT(SHORT_DUAL)(torch.zeros(1, 3, 48, 64))


def test_global_tokens_pass_through_all_stages_and_know_their_place() -> None:
    torch.manual_seed(0)
    encoder = DualTokenViT(SHORT_DUAL).eval().double()
    images = random(1, 3, 64, 64)

    def change(place: int) -> Tensor:
        """How the output changes when one global token does."""
        before = encoder.encode(images).tokens
        encoder.tokens[:, place, 0] += 5
        change = encoder.encode(images).tokens - before
        encoder.tokens[:, place, 0] -= 5
        return change

    with torch.no_grad():
        assert float(change(0).abs().max()) > 1e-4
        for stage in list(encoder.stages)[:2]:  # no image token of the first two stages hears of it
            for block in stage:  # type: ignore[attr-defined]
                nn.init.zeros_(block.broadcast.proj.weight)
        assert float(change(0).abs().max()) > 1e-4
        for block in encoder.stages[2]:  # type: ignore[attr-defined]
            nn.init.zeros_(block.broadcast.proj.weight)
        assert float(change(0).abs().max()) == 0


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_maps_of_any_size_shrink_to_the_global_tokens(steps: int) -> None:
    shrink = Shrink(4, steps).eval().double()
    for rows, columns in ((SIDE << steps, SIDE << steps), (3, 20)):
        assert shrink(random(2, rows, columns, 4)).shape == (2, SIDE**2, 4)


def test_dualtoken_costs_linearly_many_operations() -> None:
    torch.manual_seed(0)
    with torch.device("meta"):
        encoder = DualTokenViT(SHORT_DUAL)
    small, middle, large = (multiply_adds(encoder, side) for side in (448, 896, 1792))
    assert (large - middle) / (middle - small) == pytest.approx(4, rel=0.01)


PUBLISHED = {
    "lookhere-vit-b16": (86.6e6 - 769e3 - 197 * 768, 17.6e9),  # ViT-B/16 less classifier and positions
    "nat-mini": (20.0e6 - 513e3, 2.7e9),
    "nat-tiny": (28.0e6 - 513e3, 4.3e9),
    "nat-small": (51.0e6 - 769e3, 7.8e9),
    "nat-base": (90.0e6 - 1.025e6, 13.7e9),
    "swin-tiny": (28.29e6 - 769e3, 4.5e9),
    "vit-small": (22.05e6 - 385e3, 4.6e9),
    "vit-base": (86.57e6 - 769e3, 17.6e9),
    "resnet50": (25.56e6 - 2.049e6, 4.1e9),
    "dualtoken-vit-t": (None, 0.5e9),
    "dualtoken-vit-s": (None, 1.0e9),
}
"""Parameters less those of the classifier for 1000 classes, and multiply-adds at 224 px."""
COUNTED = [name for name in PUBLISHED if not name.startswith(("nat", "swin"))]


@pytest.mark.parametrize("name", [name for name, (count, _) in PUBLISHED.items() if count is not None])
def test_parameters_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        encoder = build(name, 224)
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert count == pytest.approx(PUBLISHED[name][0], rel=0.03)


@pytest.mark.parametrize("name", COUNTED)
def test_counted_multiply_adds_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        encoder = build(name, 224)
    assert multiply_adds(encoder, 224) == pytest.approx(PUBLISHED[name][1], rel=0.03)


def attention_cost(name: str) -> float:
    """Multiply-adds of attention itself as the papers count them: 49 keys a query."""
    size = (NAT_SIZES if name.startswith("nat") else SWIN_SIZES)[name.split("-")[1]]
    return sum(2 * 49 * depth * (56 >> k) ** 2 * (size.width << k) for k, depth in enumerate(size.depths))


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name not in COUNTED])
def test_multiply_adds_are_the_published_ones(name: str) -> None:
    """Linear and convolution layers, counted by their inputs, and attention."""
    encoder = build(name, 224).eval()
    layers = 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal layers
        if isinstance(module, nn.Linear):
            layers += module.in_features * output.numel()
        elif isinstance(module, nn.Conv2d):
            layers += module.weight[0].numel() * output.numel()

    for module in encoder.modules():
        module.register_forward_hook(count)
    with torch.no_grad():
        encoder(torch.zeros(1, 3, 224, 224, dtype=torch.uint8))
    assert layers + attention_cost(name) == pytest.approx(PUBLISHED[name][1], rel=0.03)


def dense_mask(bias: Tensor, rows: int, columns: int) -> Tensor:
    """Neighbourhood attention's bias and window for every query and key, [heads, N, N]."""
    kernel = (bias.shape[-1] + 1) // 2
    mask = torch.full((len(bias), rows * columns, rows * columns), -math.inf, dtype=bias.dtype)
    for i in range(rows):
        for j in range(columns):
            top, left = (min(max(x - kernel // 2, 0), side - kernel) for x, side in ((i, rows), (j, columns)))
            for y in range(top, top + kernel):
                for x in range(left, left + kernel):
                    mask[:, i * columns + j, y * columns + x] = bias[:, y - i + kernel - 1, x - j + kernel - 1]
    return mask


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (5, 11), (8, 9)])
def test_neighbourhood_attention_is_masked_dense_attention(rows: int, columns: int) -> None:
    q, k, v = random(3, 2, 2, rows, columns, 4)
    bias = random(2, 5, 5)
    mask = dense_mask(bias, rows, columns)
    assert (mask[0].isfinite().sum(1) == 9).all()
    expected = functional.scaled_dot_product_attention(q.flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3), mask)
    assert torch.allclose(neighborhood_attention(q, k, v, bias, 3).flatten(2, 3), expected, atol=1e-12)


@pytest.mark.parametrize(("rows", "columns", "kernel"), [(7, 7, 7), (9, 12, 3), (11, 8, 7)])
@pytest.mark.filterwarnings("ignore")  # natten on a CPU says that it is slow there
def test_neighbourhood_attention_is_that_of_natten(rows: int, columns: int, kernel: int) -> None:
    """Without relative position bias, which natten has not; needs natten (its source installs without a GPU)."""
    pytest.importorskip("natten")
    q, k, v = random(3, 2, 2, rows, columns, 8).float()
    ours = neighborhood_attention(q, k, v, None, kernel)
    assert torch.allclose(ours, by_natten(q, k, v, kernel), atol=1e-5)


def test_natten_is_used_on_a_gpu_where_there_is_no_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for natten, whose layout is its own."""

    def na2d(q: Tensor, k: Tensor, v: Tensor, kernel_size: int) -> Tensor:
        q, k, v = (x.permute(0, 3, 1, 2, 4) for x in (q, k, v))
        mask = dense_mask(torch.zeros(2, 2 * kernel_size - 1, 2 * kernel_size - 1).double(), *q.shape[2:4])
        seen = functional.scaled_dot_product_attention(q.flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3), mask)
        calls.append(tuple(q.shape))
        return seen.view(q.shape).permute(0, 2, 3, 1, 4)

    calls: list[tuple[int, ...]] = []
    natten = ModuleType("natten")
    natten.__spec__ = ModuleSpec("natten", None)
    natten.na2d = na2d  # type: ignore[attr-defined]
    q, k, v = random(3, 2, 2, 5, 6, 4)
    plain = neighborhood_attention(q, k, v, None, 3)
    monkeypatch.setitem(sys.modules, "natten", natten)
    assert neighborhood_attention(q, k, v, None, 3).equal(plain) and not calls
    monkeypatch.setattr("robovision.encoders.neighborhood._on_gpu", lambda _: True)
    assert torch.allclose(neighborhood_attention(q, k, v, None, 3), plain, atol=1e-12)
    assert calls == [(2, 2, 5, 6, 4)]
    neighborhood_attention(q, k, v, random(2, 5, 5), 3)
    assert len(calls) == 1
    torch.manual_seed(0)
    layer = NeighborhoodAttention(8, 2, 3, relative_bias=False).double()
    layer(random(1, 5, 6, 8))
    assert calls[-1] == (1, 2, 5, 6, 4) and "rpb" not in layer.state_dict()


def test_neighbourhood_attention_has_the_right_gradients() -> None:
    torch.manual_seed(0)
    layer = NeighborhoodAttention(4, 2, 3).double()
    assert torch.autograd.gradcheck(layer, (random(1, 5, 4, 4).requires_grad_(),))
    layer(random(1, 5, 4, 4)).sum().backward()
    assert layer.rpb is not None and layer.rpb.grad is not None and float(layer.rpb.grad.abs().max()) > 0


def test_small_grids_and_wrong_kernels_are_told() -> None:
    with pytest.raises(UsageError, match="grid of 6 x 9 tokens is smaller than the neighbourhood of 7 x 7"):
        NeighborhoodAttention(4, 2)(torch.zeros(1, 6, 9, 4))
    with pytest.raises(UsageError, match="must be odd, got 4"):
        NeighborhoodAttention(4, 2, 4)
    with pytest.raises(UsageError, match="10 is not divisible by 3"):
        NeighborhoodAttention(10, 3)
    with pytest.raises(UsageError, match="size must be at least 224 pixels for nat-mini, got 64"):
        check_image_size("nat-mini", 64, "size")
    with pytest.raises(UsageError, match=r"nat-mini is no plain ViT: use --encoder\.adapter none"):
        check_adapter("nat-mini", "coin")
    with pytest.raises(UsageError, match="at least 4 heads"):
        LookHere(ViTSize(32, 2, 2))


@pytest.mark.parametrize(("view", "seen"), [(180, 45), (90, 25), (45, 15)])
def test_fields_of_view_have_the_right_size(view: int, seen: int) -> None:
    table = offset_table(view, 12, (5, 5))  # type: ignore[arg-type]
    assert directed_heads(12) == 8
    assert [int(head.isfinite().sum()) for head in table] == 8 * [seen] + 4 * [81]
    assert (table[:, 4, 4] == 0).all()
    covered = table[:8].isfinite().any(0)
    assert covered.all()
    assert table[8, 4, 8] == -1 and table[11, 4, 8] == -4 / 256
    assert table[:4, 4, :].nan_to_num(neginf=0).amin() == -2  # slope 1/2, four patches


def test_directed_attention_is_the_dense_formula() -> None:
    rows, columns = 3, 5
    q, k, v = random(3, 2, 12, 16, 4)
    table = offset_table(90, 12, (rows, columns)).double()
    mask = torch.zeros(12, 16, 16, dtype=torch.float64)
    for query in range(15):
        for key in range(15):
            down, right = key // columns - query // columns, key % columns - query % columns
            mask[:, 1 + query, 1 + key] = table[:, down + rows - 1, right + columns - 1]
    expected = functional.scaled_dot_product_attention(q, k, v, mask)
    assert torch.allclose(directed_attention(q, k, v, table), expected, atol=1e-12)


def test_the_mask_is_cut_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = random(3, 1, 12, 17, 4)
    table = offset_table(45, 12, (4, 4)).double()
    whole = directed_attention(q, k, v, table)
    monkeypatch.setattr("robovision.encoders.lookhere.CHUNK", 1)
    assert torch.allclose(directed_attention(q, k, v, table), whole, atol=1e-12)


def test_what_is_masked_on_a_larger_canvas_does_not_matter() -> None:
    """The same patches in the middle of a larger grid, the others hidden, see the same."""
    torch.manual_seed(0)
    layer = DirectedAttention(24, 12, slope=1.0).double()
    table = offset_table(90, 12, (3, 3)).double()
    x = random(1, 10, 24)
    q, k, v = layer.qkv(x).view(1, 10, 3, 12, 2).permute(2, 0, 3, 1, 4)
    small = directed_attention(q, k, v, table)[:, :, 1:]
    large_table = offset_table(90, 12, (5, 5)).double()
    places = torch.tensor([6, 7, 8, 11, 12, 13, 16, 17, 18])
    big_q, big_k, big_v = (torch.zeros(1, 12, 26, 2, dtype=torch.float64) for _ in range(3))
    for big, own in ((big_q, q), (big_k, k), (big_v, v)):
        big[:, :, 0] = own[:, :, 0]
        big[:, :, 1 + places] = own[:, :, 1:]
    windows = large_table.unfold(1, 5, 1).unfold(2, 5, 1).reshape(12, 25, 25).flip(1)
    mask = torch.cat([torch.zeros(12, 25, 1, dtype=torch.float64), windows], dim=2)
    hidden = torch.ones(26, dtype=torch.bool)
    hidden[0] = False
    hidden[1 + places] = False
    mask[:, :, hidden] = -math.inf
    large = functional.scaled_dot_product_attention(big_q[:, :, 1:], big_k, big_v, mask)
    assert torch.allclose(large[:, :, places], small, atol=1e-12)


def test_coswin_without_its_branch_is_swin() -> None:
    torch.manual_seed(0)
    coswin, swin = Swin(SHORT_SWIN, True).eval(), Swin(SHORT_SWIN).eval()
    swin.load_state_dict({k: v for k, v in coswin.state_dict().items() if ".branch." not in k})
    images = torch.rand(1, 3, 64, 64)
    assert not torch.allclose(coswin(images).tokens, swin(images).tokens, atol=1e-3)
    for module in coswin.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    assert torch.equal(coswin(images).tokens, swin(images).tokens)


RENAMED = {
    "embeddings.patch_embeddings.projection": "patch_embed",
    "embeddings.norm": "patch_norm",
    "encoder.layers": "stages",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.relative_position_bias.relative_position_bias_table": "attn.bias",
    "attention.o_proj": "attn.proj",
    "mlp.": "",
    "layernorm": "norm",
    ".blocks.": ".",
}
"""Parts of parameter names in transformers 5, and ours."""


def renamed(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of transformers' Swin by our names."""
    tensors: dict[str, Tensor] = {}
    for name, value in theirs.items():
        if "relative_position_index" in name or ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            tensors[name.replace("attention.q_proj", "attn.qkv")] = torch.cat(
                [theirs[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            )
        else:
            tensors[name] = value
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        new = name
        for old, own in RENAMED.items():
            new = new.replace(old, own)
        stage, _, part = new.partition(".downsample.")
        found[f"merge.{stage.removeprefix('stages.')}.{part}" if part else new] = value
    return found


@pytest.mark.parametrize(("height", "width"), [(64, 64), (80, 48)])
def test_swin_is_that_of_transformers(height: int, width: int) -> None:
    """At a grid that windows tile, and at one that they don't."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.SwinConfig(
        image_size=64, embed_dim=8, depths=[2, 2], num_heads=[2, 4], window_size=4, drop_path_rate=0.0
    )
    peer = transformers.SwinModel(config, add_pooling_layer=False).eval()
    for parameter in peer.parameters():
        nn.init.normal_(parameter, std=0.1)
    ours = Swin(SHORT_SWIN).eval()
    ours.load_state_dict(renamed(peer.state_dict()))
    images = torch.rand(2, 3, height, width)
    with torch.no_grad():
        found = ours.encode(images).tokens
        expected = peer(images, interpolate_pos_encoding=True).last_hidden_state
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
