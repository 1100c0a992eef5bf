"""Encoders by name."""

from __future__ import annotations

import torch

from robovision.encoders import base
from robovision.encoders.adapters import adapt, adapter_parameters
from robovision.encoders.base import Encoder
from robovision.encoders.cnn import CNN
from robovision.encoders.coin import CoIn
from robovision.encoders.dualtoken import SIZES as DUAL_SIZES
from robovision.encoders.dualtoken import DualTokenViT
from robovision.encoders.lookhere import LookHere
from robovision.encoders.names import Adapter, EncoderSpec, check_adapter, check_image_size, find_spec
from robovision.encoders.nat import NAT
from robovision.encoders.nat import SIZES as NAT_SIZES
from robovision.encoders.resnet import ResNet50
from robovision.encoders.smoe import SMoE
from robovision.encoders.swin import SIZES as SWIN_SIZES
from robovision.encoders.swin import Swin
from robovision.encoders.vit import PLAIN, SIZES, ViT, ViTSize, ViTStyle
from robovision.errors import UsageError

OPEN_GATE = 1.0
LOOKHERE_HEADS = 12
"""At every width: eight that look in a direction and four that don't."""
STYLES = {
    "plain": PLAIN,
    "clip": ViTStyle(eps=1e-5, quick_gelu=True, pre_norm=True),
    "openclip": ViTStyle(eps=1e-5, pre_norm=True),
    "dinov2": ViTStyle(layer_scale=True),
    "dinov2-reg": ViTStyle(layer_scale=True, registers=4, antialias=True),
}
NORMALISATIONS = {"imagenet": base.IMAGENET, "clip": base.CLIP, "half": base.HALF}


def build(name: str, image_size: int, adapter: Adapter = "none", pretrained: bool = False) -> Encoder:
    """The encoder of this name, with random weights; `robovision.encoders.checkpoints.load_pretrained` fills it.

    Args:
        name: one of `ENCODERS`.
        image_size: side in pixels of the images that it is for.
        adapter: `coin`, `coin-aliasfree`, `adaptformer`, `roboadapter`, `lora` or `none`; only a plain ViT takes one.
        pretrained: whether its weights will be replaced by pretrained ones. If so, CoIn starts with its gate
            shut, as in the paper; if not, open, because there is nothing that it could disturb.

    Raises:
        UsageError: for an unknown name, with the nearest ones; for an image size or an adapter that does not fit.
    """
    spec = find_spec(name)
    check_image_size(name, image_size, "image_size", adapter)
    check_adapter(name, adapter)
    return _vit(spec, image_size, adapter, pretrained) if spec.is_vit else _other(spec, image_size)


def set_trainable(encoder: Encoder, mode: str) -> None:
    """Let all parameters require gradients (`full`), only an adapter's (`adapter`), or none (`frozen`)."""
    encoder.requires_grad_(mode == "full")
    if mode == "adapter":
        for parameter in adapter_parameters(encoder):
            parameter.requires_grad_(True)


def shut_gate(encoder: Encoder) -> None:
    """Close CoIn's gate for good, so that the encoder is what it would be without: a control for comparisons.

    Raises:
        UsageError: if the encoder has no CoIn.
    """
    injector = encoder.injector if isinstance(encoder, ViT) else None
    if not isinstance(injector, CoIn):
        raise UsageError("encoder.gate is 'shut', but only --encoder.adapter coin has a gate")
    with torch.no_grad():
        injector.gamma.zero_()
    injector.gamma.requires_grad_(False)


def _other(spec: EncoderSpec, image_size: int) -> Encoder:
    normalisation = NORMALISATIONS[spec.normalisation]
    family, _, size = spec.architecture.partition("-")
    match family:
        case "lookhere":
            plain = SIZES[size]
            return LookHere(ViTSize(plain.width, plain.depth, LOOKHERE_HEADS), spec.patch, normalisation=normalisation)
        case "nat":
            return NAT(NAT_SIZES[size], normalisation)
        case "swin" | "coswin":
            return Swin(SWIN_SIZES[size], family == "coswin", normalisation)
        case "dualtoken":
            return DualTokenViT(DUAL_SIZES[size], normalisation)
        case "smoe":
            return SMoE(image_size, normalisation)
        case "cnn":
            return CNN(normalisation)
        case "strek":
            from robovision.encoders.strek import StrekEncoder

            return StrekEncoder()
        case _:
            return ResNet50(spec.output, normalisation)


def _vit(spec: EncoderSpec, image_size: int, adapter: Adapter, pretrained: bool) -> ViT:
    size = SIZES[spec.architecture.removeprefix("vit-")]
    if spec.heads is not None:
        size = ViTSize(size.width, size.depth, spec.heads)
    gamma = 0.0 if pretrained else OPEN_GATE
    injected = adapter in ("coin", "coin-aliasfree")
    injector = CoIn(size.width, gamma=gamma, aliasfree=adapter == "coin-aliasfree") if injected else None
    vit = ViT(size, spec.patch, image_size, injector, STYLES[spec.family], NORMALISATIONS[spec.normalisation])
    if not injected and adapter != "none":
        adapt(vit, adapter)
    return vit
