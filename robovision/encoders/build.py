"""Encoders by name."""

from __future__ import annotations

import torch

from robovision.encoders import base
from robovision.encoders.adapters import adapt, adapter_parameters
from robovision.encoders.base import Encoder
from robovision.encoders.cnn import CNN
from robovision.encoders.coin import CoIn
from robovision.encoders.names import Adapter, EncoderSpec, check_adapter, check_image_size, find_spec
from robovision.encoders.resnet import ResNet50
from robovision.encoders.vit import PLAIN, SIZES, ViT, ViTSize, ViTStyle
from robovision.errors import UsageError

OPEN_GATE = 1.0
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
        adapter: `coin`, `adaptformer`, `roboadapter`, `lora` or `none`; only a ViT takes one.
        pretrained: whether its weights will be replaced by pretrained ones. If so, CoIn starts with its gate
            shut, as in the paper; if not, open, because there is nothing that it could disturb.

    Raises:
        UsageError: for an unknown name, with the nearest ones; for an image size or an adapter that does not fit.
    """
    spec = find_spec(name)
    check_image_size(name, image_size, "image_size")
    check_adapter(name, adapter)
    if spec.architecture == "cnn":
        return CNN(NORMALISATIONS[spec.normalisation])
    if spec.architecture == "resnet50":
        return ResNet50(spec.output, NORMALISATIONS[spec.normalisation])
    if spec.architecture == "strek":
        from robovision.encoders.strek import StrekEncoder

        return StrekEncoder()
    return _vit(spec, image_size, adapter, pretrained)


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


def _vit(spec: EncoderSpec, image_size: int, adapter: Adapter, pretrained: bool) -> ViT:
    size = SIZES[spec.architecture.removeprefix("vit-")]
    if spec.heads is not None:
        size = ViTSize(size.width, size.depth, spec.heads)
    injector = CoIn(size.width, gamma=0.0 if pretrained else OPEN_GATE) if adapter == "coin" else None
    vit = ViT(size, spec.patch, image_size, injector, STYLES[spec.family], NORMALISATIONS[spec.normalisation])
    if adapter not in ("coin", "none"):
        adapt(vit, adapter)
    return vit
