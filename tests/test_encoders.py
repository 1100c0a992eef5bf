from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robovision.encoders.base import CLIP, check_images
from robovision.encoders.build import build
from robovision.encoders.checkpoints import find_weights, load_pretrained
from robovision.encoders.coin import LEVELS, POINTS, CoIn, DeformableAttention, patch_centres
from robovision.encoders.names import ENCODERS
from robovision.encoders.resnet import ResNet50
from robovision.encoders.vit import SIZES, Attention, PatchEmbed, ViT, ViTSize, ViTStyle
from robovision.errors import UsageError
from robovision.testing import assert_equivariant, check_encoder, equivariance_error

SMALL = ViTSize(64, 2, 2)


def test_an_unknown_encoder_is_named_with_its_neighbours() -> None:
    with pytest.raises(UsageError, match="unknown encoder 'vit-tyni'; nearest: vit-tiny"):
        build("vit-tyni", 64)


@pytest.mark.parametrize("coin", [False, True])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 48)])
def test_contract(coin: bool, height: int, width: int) -> None:
    torch.manual_seed(0)
    check_encoder(ViT(SMALL, image_size=64, injector=CoIn(64, gamma=1.0) if coin else None), height, width)


def test_every_name_builds_with_published_size() -> None:
    # timm's vit_*_patch16_224 and torchvision's resnet50 without classification heads; CLIP's visual tower without
    # projection; DINOv2 at 224 px (518 px when it is trained) without mask token
    published = {
        "vit-tiny": 5_524_416,
        "vit-small": 21_665_664,
        "vit-base": 85_798_656,
        "resnet50": 23_508_032,
        "vip-resnet50": 23_508_032 + 2048 * 1024 + 1024,
        "clip-vit-b16": 85_799_424,
        "dinov2-vit-s14": 22_056_576 - (1370 - 257) * 384 - 384,
    }
    with torch.device("meta"):
        encoders = {name: build(name, 224) for name in published}
    assert {name: sum(p.numel() for p in encoders[name].parameters()) for name in published} == published


