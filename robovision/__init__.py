"""robovision: robotics perception by symmetry.

Train control policies from pixels, extract keypoints on images, evaluate detectors on point clouds.
Importing this needs neither torch nor OpenGL.
"""

from __future__ import annotations

from robovision.types import Boxes3D, Keypoints, Metric, PointCloud

__version__ = "0.1.0"
__all__ = ["Boxes3D", "Keypoints", "Metric", "PointCloud", "__version__"]
