"""Keypoints as other libraries have them: LightGlue's dictionary, kornia's local affine frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from robovision.types import Keypoints

if TYPE_CHECKING:
    from torch import Tensor


def to_lightglue(keypoints: Keypoints) -> dict[str, Tensor]:
    """What LightGlue's extractors give for one image, as its matchers take it (`{"image0": ..., "image1": ...}`).

    Convention:
        keypoints: float32 [1, N, 2], pixels, the centre of the top-left one at (0, 0).
        keypoint_scores: float32 [1, N].
        descriptors: float32 [1, N, D], where there are any.
        image_size: float32 [1, 2], width and height.
        oris: float32 [1, N], radians, and scales: float32 [1, N], pixels: where there are any, as its SIFT gives them.
    """
    import torch

    arrays = {
        "keypoints": keypoints.xy,
        "keypoint_scores": keypoints.scores,
        "descriptors": keypoints.descriptors,
        "oris": keypoints.angles,
        "scales": keypoints.scales,
        "image_size": np.array(keypoints.image_size, np.float32),
    }
    return {name: torch.from_numpy(array.copy())[None] for name, array in arrays.items() if array is not None}


def from_lightglue(features: dict[str, Tensor]) -> Keypoints:
    """The keypoints of one image from LightGlue's dictionary.

    Raises:
        ValueError: if it is of more images than one, or lacks a part.
    """
    missing = [name for name in ("keypoints", "keypoint_scores", "image_size") if name not in features]
    if missing:
        raise ValueError(f"the features lack {', '.join(missing)}; they have {', '.join(features)}")
    if len(features["keypoints"]) != 1:
        raise ValueError(f"the features must be of one image, got a batch of {len(features['keypoints'])}")
    arrays = {name: value[0].detach().cpu().numpy() for name, value in features.items()}
    width, height = (int(side) for side in arrays["image_size"])
    optional = (arrays.get(name) for name in ("descriptors", "oris", "scales"))
    return Keypoints(arrays["keypoints"], (width, height), arrays["keypoint_scores"], *optional)


def to_lafs(keypoints: Keypoints) -> Tensor:
    """Local affine frames, float32 [1, N, 2, 3], for `kornia.feature`: [scale * rotation | place].

    A frame's scale is the keypoint's radius, 1 pixel where it has none; its first axis points along the keypoint's
    orientation. kornia counts that orientation in degrees, the other way round.
    """
    import torch

    count = len(keypoints)
    angles = np.zeros(count, np.float32) if keypoints.angles is None else keypoints.angles
    scales = np.ones(count, np.float32) if keypoints.scales is None else keypoints.scales
    cos, sin = np.cos(angles) * scales, np.sin(angles) * scales
    frames = np.stack([np.stack([cos, -sin, keypoints.xy[:, 0]], 1), np.stack([sin, cos, keypoints.xy[:, 1]], 1)], 1)
    return torch.from_numpy(frames.astype(np.float32))[None]
