"""Detectors on point clouds and their metrics."""

from __future__ import annotations

if __name__ == "lidar":
    raise ImportError("import this package as `robovision.lidar`, not as `lidar`")
