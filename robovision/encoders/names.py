"""The encoders by name, listed without importing torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from robovision.errors import UsageError, unknown

Adapter = Literal["coin", "coin-aliasfree", "adaptformer", "roboadapter", "lora", "none"]
RESNET_STRIDE = 32
ALIASFREE_STRIDE = 32


@dataclass(frozen=True)
class EncoderSpec:
    """What the name of an encoder stands for."""

    architecture: str
    """The network and its size, such as `vit-tiny`, `resnet50` or `nat-mini`."""
    patch: int = 16
    """Side of a patch in pixels; a convolutional network has none and this is its stride."""
    family: Literal["plain", "clip", "openclip", "dinov2", "dinov2-reg"] = "plain"
    """Which published style of ViT."""
    normalisation: Literal["imagenet", "clip", "half"] = "imagenet"
    heads: int | None = None
    """Attention heads where they are not those of the architecture."""
    output: int | None = None
    """Numbers of a ResNet's last linear layer, if it has one."""
    hub: str = ""
    """The repository on the Hugging Face Hub that holds its weights."""
    page: str = ""
    """Where its authors publish the weights, if not on the Hub."""
    smallest: int = 0
    """Side in pixels of the smallest image, where that is more than the patch."""
    embedded: bool = False
    """Whether this package carries the weights."""

    @property
    def is_vit(self) -> bool:
        """Whether it is a plain vision transformer, which takes adapters and can be followed block by block."""
        return self.architecture.startswith("vit-")

    @property
    def tiles(self) -> bool:
        """Whether an image's sides must be multiples of the patch."""
        return not self.architecture.startswith(("resnet", "cnn", "nat"))

    @property
    def needs_weights(self) -> bool:
        """Whether the name promises pretrained weights; the others may start from random ones."""
        return bool(self.hub or self.page or self.embedded)


MVP = "https://github.com/ir413/mvp"
ENCODERS: dict[str, EncoderSpec] = {
    "vit-tiny-sim": EncoderSpec("vit-tiny", embedded=True),
    "strek": EncoderSpec("strek", 8, embedded=True),
    "vit-micro": EncoderSpec("vit-micro"),
    "vit-tiny": EncoderSpec("vit-tiny"),
    "vit-small": EncoderSpec("vit-small"),
    "vit-base": EncoderSpec("vit-base"),
    "vit-large": EncoderSpec("vit-large"),
    "resnet50": EncoderSpec("resnet50", RESNET_STRIDE),
    "cnn": EncoderSpec("cnn", normalisation="half"),
    "lookhere-vit-t16": EncoderSpec("lookhere-tiny"),
    "lookhere-vit-s16": EncoderSpec("lookhere-small"),
    "lookhere-vit-b16": EncoderSpec("lookhere-base"),
    "nat-mini": EncoderSpec("nat-mini", 32, smallest=224),
    "nat-tiny": EncoderSpec("nat-tiny", 32, smallest=224),
    "nat-small": EncoderSpec("nat-small", 32, smallest=224),
    "nat-base": EncoderSpec("nat-base", 32, smallest=224),
    "swin-tiny": EncoderSpec("swin-tiny", 32),
    "coswin-tiny": EncoderSpec("coswin-tiny", 32),
    "dualtoken-vit-t": EncoderSpec("dualtoken-tiny", 32),
    "dualtoken-vit-s": EncoderSpec("dualtoken-small", 32),
    "smoe": EncoderSpec("smoe"),
    "clip-vit-b32": EncoderSpec("vit-base", 32, "clip", "clip", hub="openai/clip-vit-base-patch32"),
    "clip-vit-b16": EncoderSpec("vit-base", 16, "clip", "clip", hub="openai/clip-vit-base-patch16"),
    "clip-vit-l14": EncoderSpec("vit-large", 14, "clip", "clip", hub="openai/clip-vit-large-patch14"),
    "openclip-vit-b16": EncoderSpec("vit-base", 16, "openclip", "clip", hub="laion/CLIP-ViT-B-16-laion2B-s34B-b88K"),
    "mvp-vit-s16": EncoderSpec("vit-small", heads=12, page=MVP),
    "mvp-vit-b16": EncoderSpec("vit-base", page=MVP),
    "mvp-vit-l16": EncoderSpec("vit-large", page=MVP),
    "vc1-vit-b16": EncoderSpec("vit-base", hub="facebook/vc1-base"),
    "vc1-vit-l16": EncoderSpec("vit-large", hub="facebook/vc1-large"),
    "mae-vit-b16": EncoderSpec("vit-base", hub="facebook/vit-mae-base"),
    "mae-vit-l16": EncoderSpec("vit-large", hub="facebook/vit-mae-large"),
    "dinov2-vit-s14": EncoderSpec("vit-small", 14, "dinov2", hub="facebook/dinov2-small"),
    "dinov2-vit-b14": EncoderSpec("vit-base", 14, "dinov2", hub="facebook/dinov2-base"),
    "dinov2-vit-l14": EncoderSpec("vit-large", 14, "dinov2", hub="facebook/dinov2-large"),
    "dinov2-reg-vit-s14": EncoderSpec("vit-small", 14, "dinov2-reg", hub="facebook/dinov2-with-registers-small"),
    "dinov2-reg-vit-b14": EncoderSpec("vit-base", 14, "dinov2-reg", hub="facebook/dinov2-with-registers-base"),
    "augreg-vit-t16": EncoderSpec("vit-tiny", normalisation="half", hub="timm/vit_tiny_patch16_224.augreg_in21k"),
    "augreg-vit-s16": EncoderSpec("vit-small", normalisation="half", hub="timm/vit_small_patch16_224.augreg_in21k"),
    "dino-vit-s8": EncoderSpec("vit-small", 8, hub="timm/vit_small_patch8_224.dino"),
    "r3m-resnet50": EncoderSpec("resnet50", RESNET_STRIDE, page="https://github.com/facebookresearch/r3m"),
    "vip-resnet50": EncoderSpec("resnet50", RESNET_STRIDE, output=1024, page="https://github.com/facebookresearch/vip"),
}


