"""How far a figure, or a difference of two figures of the same images, could be chance: paired resampling.

Means are bootstrapped. What is no mean, as the agreement of clusters and labels, is not: an image that is drawn twice
agrees with itself, so all such draws lie too high, and the interval can leave the figure itself out. There half of the
images are drawn, none twice.
"""

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


def half_samples(count: int, times: int, seed: int) -> Iterator[np.ndarray]:
    """Draw half of `count` items, rounded down but at least one, `times` times: blocks of float32 (b, count), 0 or 1.

    The same arguments give the same draws, as in `resamples`.
    """
    generator = np.random.default_rng(seed)
    height, half = max(1, HELD // count), max(1, count // 2)
    for start in range(0, times, height):
        order = generator.random((min(height, times - start), count), np.float32)
        drawn = np.zeros_like(order)
        np.put_along_axis(drawn, np.argpartition(order, half - 1, axis=1)[:, :half], 1, axis=1)
        yield drawn


def half_sampled_agreement(clusters: np.ndarray, labels: np.ndarray, times: int, seed: int) -> np.ndarray:
    """NMI and ARI of `times` common half-samples of the items: float64 (times, 2). Their interval is `interval_around`.

    Scaled so that they spread as the figures of all items do. Half of the items, none twice, already spread so (the
    delete-d jackknife, Shao & Wu 1989); an odd count, and one of three, want sqrt(m / (n - m)).
    """
    count = len(labels)
    drawn = (np.stack(agreement(clusters, labels, weights), axis=1) for weights in half_samples(count, times, seed))
    values, half = np.concatenate(list(drawn)), max(1, count // 2)
    middle = np.median(values, axis=0)
    return np.asarray(middle + (values - middle) * np.sqrt(half / max(1, count - half)))


def interval_around(value: float, draws: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a figure, or a difference, from how its half-samples (times,) spread: it holds `value`.

    Fewer items bias such a figure, so the draws lie elsewhere: their median is moved to the value.
    """
    return interval(draws - np.median(draws) + value)


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile interval of bootstrap draws (times,)."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)
