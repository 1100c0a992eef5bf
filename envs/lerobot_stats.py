"""The statistics that LeRobot keeps of each feature, for normalising: extent, moments, quantiles."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}


def vector_stats(values: NDArray[Any]) -> dict[str, list[Any]]:
    """Of numbers [N] or vectors [N, D], element by element: lists of D, and `count`, the list of N."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    stats = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    stats |= {name: np.quantile(rows, q, axis=0) for name, q in QUANTILES.items()}
    return {**{name: value.tolist() for name, value in stats.items()}, "count": [len(rows)]}


def histogram(film: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each value occurs in each channel of [T, H, W, C]: int64 [C, 256]."""
    return np.stack([np.bincount(film[..., c].ravel(), minlength=256) for c in range(film.shape[3])])


def image_stats(counts: NDArray[np.int64], frames: int) -> dict[str, list[Any]]:
    """Of images with this histogram [C, 256], channel by channel, values in 0..1: nested lists [C, 1, 1].

    Exact: a histogram of whole numbers loses nothing but their places.
    """
    values = np.arange(256) / 255
    share = counts / counts.sum(1, keepdims=True)
    mean = share @ values
    cumulated = share.cumsum(1)
    stats = {
        "min": values[(counts > 0).argmax(1)],
        "max": values[255 - (counts[:, ::-1] > 0).argmax(1)],
        "mean": mean,
        "std": np.sqrt((share * (values - mean[:, None]) ** 2).sum(1)),
        **{name: values[(cumulated >= q - 1e-12).argmax(1)] for name, q in QUANTILES.items()},
    }
    return {**{name: value[:, None, None].tolist() for name, value in stats.items()}, "count": [frames]}
