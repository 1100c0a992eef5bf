"""Loaded checkpoints against reference implementations, on random weights in the exact published formats."""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from robovision.encoders.build import STYLES
from robovision.encoders.checkpoints import load_pretrained
from robovision.encoders.resnet import ResNet50
from robovision.encoders.vit import ViT, ViTSize

transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-5
SIZE = ViTSize(128, 3, 2)
COMMON = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2}
State = dict[str, Tensor]


def randomise(model: nn.Module) -> Any:
    """Every parameter at random, so that none can be forgotten unseen."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, mean=1.0 if "norm" in name and name.endswith("weight") else 0.0, std=0.2)
    return model.eval()


def published(model: Any, folder: Path) -> Path:
    """The file that transformers publishes."""
    model.save_pretrained(folder)
    return folder / "model.safetensors"


def vit(family: str, patch: int, image_size: int) -> ViT:
    return ViT(SIZE, patch=patch, image_size=image_size, style=STYLES[family]).eval()


def assert_equal(ours: ViT, images: Tensor, tokens: Tensor, pooled: Tensor, registers: int = 0) -> None:
    with torch.no_grad():
        features = ours.encode(images)
    assert float((features.pooled - pooled).abs().max()) <= TOLERANCE
    assert float((features.tokens - tokens[:, 1 + registers :]).abs().max()) <= TOLERANCE
    assert float(features.tokens.std()) > 0.1


def clip_model(activation: str) -> Any:
    config = transformers.CLIPVisionConfig(
        **COMMON, intermediate_size=512, image_size=64, patch_size=16, hidden_act=activation
    )
    return randomise(transformers.CLIPVisionModel(config))


@torch.no_grad()
def assert_clip(ours: ViT, model: Any) -> None:
    images = torch.randn(2, 3, 64, 64)
    theirs = model(images)
    tokens = model.post_layernorm(theirs.last_hidden_state) if hasattr(model, "post_layernorm") else None
    if tokens is None:
        tokens = model.vision_model.post_layernorm(theirs.last_hidden_state)
    assert_equal(ours, images, tokens, theirs.pooler_output)


def test_clip_of_hugging_face(tmp_path: Path) -> None:
    model = clip_model("quick_gelu")
    ours = vit("clip", 16, 64)
    assert load_pretrained(ours, published(model, tmp_path)) == "CLIP of Hugging Face"
    assert_clip(ours, model)


def test_clip_of_hugging_face_with_its_text_tower(tmp_path: Path) -> None:
    vision = {**COMMON, "intermediate_size": 512, "image_size": 64, "patch_size": 16}
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 99}
    model = randomise(transformers.CLIPModel(transformers.CLIPConfig(vision_config=vision, text_config=text)))
    ours = vit("clip", 16, 64)
    load_pretrained(ours, published(model, tmp_path))
    assert_clip(ours, model.vision_model)


def openai_names(state: State) -> State:
    """A transformers CLIP vision tower under OpenAI's names."""
    named: State = {}
    for key, value in state.items():
        name = re.sub(r"^vision_model\.", "", key)
        name = name.replace("embeddings.patch_embedding", "conv1").replace("embeddings.class_", "class_")
        name = name.replace("embeddings.position_embedding.weight", "positional_embedding")
        name = name.replace("pre_layrnorm", "ln_pre").replace("post_layernorm", "ln_post")
        name = name.replace("encoder.layers", "transformer.resblocks").replace("layer_norm", "ln_")
        name = name.replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj")
        name = name.replace("self_attn.out_proj", "attn.out_proj")
        named[f"visual.{name}"] = value
    for key in [key for key in named if "q_proj" in key]:
        parts = [named.pop(key.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        prefix, kind = key.split(".self_attn.q_proj.")
        named[f"{prefix}.attn.in_proj_{kind}"] = torch.cat(parts)
    return named | {
        "visual.proj": torch.randn(128, 64),
        "logit_scale": torch.ones([]),
        "positional_embedding": torch.ones(3),
    }


def as_torchscript(state: State, path: Path) -> None:
    """A TorchScript archive whose attributes have these names, as OpenAI publishes CLIP."""
    root = nn.Module()
    for key, value in state.items():
        *parents, leaf = key.split(".")
        module = root
        for parent in parents:
            if parent not in dict(module.named_children()):
                module.add_module(parent, nn.Module())
            module = module.get_submodule(parent)
        module.register_parameter(leaf, nn.Parameter(value, requires_grad=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(root).save(str(path))  # type: ignore[no-untyped-call]


def test_clip_of_openai_as_torchscript_archive_in_half_precision(tmp_path: Path) -> None:
    model = clip_model("quick_gelu").half().float()
    as_torchscript({name: value.half() for name, value in openai_names(model.state_dict()).items()}, tmp_path / "c.pt")
    ours = vit("clip", 16, 64)
    assert load_pretrained(ours, tmp_path / "c.pt") == "CLIP of OpenAI or OpenCLIP"
    assert_clip(ours, model)


def test_clip_of_openclip_with_its_own_activation(tmp_path: Path) -> None:
    model = clip_model("gelu")
    torch.save(openai_names(model.state_dict()), tmp_path / "open_clip_pytorch_model.bin")
    ours = vit("openclip", 16, 64)
    load_pretrained(ours, tmp_path / "open_clip_pytorch_model.bin")
    assert_clip(ours, model)


def mae_model(kind: str = "ViTMAEModel") -> Any:
    config = transformers.ViTMAEConfig(
        **COMMON, intermediate_size=512, image_size=64, patch_size=16, layer_norm_eps=1e-6, mask_ratio=0.0
    )
    return randomise(getattr(transformers, kind)(config))


@torch.no_grad()
def assert_mae(ours: ViT, model: Any) -> None:
    images = torch.randn(2, 3, 64, 64)
    unshuffled = torch.arange(16.0).expand(2, -1)
    tokens = model(images, noise=unshuffled).last_hidden_state
    assert_equal(ours, images, tokens, tokens[:, 0])


@pytest.mark.parametrize("kind", ["ViTMAEModel", "ViTMAEForPreTraining"])
def test_mae_of_hugging_face(kind: str, tmp_path: Path) -> None:
    model = mae_model(kind)
    ours = vit("plain", 16, 64)
    assert load_pretrained(ours, published(model, tmp_path)) == "ViT, MAE or DINOv2 of Hugging Face"
    assert_mae(ours, model.vit if kind == "ViTMAEForPreTraining" else model)


def timm_names(state: State) -> State:
    """A transformers ViT, MAE or DINOv2 under the names of timm and of the authors' own code."""
    named: State = {}
    for key, value in state.items():
        name = key.replace("embeddings.patch_embeddings.projection", "patch_embed.proj")
        name = name.replace("embeddings.position_embeddings", "pos_embed").replace("embeddings.", "")
        name = name.replace("encoder.layer.", "blocks.").replace("attention.output.dense", "attn.proj")
        name = name.replace("layernorm_before", "norm1").replace("layernorm_after", "norm2")
        name = name.replace("intermediate.dense", "mlp.fc1").replace("output.dense", "mlp.fc2")
        name = re.sub(r"layer_scale(\d)\.lambda1", r"ls\1.gamma", name)
        named[re.sub(r"^layernorm", "norm", name)] = value
    for key in [key for key in named if "attention.query" in key]:
        parts = [named.pop(key.replace("query", part)) for part in ("query", "key", "value")]
        named[key.replace("attention.attention.query", "attn.qkv")] = torch.cat(parts)
    return named


def mvp_file(state: State) -> dict[str, object]:
    return {"model": state}


def vc1_file(state: State) -> dict[str, object]:
    decoder = {"decoder_embed.weight": torch.ones(2), "decoder_blocks.0.norm1.weight": torch.ones(2)}
    extra = {"mask_token": torch.zeros(1, 1, 8), "decoder_pos_embed": torch.ones(2), **decoder}
    return {"model": state | extra, "args": argparse.Namespace(lr=0.1, model="x"), "epoch": 7}


def timm_file(state: State) -> dict[str, object]:
    return {**state, "head.weight": torch.ones(5, 128), "head.bias": torch.ones(5)}


@pytest.mark.parametrize("container", [mvp_file, vc1_file, timm_file])
def test_mvp_vc1_and_timm_are_mae_under_other_names(
    container: Callable[[State], dict[str, object]], tmp_path: Path
) -> None:
    model = mae_model()
    torch.save(container(timm_names(load_file(published(model, tmp_path)))), tmp_path / "model.pth")
    ours = vit("plain", 16, 64)
    assert load_pretrained(ours, tmp_path / "model.pth") == "timm, MAE, MVP, VC-1 or DINOv2"
    assert_mae(ours, model)


def dino_model(registers: int) -> Any:
    name = "Dinov2WithRegisters" if registers else "Dinov2"
    config = getattr(transformers, f"{name}Config")(**COMMON, image_size=70, patch_size=14)
    return randomise(getattr(transformers, f"{name}Model")(config))


@torch.no_grad()
@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("size", [70, 42, 98])
def test_dinov2_at_its_own_and_other_sizes(registers: int, official: bool, size: int, tmp_path: Path) -> None:
    model = dino_model(registers)
    file = published(model, tmp_path)
    if official:
        file = tmp_path / "dinov2_pretrain.pth"
        torch.save(timm_names(load_file(tmp_path / "model.safetensors")), file)
    images = torch.randn(2, 3, size, size)
    theirs = model(images)
    for built_for in (70, size):  # the position embedding is resized on the way, or while loading
        ours = vit("dinov2-reg" if registers else "dinov2", 14, built_for)
        load_pretrained(ours, file)
        assert_equal(ours, images, theirs.last_hidden_state, theirs.pooler_output, registers)


@torch.no_grad()
def test_timms_registers_have_no_class_position(tmp_path: Path) -> None:
    model = dino_model(4)
    state = timm_names(load_file(published(model, tmp_path)))
    state["reg_token"] = state.pop("register_tokens")
    state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
    state["pos_embed"] = state["pos_embed"][:, 1:]
    torch.save({name: value.clone() for name, value in state.items() if name != "mask_token"}, tmp_path / "timm.pth")
    ours = vit("dinov2-reg", 14, 70)
    load_pretrained(ours, tmp_path / "timm.pth")
    images = torch.randn(2, 3, 70, 70)
    theirs = model(images)
    assert_equal(ours, images, theirs.last_hidden_state, theirs.pooler_output, 4)


def resnet_by_formula(p: State, x: Tensor) -> Tensor:
    """ResNet-50 written out with its parameters by name; the last map."""

    def convolve(name: str, norm: str, value: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
        out = functional.conv2d(value, p[f"{name}.weight"], None, stride, padding)
        scale = p[f"{norm}.weight"] / (p[f"{norm}.running_var"] + 1e-5).sqrt()
        shift = p[f"{norm}.bias"] - p[f"{norm}.running_mean"] * scale
        return out * scale[:, None, None] + shift[:, None, None]

    x = functional.max_pool2d(convolve("conv1", "bn1", x, 2, 3).clamp_min(0), 3, 2, 1)
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for number in range(blocks):
            name = f"layer{stage}.{number}"
            stride = 2 if stage > 1 and number == 0 else 1
            y = convolve(f"{name}.conv1", f"{name}.bn1", x).clamp_min(0)
            y = convolve(f"{name}.conv2", f"{name}.bn2", y, stride, 1).clamp_min(0)
            y = convolve(f"{name}.conv3", f"{name}.bn3", y)
            x = x if number else convolve(f"{name}.downsample.0", f"{name}.downsample.1", x, stride)
            x = (x + y).clamp_min(0)
    return x


def resnet_state() -> State:
    torch.manual_seed(0)
    state = dict(ResNet50(output=1024).state_dict())
    for name, value in state.items():
        if name.endswith("running_var") or ("bn" in name and name.endswith("weight")):
            state[name] = 0.5 + 0.5 * torch.rand_like(value)
        elif value.is_floating_point() and value.ndim == 1:
            state[name] = 0.1 * torch.randn_like(value)
    return state


@torch.no_grad()
@pytest.mark.parametrize("container", ["r3m", "vip", "torchvision"])
def test_resnet_equals_the_formula(container: str, tmp_path: Path) -> None:
    state = resnet_state()
    images = torch.randn(2, 3, 64, 96)
    expected = resnet_by_formula(state, images)
    named = {f"module.convnet.{name}": value for name, value in state.items()}
    pooled = expected.mean((2, 3))
    ours = ResNet50()
    if container == "r3m":
        language = {"module.lang_rew.pred.0.weight": torch.ones(2), "module.lang_enc.x": torch.ones(2)}
        content: object = {"r3m": {k: v for k, v in named.items() if ".fc." not in k} | language, "step": 3}
    elif container == "vip":
        content, ours = {"vip": named}, ResNet50(output=1024)
        pooled = pooled @ state["fc.weight"].T + state["fc.bias"]
    else:
        content = state
    torch.save(content, tmp_path / "model.pt")
    load_pretrained(ours, tmp_path / "model.pt")
    features = ours.eval().encode(images)
    scale = float(expected.abs().max())
    assert float((features.tokens - expected.flatten(2).transpose(1, 2)).abs().max()) <= TOLERANCE * scale
    assert float((features.pooled - pooled).abs().max()) <= TOLERANCE * scale
