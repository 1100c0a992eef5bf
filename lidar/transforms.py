"""The group that acts on point clouds, boxes and flow of a vehicle's LiDAR: similarities that keep the ground level."""

from robovision.symmetry.space import Similarity

__all__ = ["Similarity"]