def test_every_name_declares_its_grid() -> None:
    with torch.device("meta"):
        grids = {name: build(name, 224).grid(224, 224) for name in ENCODERS}
    assert grids == {name: (224 // spec.patch,) * 2 for name, spec in ENCODERS.items()}


@pytest.mark.parametrize("bias", [True, False])
def test_patches_are_projected_alike_in_use_and_in_training(bias: bool) -> None:
    """In use as a convolution; in training as a product of matrices, with the convolution's gradients."""
    torch.manual_seed(0)
    embed = PatchEmbed(24, 8, bias).double()
    images, seen = torch.randn(2, 3, 16, 32).double(), torch.randn(2, 8, 24).double()
    with torch.no_grad():
        used = embed(images)
    trained = embed(images)
    convolved = embed.proj(images).flatten(2).transpose(1, 2)
    torch.testing.assert_close(used, convolved)
    torch.testing.assert_close(trained, convolved)
    parameters = [*embed.parameters()]
    gradients = [torch.autograd.grad((tokens * seen).sum(), parameters) for tokens in (trained, convolved)]
    torch.testing.assert_close(*gradients)


def test_attention_equals_the_formula() -> None:
    torch.manual_seed(0)
    layer = Attention(32, 4).double()
    x = torch.randn(2, 5, 32, dtype=torch.float64)
    q, k, v = (part.view(2, 5, 4, 8).transpose(1, 2) for part in layer.qkv(x).chunk(3, dim=-1))
    weights = (q @ k.transpose(-1, -2) / math.sqrt(8)).softmax(-1)
    expected = layer.proj((weights @ v).transpose(1, 2).reshape(2, 5, 32))
    assert torch.allclose(layer(x), expected, atol=1e-12)


STYLED = {
    "clip": (ViTStyle(eps=1e-5, quick_gelu=True, pre_norm=True), 16),
    "dinov2": (ViTStyle(layer_scale=True), 14),
    "registers": (ViTStyle(layer_scale=True, registers=4, antialias=True), 14),
    "patch8": (ViTStyle(), 8),
}


@pytest.mark.parametrize("coin", [False, True])
@pytest.mark.parametrize("style", STYLED)
def test_every_style_keeps_the_contract_at_other_sizes(style: str, coin: bool) -> None:
    torch.manual_seed(0)
    options, patch = STYLED[style]
    injector = CoIn(64, gamma=1.0) if coin else None
    vit = ViT(SMALL, patch=patch, image_size=4 * patch, injector=injector, style=options, normalisation=CLIP)
    check_encoder(vit, 4 * patch, 4 * patch)
    check_encoder(vit, 6 * patch, 3 * patch)


def test_a_resnet_keeps_the_contract_at_any_size() -> None:
    torch.manual_seed(0)
    for encoder in (ResNet50(), ResNet50(output=7)):
        check_encoder(encoder, 64, 64)
        check_encoder(encoder, 33, 70)
    with pytest.raises(ValueError, match="at least 32 px, got 31 x 64"):
        ResNet50()(torch.zeros(1, 3, 31, 64))


def test_images_are_normalised_with_the_encoders_own_statistics() -> None:
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    vit = ViT(SMALL, image_size=32, normalisation=CLIP)
    mean, std = (torch.tensor(values)[:, None, None] for values in CLIP)
    assert torch.allclose(vit.normalise(images), (images / 255 - mean) / std, atol=1e-5)


def test_positions_are_resized_for_other_images() -> None:
    vit = ViT(SMALL, image_size=64)
    assert vit.positions((4, 4)) is vit.pos_embed
    resized = vit.positions((8, 4))
    assert resized.shape == (1, 33, 64)
    assert torch.equal(resized[:, 0], vit.pos_embed[:, 0])


def test_image_sides_must_fit_the_patch() -> None:
    with pytest.raises(ValueError, match="multiples of 16 px, got 60 x 64"):
        ViT(SMALL)(torch.zeros(1, 3, 60, 64))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 4, 4, 3), r"channels come last here: use images\.permute\(0, 3, 1, 2\)"),
        (torch.zeros(3, 4, 4), r"got \[3, 4, 4\]; one image: use images\[None\]"),
        (torch.zeros(4, 4, 3), r"use images\.permute\(2, 0, 1\)\[None\]"),
        (torch.zeros(1, 1, 4, 4), r"grey images: use images\.expand"),
        (torch.zeros(1, 4, 4, 4), r"with transparency: use images\[:, :3\]"),
        (torch.zeros(1, 5, 4, 4), r"must be \[B, 3, H, W\], got \[1, 5, 4, 4\]$"),
        (torch.zeros(1, 3, 4, 4).numpy(), "must be a torch tensor, got ndarray"),
        (torch.zeros(1, 3, 4, 4).to_sparse(), r"must be dense, got layout torch\.sparse_coo"),
        (torch.zeros(1, 3, 0, 4), "must not be empty"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.bool), r"floating point of 16 bits or more, got torch\.bool"),
        (torch.zeros(1, 3, 4, 4).to(torch.float8_e4m3fn), r"got torch\.float8_e4m3fn: images\.float\(\)"),
        (torch.zeros(0, 3, 4, 4), "must not be empty"),
        (
            torch.zeros(1, 3, 4, 4, dtype=torch.int64),
            r"must be uint8 or floating point of 16 bits or more, got torch\.int64: .*to\(torch\.uint8\)",
        ),
        (torch.full((1, 3, 4, 4), 255.0), r"must lie in 0\.\.1, got 255\.\.255: divide by 255"),
        (torch.tensor([-1.0, 2.0, 0.5]).view(1, 3, 1, 1), r"got -1\.\.2: leave out your own normalisation"),
        (torch.full((1, 3, 4, 4), float("nan")), "hold NaN or infinite numbers: 48 of 48"),
        (torch.tensor([0.5, math.inf, 0.5]).view(1, 3, 1, 1), "hold NaN or infinite numbers: 1 of 3"),
    ],
)
def test_wrong_images_are_named(images: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_images(images)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_images_on_another_device_are_named(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"images are on meta and the encoder on cpu: use images\.to\('cpu'\)"):
        ViT(SMALL, image_size=32)(torch.zeros(1, 3, 32, 32, dtype=dtype, device="meta"))


@pytest.mark.parametrize("coin", [False, True])
def test_a_vit_in_half_precision_is_close(coin: bool) -> None:
    torch.manual_seed(0)
    vit = ViT(SMALL, image_size=64, injector=CoIn(64, gamma=1.0) if coin else None).eval()
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        full = vit(images).tokens
        half = vit.bfloat16()(images).tokens
    assert half.dtype == torch.bfloat16
    assert float((half.detach().float() - full).norm() / full.norm()) < 0.03


@pytest.mark.parametrize("coin", [False, True])
def test_a_vit_under_autocast_is_close_in_use_and_in_training(coin: bool) -> None:
    torch.manual_seed(0)
    vit = ViT(SMALL, image_size=64, injector=CoIn(64, gamma=1.0) if coin else None).eval()
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    full = vit(images).tokens.detach()
    for learns in (False, True):
        with torch.set_grad_enabled(learns), torch.autocast("cpu", torch.bfloat16):
            half = vit(images).tokens
        assert float((half.detach().float() - full).norm() / full.norm()) < 0.03
    half.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vit.parameters())