def find_spec(name: str) -> EncoderSpec:
    """What an encoder's name stands for.

    Raises:
        UsageError: for an unknown name, with the nearest ones.
    """
    if name not in ENCODERS:
        raise unknown("encoder", name, ENCODERS)
    return ENCODERS[name]


def check_image_size(name: str, size: int, option: str, adapter: Adapter = "none") -> None:
    """Raise UsageError unless the encoder, with its adapter, can look at square images of this side in pixels."""
    spec = find_spec(name)
    if adapter == "coin-aliasfree" and size % ALIASFREE_STRIDE:
        raise UsageError(
            f"{option} must be a multiple of {ALIASFREE_STRIDE} pixels for coin-aliasfree, got {size}: it halves the "
            "image five times without rounding; --encoder.adapter coin takes any size"
        )
    if size < spec.smallest:
        raise UsageError(
            f"{option} must be at least {spec.smallest} pixels for {name}, got {size}: on smaller images its last map "
            f"is smaller than the neighbourhood of {spec.smallest // spec.patch} x {spec.smallest // spec.patch} tokens"
        )
    if not spec.tiles:
        if size < spec.patch:
            raise UsageError(f"{option} must be at least {spec.patch} pixels for {name}, got {size}")
    elif size % spec.patch or size < spec.patch:
        below = max(size // spec.patch, 1) * spec.patch
        raise UsageError(
            f"{option} must be a multiple of the patch, {spec.patch} pixels, got {size}; "
            f"nearest: {below} and {below + spec.patch}"
        )


def check_adapter(name: str, adapter: Adapter) -> None:
    """Raise UsageError if the adapter does not fit the encoder of this name."""
    spec = find_spec(name)
    if not spec.is_vit and adapter != "none":
        kind = {"resnet50": "a ResNet", "cnn": "a CNN"}.get(spec.architecture, "no plain ViT")
        raise UsageError(f"{adapter} adapts the tokens of a ViT, and {name} is {kind}: use --encoder.adapter none")
