"""What removes noise without learning: the floors under a denoising autoencoder."""

from __future__ import annotations

import numpy as np

from aecore.analysis.scores import psnr, squared_error

SIZE = 3
"""Pixels across the median filter's window: the smallest, which blurs least."""


def median(x: np.ndarray) -> np.ndarray:
    """The median over SIZE x SIZE pixels of each channel, (n, C, H, W) -> the same; beyond the edge, the edge repeats.

    It knows nothing of the noise: pixels dropped to 0 take part like any other.
    """
    from scipy.ndimage import median_filter

    return np.asarray(median_filter(x, size=(1, 1, SIZE, SIZE), mode="nearest"))


def mean_psnr(clean: np.ndarray, estimate: np.ndarray) -> float:
    """Mean over images of the PSNR in dB, of (n, C, H, W) in [0, 1]; a perfect image counts 100 dB."""
    return float(psnr(squared_error(clean, estimate)).mean())