def test_coin_has_the_papers_number_of_parameters() -> None:
    assert sum(p.numel() for p in CoIn(768, quarter_map=True).parameters()) == 3_098_864
    assert sum(p.numel() for p in CoIn(768).parameters()) == 3_048_944


def test_coin_with_its_gate_shut_is_the_plain_vit() -> None:
    torch.manual_seed(0)
    plain = ViT(SMALL, image_size=64).eval()
    injected = ViT(SMALL, image_size=64, injector=CoIn(64)).eval()
    injected.load_state_dict(plain.state_dict(), strict=False)
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(plain(images).tokens, injected(images).tokens)
    nn.init.ones_(injected.injector.gamma)  # type: ignore[arg-type, union-attr]
    assert not torch.allclose(plain(images).tokens, injected(images).tokens, atol=1e-3)


@torch.no_grad()
def test_the_maps_of_the_spatial_prior_are_its_convolutions_and_marks() -> None:
    torch.manual_seed(0)
    prior, images, marks = CoIn(64, stem=8).prior, torch.rand(2, 3, 64, 96), torch.randn(3, 64)
    x = prior.stem(images)
    plain = prior(images)
    for level, found in enumerate(prior(images, marks)):
        x = prior.down[level](x)
        assert torch.allclose(plain[level], prior.project[level](x), atol=1e-5)
        assert torch.allclose(found, plain[level] + marks[level][:, None, None], atol=1e-5)


@torch.no_grad()
def test_coin_in_evaluation_normalises_with_the_statistics_it_has_seen() -> None:
    torch.manual_seed(0)
    prior = CoIn(64, stem=8).prior
    for _ in range(3):
        prior(torch.rand(4, 3, 64, 64))
    for parameter in prior.parameters():
        nn.init.normal_(parameter, mean=0.1, std=0.5)
    prior.eval()
    images = torch.rand(2, 3, 64, 64)
    x = prior.stem(images)
    for down, project, found in zip(prior.down, prior.project, prior(images), strict=True):
        x = down(x)
        expected = project(x)
        assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))


@torch.no_grad()
def naive_deformable_attention(
    layer: DeformableAttention, query: Tensor, reference: Tensor, values: Tensor, sizes: list[tuple[int, int]]
) -> Tensor:
    """Zhu et al. (2021), equation 3, one number after the other."""
    b, q, d = query.shape
    width = d // layer.heads
    offsets = layer.offsets(query).view(b, q, layer.heads, LEVELS, POINTS, 2)
    weights = layer.weights(query).view(b, q, layer.heads, LEVELS * POINTS).softmax(-1).view(*offsets.shape[:-1])
    value = layer.value(values)
    out = torch.zeros(b, q, d, dtype=query.dtype)
    for i, j, head, level, point in torch.cartesian_prod(*(torch.arange(n) for n in offsets.shape[:-1])).tolist():
        rows, columns = sizes[level]
        first = sum(h * w for h, w in sizes[:level])
        x = float(reference[j, 0]) * columns + float(offsets[i, j, head, level, point, 0]) - 0.5
        y = float(reference[j, 1]) * rows + float(offsets[i, j, head, level, point, 1]) - 0.5
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                if 0 <= row < rows and 0 <= column < columns:
                    share = (1 - abs(y - row)) * (1 - abs(x - column)) * weights[i, j, head, level, point]
                    part = slice(head * width, (head + 1) * width)
                    out[i, j, part] += share * value[i, first + row * columns + column, part]
    return layer.output(out)  # type: ignore[no-any-return]


