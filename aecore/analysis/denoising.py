"""Denoising: how much of a recipe's noise a model takes away, beside a median filter and PCA, which learn none."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aecore.analysis import baseline
from aecore.analysis.case import Case, compared, scaled
from aecore.analysis.scores import psnr, squared_error
from aecore.models.recipe import Recipe

SIZE = 3
"""Pixels across the median filter's window: the smallest, which blurs least."""
NAMES = {"noisy": "the noisy input", "median": "a median filter", "pca": "PCA"}


def median(x: np.ndarray) -> np.ndarray:
    """The median over SIZE x SIZE pixels of each channel, (n, C, H, W) -> the same; beyond the edge, the edge repeats.

    It knows nothing of the noise: pixels dropped to 0 take part like any other.
    """
    from scipy.ndimage import median_filter

    return np.asarray(median_filter(x, size=(1, 1, SIZE, SIZE), mode="nearest"))


def rows(case: Case, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """What each makes of the corrupted images uint8 (n, C, H, W): float32 in [0, 1], `noisy` being what they see."""
    noisy, _ = case.spoil(pixels)
    return {
        "noisy": scaled(noisy),
        "median": scaled(median(noisy)),
        "pca": baseline.reconstruct(case.pca, noisy),
        "model": case.encoder.reconstruct(noisy),
    }


def measure(case: Case) -> dict[str, float]:
    """Mean PSNR in dB against the clean test images: `psnr`, `psnr_noisy`, …; and the `gain_…` over each."""
    pixels = case.images.rows(case.test)
    ratios = {name: mean_psnr(scaled(pixels), made) for name, made in rows(case, pixels).items()}
    return (
        {"psnr": ratios["model"]}
        | {f"psnr_{name}": ratios[name] for name in NAMES}
        | {f"gain_{name}": ratios["model"] - ratios[name] for name in NAMES}
    )


def mean_psnr(clean: np.ndarray, estimate: np.ndarray) -> float:
    """Mean over images of the PSNR in dB, of (n, C, H, W) in [0, 1]; a perfect image counts 100 dB."""
    return float(psnr(squared_error(clean, estimate)).mean())


def verdict(figures: Mapping[str, float], recipe: Recipe) -> str:
    """What is gained and lost."""
    gains = compared({title: figures[f"gain_{name}"] for name, title in NAMES.items()}, " dB", 1)
    return f"{recipe.corruption} noise of {recipe.amount:g}, PSNR {figures['psnr']:.1f} dB: {gains}"
