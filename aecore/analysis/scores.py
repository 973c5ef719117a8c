"""The figures: pure functions of arrays, a value per image wherever a figure is a mean over images."""

from __future__ import annotations

import numpy as np

SIGMA, RADIUS = 1.5, 5
"""SSIM's Gaussian window: 11 x 11 pixels."""


def vote(labels: np.ndarray) -> np.ndarray:
    """Majority label of each row of neighbours' labels (q, k), nearest first; a tie goes to the nearer first member."""
    counts = (labels[:, :, None] == labels[:, None, :]).sum(axis=2)  # (q, k): how often each neighbour's label occurs
    return np.asarray(labels[np.arange(len(labels)), counts.argmax(axis=1)])


def average_precision(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Average precision of each whole ranking: `scores` (q, n), more is nearer; `relevant` bool (q, n) -> float64 (q,).

    sum_i (R_i - R_{i-1}) P_i over the distinct scores (Manning, Raghavan & Schuetze 2008, 8.4; ties share a threshold,
    as in scikit-learn's `average_precision_score`), so the order among equal scores does not matter. 0 where nothing
    is relevant.
    """
    result = np.zeros(len(scores))
    for row, (values, mask) in enumerate(zip(scores, relevant, strict=True)):
        hits = np.sort(values[mask])
        if len(hits):
            ahead = len(values) - np.searchsorted(np.sort(values), hits, side="left")
            hits_ahead = len(hits) - np.searchsorted(hits, hits, side="left")
            result[row] = (hits_ahead / ahead).mean()
    return result


def rank_of(scores: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Rank, from 1, of column `columns[i]` in row i of `scores` (q, n); equal scores count as ahead of it."""
    own = scores[np.arange(len(scores)), columns]
    return np.asarray((scores >= own[:, None]).sum(axis=1))


def squared_error(x: np.ndarray, x_hat: np.ndarray) -> np.ndarray:
    """Mean squared error of each image, (n, C, H, W) in [0, 1] -> float64 (n,)."""
    return np.asarray(np.square(x - x_hat).mean(axis=(1, 2, 3), dtype=np.float64))


def psnr(mse: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of images in [0, 1] from their `mse` (n,); at most 100 dB."""
    return np.asarray(-10 * np.log10(np.maximum(mse, 1e-10)))


def ssim(x: np.ndarray, x_hat: np.ndarray) -> np.ndarray:
    """Structural similarity of each image pair, float32 (n, C, H, W) in [0, 1] -> float64 (n,), mean over channels.

    Wang et al. 2004, equation 13, with their Gaussian window of sigma 1.5, as scikit-image's `structural_similarity`
    with `gaussian_weights=True, use_sample_covariance=False, data_range=1`. Images smaller than the 11-pixel window
    get the largest odd one that fits.
    """
    from scipy.ndimage import correlate1d

    radius = min(RADIUS, (min(x.shape[2:]) - 1) // 2)
    window = np.exp(-0.5 * np.square(np.arange(-radius, radius + 1) / SIGMA))
    window /= window.sum()

    def blur(values: np.ndarray) -> np.ndarray:
        blurred: np.ndarray = correlate1d(correlate1d(values, window, axis=2), window, axis=3)
        return blurred[:, :, radius : x.shape[2] - radius, radius : x.shape[3] - radius]

    mean_x, mean_y = blur(x), blur(x_hat)
    variances = blur(x * x) - mean_x**2 + blur(x_hat * x_hat) - mean_y**2
    covariance = blur(x * x_hat) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return np.asarray(
        (numerator / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))).mean(axis=(1, 2, 3), dtype=np.float64)
    )


def matched(clusters: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether each item's cluster is matched to its label, by the one-to-one matching that is right most often.

    Ints (n,) >= 0 -> bool (n,); its mean is the clustering accuracy ACC (Hungarian algorithm, Kuhn 1955).
    """
    from scipy.optimize import linear_sum_assignment

    shape = (int(clusters.max()) + 1, int(labels.max()) + 1)
    together = np.bincount(clusters.astype(np.int64) * shape[1] + labels, minlength=shape[0] * shape[1]).reshape(shape)
    label_of = np.full(shape[0], -1)
    rows, columns = linear_sum_assignment(together, maximize=True)
    label_of[rows] = columns
    return np.asarray(label_of[clusters] == labels)


def agreement(clusters: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """NMI and ARI of a clustering, float64 (b,) each, once a row of `weights` (b, n): how often each item counts.

    Ints (n,). NMI is normalised by the arithmetic mean of the entropies; ARI as Hubert & Arabie 1985.
    """
    total = weights.sum(axis=1, dtype=np.float64)[:, None]
    pairs, pair = np.unique(np.stack([clusters, labels]), axis=1, return_inverse=True)
    joint = _sums(weights, pair.ravel())  # (b, pairs present)
    in_cluster, in_label = (_sums(weights, np.unique(side, return_inverse=True)[1]) for side in (clusters, labels))
    cluster_of, label_of = (np.unique(side, return_inverse=True)[1] for side in pairs)

    expected = in_cluster[:, cluster_of] * in_label[:, label_of]
    information = (joint / total * np.log(np.where(joint > 0, joint * total / np.maximum(expected, 1), 1))).sum(axis=1)
    entropies = _entropy(in_cluster / total) + _entropy(in_label / total)
    nmi = np.where(entropies > 0, 2 * information / np.where(entropies > 0, entropies, 1), 1.0)

    both, one, other = (_couples(counts).sum(axis=1) for counts in (joint, in_cluster, in_label))
    chance = one * other / np.maximum(_couples(total)[:, 0], 1)  # a single item makes no couple
    span = (one + other) / 2 - chance
    ari = np.where(span > 0, (both - chance) / np.where(span > 0, span, 1), 1.0)
    return np.clip(nmi, 0, 1), ari


def _sums(weights: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Sum (b, n) weights over each group 0 … g - 1 of the columns: float64 (b, g)."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(group[order]) > 0])
    return np.add.reduceat(weights[:, order], starts, axis=1, dtype=np.float64)


def _entropy(shares: np.ndarray) -> np.ndarray:
    return np.asarray(-(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1))


def _couples(counts: np.ndarray) -> np.ndarray:
    return np.asarray(counts * (counts - 1) / 2)
