"""PointContrast, the baseline of invariance: one contrast between views under all motions at once, turns included.

Source: PointContrast (Xie et al., 2020), section 3.2, whose two scans are here two views of one sweep.
"""

from __future__ import annotations

from robovision.lidar.pretraining.contrast import Contrast


class PointContrast(Contrast):
    """PointInfoNCE between two views, each turned, shifted, scaled and perhaps flipped."""

    views = ("spun", "spun again")
