"""Detectors on point clouds in plain PyTorch: networks, targets, losses, decoding, training and use."""
