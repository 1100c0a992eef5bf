"""Pretraining of LiDAR backbones on sweeps without labels."""
