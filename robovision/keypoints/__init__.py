"""Keypoints on images: S-TREK, and what is built on keypoints."""

from robovision.keypoints.extractors import Extractor, load

__all__ = ["Extractor", "load"]
