"""Keypoints on images: S-TREK, and what is built on keypoints."""
