"""Paired bootstrap: how far a mean, or a difference of two means over the same images, could be chance."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from aecore.analysis.scores import agreement

HELD = 2**22
"""Counts held at a time."""


def resamples(count: int, times: int, seed: int) -> Iterator[np.ndarray]:
    """Draw `count` items with replacement, `times` times: blocks of float32 (b, count), how often each was drawn.

    The same arguments give the same draws, so whatever is weighted by them is paired (Efron & Tibshirani 1993, 8.6).
    """
    generator = np.random.default_rng(seed)
    height = max(1, HELD // count)
    for start in range(0, times, height):
        rows = min(height, times - start)
        drawn = generator.integers(count, size=(rows, count)) + np.arange(rows)[:, None] * count
        yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float32)


def bootstrap_means(values: np.ndarray, times: int, seed: int) -> np.ndarray:
    """Means of each column of `values` (n, m) under `times` common resamples of its rows: float64 (times, m)."""
    count = len(values)
    return np.concatenate([drawn @ values.astype(np.float64) / count for drawn in resamples(count, times, seed)])


def bootstrap_agreement(clusters: np.ndarray, labels: np.ndarray, times: int, seed: int) -> np.ndarray:
    """NMI and ARI under the same resamples as `bootstrap_means` draws: float64 (times, 2)."""
    drawn = (np.stack(agreement(clusters, labels, weights), axis=1) for weights in resamples(len(labels), times, seed))
    return np.concatenate(list(drawn))


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile interval of bootstrap draws (times,)."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)