def deformable_case() -> tuple[DeformableAttention, Tensor, Tensor, Tensor, list[tuple[int, int]]]:
    torch.manual_seed(0)
    layer = DeformableAttention(8, 2).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    sizes = [(4, 3), (2, 2), (1, 1)]
    values = torch.randn(2, 17, 8, dtype=torch.float64)
    return layer, torch.randn(2, 6, 8, dtype=torch.float64), patch_centres((2, 3)).double(), values, sizes


def test_deformable_attention_equals_the_naive_loop() -> None:
    case = deformable_case()
    expected = naive_deformable_attention(*case)
    assert torch.allclose(case[0](*case[1:]), expected, atol=1e-12)


def test_deformable_attention_has_the_right_gradients() -> None:
    layer, query, reference, values, sizes = deformable_case()
    assert torch.autograd.gradcheck(
        lambda q, v: layer(q, reference, v, sizes), (query.requires_grad_(), values.requires_grad_())
    )


@torch.no_grad()
def test_deformable_attention_hands_nan_on_and_sees_nothing_far_outside() -> None:
    layer, query, reference, values, sizes = deformable_case()
    query[0, 0] = float("nan")
    seen = layer(query, reference, values, sizes)
    assert seen[0, 0].isnan().all()
    assert seen[0, 1:].isfinite().all()
    nn.init.constant_(layer.offsets.bias, 1e12)
    assert torch.equal(layer(values[:, :6], reference, values, sizes), layer.output.bias.expand(2, 6, 8))


def test_deformable_attention_refuses_heads_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="width 10 is not divisible by 3 heads"):
        DeformableAttention(10, 3)


def roll(images: Tensor) -> Tensor:
    return images.roll((1, 2), (2, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_circular_convolution_is_equivariant_and_a_zero_padded_one_is_not(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    images = torch.randn(1, 3, 8, 8, dtype=dtype)
    assert_equivariant(nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular").to(dtype), images, roll)
    padded = nn.Conv2d(3, 4, 3, padding=1).to(dtype)
    assert equivariance_error(padded, images, roll) > 0.01
    with pytest.raises(AssertionError, match="equivariance error"):
        assert_equivariant(padded, images, roll)


def test_equivariance_errors_name_shapes_and_zeros() -> None:
    images = torch.ones(1, 1, 2, 3)
    turn: Callable[[Tensor], Tensor] = lambda x: x.transpose(2, 3)  # noqa: E731
    with pytest.raises(ValueError, match=r"\[1, 1, 3, 2\]"):
        equivariance_error(lambda x: x, images, turn, lambda x: x)
    with pytest.raises(ValueError, match="not all zero"):
        equivariance_error(lambda x: x * 0, images, turn)


@pytest.mark.parametrize("name", list(SIZES))
def test_heads_divide_widths(name: str) -> None:
    assert SIZES[name].width % SIZES[name].heads == 0


def test_strek_reads_the_strongest_keypoint_of_each_cell() -> None:
    encoder = build("strek", 64)
    load_pretrained(encoder, find_weights("strek"))
    check_encoder(encoder, 64, 96)
    with pytest.raises(ValueError, match="multiples of 8 px"):
        encoder(torch.zeros(1, 3, 60, 64))
    image = torch.full((1, 3, 64, 64), 0.2)
    image[..., 34:38, 18:22] = 0.9  # a spot in cell (4, 2), around (19.5, 35.5)
    with torch.no_grad():
        tokens = encoder(image).tokens.view(8, 8, 135)
        moved = encoder(image.roll((8, -16), (2, 3))).tokens.view(8, 8, 135)
    place = (tokens[4, 2, :2] + 1) / 2 * 64 - 0.5
    assert (place - torch.tensor([19.5, 35.5])).abs().max() < 4
    assert torch.allclose((tokens[4, 2, 2:4] + 1) / 2 * 8, place + 0.5 - torch.tensor([16.0, 32.0]), atol=1e-4)
    assert torch.allclose(moved[5, 0, 2:], tokens[4, 2, 2:], atol=1e-4)
    assert torch.allclose(tokens[..., 5:7].norm(dim=2), torch.ones(8, 8), atol=1e-4)
