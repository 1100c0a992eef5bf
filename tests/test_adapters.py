from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision.encoders.adapters import adapt, adapter_parameters, is_adapter
from robovision.encoders.build import build, set_trainable
from robovision.encoders.coin import CoIn
from robovision.encoders.names import Adapter
from robovision.encoders.vit import ViT, ViTSize, ViTStyle
from robovision.errors import UsageError
from robovision.testing import check_encoder

SMALL = ViTSize(64, 2, 2)
KINDS = ("adaptformer", "roboadapter", "lora")


def adapted(kind: str, style: ViTStyle = ViTStyle()) -> ViT:  # noqa: B008
    torch.manual_seed(0)
    vit = ViT(SMALL, image_size=64, style=style)
    adapt(vit, kind)
    return vit


def trained(kind: str) -> ViT:
    vit = adapted(kind)
    for parameter in adapter_parameters(vit):
        nn.init.normal_(parameter, std=0.2)
    return vit


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_starts_as_the_plain_vit_and_keeps_its_names(kind: str) -> None:
    torch.manual_seed(0)
    plain = ViT(SMALL, image_size=64)
    vit = adapted(kind)
    images = torch.rand(2, 3, 64, 64)
    assert [name for name in vit.state_dict() if not is_adapter(name)] == list(plain.state_dict())
    assert torch.allclose(vit(images).tokens, plain(images).tokens, atol=1e-6)
    assert not torch.allclose(trained(kind)(images).tokens, plain(images).tokens, atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_contract(kind: str) -> None:
    check_encoder(trained(kind), 96, 48)


def test_adapters_have_their_published_sizes() -> None:
    width, blocks = 64, 2
    bottleneck = 2 * 64 * width + 64 + width
    expected = {"adaptformer": bottleneck, "roboadapter": 2 * bottleneck, "lora": 2 * 2 * 8 * width}
    found = {kind: sum(p.numel() for p in adapter_parameters(adapted(kind))) // blocks for kind in KINDS}
    assert found == expected


def reference(vit: ViT, kind: str, x: Tensor) -> Tensor:
    """The first block written out with its parameters by name."""
    p = {name.removeprefix("blocks.0."): value for name, value in vit.state_dict().items()}

    def linear(name: str, value: Tensor) -> Tensor:
        return functional.linear(value, p[f"{name}.weight"], p.get(f"{name}.bias"))

    def norm(name: str, value: Tensor) -> Tensor:
        return functional.layer_norm(value, (64,), p[f"{name}.weight"], p[f"{name}.bias"], 1e-6)

    def bottleneck(name: str, value: Tensor, activation: str) -> Tensor:
        return linear(f"{name}.up", getattr(functional, activation)(linear(f"{name}.down", value)))

    y = norm("norm1", x)
    q, k, v = linear("attn.qkv", y).chunk(3, -1)
    if kind == "lora":
        q = q + 16 / 8 * linear("attn.qkv.adapter.query.1", linear("attn.qkv.adapter.query.0", y))
        v = v + 16 / 8 * linear("attn.qkv.adapter.value.1", linear("attn.qkv.adapter.value.0", y))
    heads = [t.reshape(*t.shape[:2], 2, 32).transpose(1, 2) for t in (q, k, v)]
    weights = (heads[0] @ heads[1].transpose(2, 3) / math.sqrt(32)).softmax(-1)
    attended = linear("attn.proj", (weights @ heads[2]).transpose(1, 2).flatten(2))
    if kind == "roboadapter":
        attended = attended + bottleneck("adapter.0", attended, "gelu")
    x = x + attended
    computed = linear("mlp.fc2", functional.gelu(linear("mlp.fc1", norm("norm2", x))))
    if kind == "roboadapter":
        computed = computed + bottleneck("adapter.1", computed, "gelu")
    if kind == "adaptformer":
        computed = computed + 0.1 * bottleneck("adapter", x, "relu")
    return x + computed


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapted_block_equals_the_formula(kind: str) -> None:
    vit = trained(kind).double()
    x = torch.randn(2, 5, 64, dtype=torch.float64)
    assert torch.allclose(vit.blocks[0](x), reference(vit, kind, x), atol=1e-12)


@pytest.mark.parametrize("kind", [*KINDS, "coin"])
def test_modes_train_what_they_say(kind: Adapter) -> None:
    torch.manual_seed(0)
    encoder = build("vit-tiny", 32, kind)
    for mode, expected in (("full", {True, False}), ("adapter", {True}), ("frozen", set())):
        set_trainable(encoder, mode)
        assert {is_adapter(name) for name, p in encoder.named_parameters() if p.requires_grad} == expected
    set_trainable(encoder, "adapter")
    encoder(torch.rand(2, 3, 32, 32)).tokens.square().sum().backward()
    assert {is_adapter(name) for name, p in encoder.named_parameters() if p.grad is not None} == {True}


def test_coin_over_every_style_starts_as_the_plain_vit() -> None:
    for style in (ViTStyle(pre_norm=True, quick_gelu=True), ViTStyle(layer_scale=True, registers=4)):
        for patch in (8, 14, 16, 32):
            torch.manual_seed(0)
            plain = ViT(SMALL, patch=patch, image_size=4 * patch, style=style).eval()
            injected = ViT(SMALL, patch=patch, image_size=4 * patch, injector=CoIn(64), style=style).eval()
            own = {name: value for name, value in injected.state_dict().items() if is_adapter(name)}
            injected.load_state_dict({**plain.state_dict(), **own})
            images = torch.rand(1, 3, 5 * patch, 3 * patch)
            assert torch.equal(plain(images).tokens, injected(images).tokens)
            assert torch.equal(plain(images).pooled, injected(images).pooled)


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(UsageError, match="coin adapts the tokens of a ViT, and r3m-resnet50 is a ResNet"):
        build("r3m-resnet50", 224, "coin")
    with pytest.raises(UsageError, match="multiple of the patch, 14 pixels, got 64; nearest: 56 and 70"):
        build("dinov2-vit-s14", 64)
    with pytest.raises(UsageError, match="at least 32 pixels for resnet50, got 16"):
        build("resnet50", 16)
    with pytest.raises(UsageError, match="image_size must be a multiple of 32 pixels for coin-aliasfree, got 112"):
        build("vit-tiny", 112, "coin-aliasfree")
    with pytest.raises(ValueError, match="multiples of 32 px for coin-aliasfree, got 32 x 48"):
        build("vit-micro", 32, "coin-aliasfree")(torch.zeros(1, 3, 32, 48))
    with pytest.raises(ValueError, match="unknown adapter 'x'"):
        adapt(ViT(SMALL), "x")
