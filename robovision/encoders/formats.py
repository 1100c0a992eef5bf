"""Published checkpoint formats: recognised by their keys and renamed to this library's (timm's) names.

Only what an image encoder has no use for is left out: text towers, decoders, projections, classification heads.
Whatever else a file holds keeps its name, so that loading can say that it was not expected.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Format:
    """One way in which weights are published."""

    title: str
    mark: str
    """A regular expression for a key that only this format has."""
    unused: str
    """A regular expression for the keys that an image encoder has no use for."""
    names: tuple[tuple[str, str], ...]
    """Regular expressions and what replaces them, applied to each key in turn."""
    finish: Callable[[Tensors], Tensors] = dict
    """What is done with the renamed tensors."""


def detect(keys: Mapping[str, Tensor]) -> Format | None:
    """The format that has such keys, or None."""
    return next((known for known in FORMATS if any(re.match(known.mark, key) for key in keys)), None)


def translate(known: Format, tensors: Mapping[str, Tensor]) -> Tensors:
    """A checkpoint's tensors under this library's names, floating point as float32."""
    renamed: Tensors = {}
    for name, value in tensors.items():
        if re.match(known.unused, name):
            continue
        for pattern, replacement in known.names:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value.float() if value.is_floating_point() else value
    return known.finish(renamed)


def _fuse_qkv(tensors: Tensors) -> Tensors:
    """Separate projections `blocks.i.attn.{q,k,v}.*` joined as `blocks.i.attn.qkv.*`."""
    fused = {name: value for name, value in tensors.items() if not re.fullmatch(r"blocks\.\d+\.attn\.[qkv]\..*", name)}
    for name in tensors:
        if match := re.fullmatch(r"(blocks\.\d+\.attn\.)q(\..*)", name):
            parts = [tensors.get(f"{match[1]}{part}{match[2]}") for part in "qkv"]
            present = [part for part in parts if part is not None]
            fused[f"{match[1]}qkv{match[2]}"] = torch.cat(present)
    return fused


def _clip_shapes(tensors: Tensors) -> Tensors:
    """CLIP's class token [D] and positions [1 + N, D] as [1, 1, D] and [1, 1 + N, D]."""
    shaped = dict(tensors)
    for name in ("cls_token", "pos_embed"):
        if name in shaped:
            shaped[name] = shaped[name].reshape(1, -1, shaped[name].shape[-1])
    return shaped


def _hugging_face_clip(tensors: Tensors) -> Tensors:
    return _clip_shapes(_fuse_qkv(tensors))


def _class_position(tensors: Tensors) -> Tensors:
    """Give DINOv2 with registers of timm a position for its class token: there it is part of the token."""
    positions = tensors.get("pos_embed")
    if positions is None or "register_tokens" not in tensors or positions.ndim != 3:
        return tensors
    if round(positions.shape[1] ** 0.5) ** 2 == positions.shape[1]:
        none = positions.new_zeros(1, 1, positions.shape[2])
        return {**tensors, "pos_embed": torch.cat([none, positions], dim=1)}
    return tensors


TRANSFORMERS_BLOCKS = (
    (r"^(vit|dinov2)\.", ""),
    (r"^embeddings\.(cls_token|register_tokens)$", r"\1"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.attention\.(q)uery\.", r".attn.\1."),
    (r"\.attention\.attention\.(k)ey\.", r".attn.\1."),
    (r"\.attention\.attention\.(v)alue\.", r".attn.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
)
FORMATS = (
    Format("R3M or VIP", r"convnet\.conv1\.weight$", r"(?!convnet\.)", ((r"^convnet\.", ""),)),
    Format(
        "CLIP of OpenAI or OpenCLIP",
        r"visual\.class_embedding$",
        r"(?!visual\.)|visual\.proj$",
        (
            (r"^visual\.", ""),
            (r"^class_embedding$", "cls_token"),
            (r"^positional_embedding$", "pos_embed"),
            (r"^conv1\.", "patch_embed.proj."),
            (r"^ln_pre\.", "norm_pre."),
            (r"^ln_post\.", "norm."),
            (r"^transformer\.resblocks\.", "blocks."),
            (r"\.attn\.in_proj_", ".attn.qkv."),
            (r"\.attn\.out_proj\.", ".attn.proj."),
            (r"\.ln_([12])\.", r".norm\1."),
            (r"\.mlp\.c_fc\.", ".mlp.fc1."),
            (r"\.mlp\.c_proj\.", ".mlp.fc2."),
        ),
        _clip_shapes,
    ),
    Format(
        "CLIP of Hugging Face",
        r"(vision_model\.)?embeddings\.class_embedding$",
        r"(text_model|text_projection|visual_projection|logit_scale)\b|.*\bposition_ids$",
        (
            (r"^vision_model\.", ""),
            (r"^embeddings\.class_embedding$", "cls_token"),
            (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
            (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
            (r"^pre_layrnorm\.", "norm_pre."),
            (r"^post_layernorm\.", "norm."),
            (r"^encoder\.layers\.", "blocks."),
            (r"\.self_attn\.([qkv])_proj\.", r".attn.\1."),
            (r"\.self_attn\.out_proj\.", ".attn.proj."),
            (r"\.layer_norm([12])\.", r".norm\1."),
        ),
        _hugging_face_clip,
    ),
    Format(
        "ViT, MAE or DINOv2 of Hugging Face",
        r"((vit|dinov2)\.)?embeddings\.patch_embeddings\.projection\.weight$",
        r"decoder\.|((vit|dinov2)\.)?(embeddings\.mask_token$|pooler\.)|classifier\.",
        TRANSFORMERS_BLOCKS,
        _fuse_qkv,
    ),
    Format(
        "timm, MAE, MVP, VC-1 or DINOv2",
        r"patch_embed\.proj\.weight$",
        r"(decoder|head|fc_norm|pre_logits)\w*\b|mask_token$",
        ((r"^reg_token$", "register_tokens"),),
        _class_position,
    ),
    Format("ResNet of torchvision", r"layer1\.0\.conv1\.weight$", r"fc\.", ()),
)
"""The formats in the order in which they are tried."""
