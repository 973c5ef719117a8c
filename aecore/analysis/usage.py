"""How much of a bottleneck is used: latent units, codebook entries, and how far its codes are from the prior."""

from __future__ import annotations

import numpy as np

ACTIVE = 0.01
"""Variance of a unit's posterior mean above which it is in use (Burda, Grosse & Salakhutdinov 2016, section 5.2)."""
SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Of the inverse multiquadratic kernels (the authors' code of Tolstikhin et al. 2018)."""


def active_units(means: np.ndarray) -> int:
    """Units of the posterior means (n, d) whose variance over the images exceeds ACTIVE."""
    return int((means.astype(np.float64).var(axis=0) > ACTIVE).sum())


def perplexity(counts: np.ndarray) -> float:
    """Exp of the entropy of how often each codebook entry is chosen, (K,): K where all alike, 1 where one alone."""
    shares = counts[counts > 0] / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Squared maximum mean discrepancy between samples (n, d) and (m, d), the unbiased estimate: 0 on average, and as
    often below it, where both come from one distribution.

    Gretton et al. 2012, equation 3, with the kernel that Wasserstein autoencoders use for a standard normal prior:
    the sum over SCALES s of C / (C + |x - y|^2), C = 2 d s (Tolstikhin et al. 2018, section 4).
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    within = sum((_kernel(z, z).sum() - len(SCALES) * len(z)) / (len(z) * (len(z) - 1)) for z in (x, y))
    return float(within - 2 * _kernel(x, y).mean())


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    from scipy.spatial.distance import cdist

    squared = np.asarray(cdist(x, y, "sqeuclidean"))
    result = np.zeros_like(squared)
    for scale in SCALES:
        width = 2 * x.shape[1] * scale
        result += width / (width + squared)
    return result
