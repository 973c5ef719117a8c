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
NAMES = {
    "noisy": "the noisy input",
    "median": "a median filter",
    "told": "a median of the pixels left, told which they are",
    "pca": "PCA",
}
BLOCK = 2**20
"""Values whose windows are held at a time."""


def median(x: np.ndarray) -> np.ndarray:
    """The median over SIZE x SIZE pixels of each channel, (n, C, H, W) -> the same; beyond the edge, the edge repeats.

    It knows nothing of the noise: pixels dropped to 0 take part like any other.
    """
    from scipy.ndimage import median_filter

    return np.asarray(median_filter(x, size=(1, 1, SIZE, SIZE), mode="nearest"))


def told_median(x: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Keep the known pixels of x (n, C, H, W); each `hidden` one, bool (n, 1, H, W), becomes the median of its known
    neighbours within SIZE x SIZE, 0 where it has none.

    It is told which pixels were dropped, which a denoising autoencoder is not: a floor hard to beat.
    """
    filled, height = np.array(x), max(1, BLOCK // x[0].size)
    for start in range(0, len(x), height):
        rows = slice(start, start + height)
        known = np.where(hidden[rows], np.nan, x[rows])
        edge = SIZE // 2
        padded = np.pad(known, ((0, 0), (0, 0), (edge, edge), (edge, edge)), constant_values=np.nan)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (SIZE, SIZE), axis=(2, 3))
        ordered = np.sort(windows.reshape(*known.shape, -1), axis=-1)  # what is unknown sorts last
        count = np.isfinite(ordered).sum(axis=-1, keepdims=True)
        middle = [np.take_along_axis(ordered, place, axis=-1) for place in (np.maximum(count - 1, 0) // 2, count // 2)]
        filled[rows] = np.where(hidden[rows], np.nan_to_num((middle[0] + middle[1])[..., 0] / 2), x[rows])
    return filled


def rows(case: Case, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """What each makes of the corrupted images uint8 (n, C, H, W): float32 in [0, 1], `noisy` being what they see."""
    noisy, hidden = case.spoil(pixels)
    made = {"noisy": scaled(noisy), "median": scaled(median(noisy))}
    if hidden is not None:
        made["told"] = told_median(scaled(noisy), hidden)
    return made | {"pca": baseline.reconstruct(case.pca, noisy), "model": case.encoder.reconstruct(noisy)}


def measure(case: Case) -> dict[str, float]:
    """Mean PSNR in dB against the clean test images: `psnr`, `psnr_noisy`, …; and the `gain_…` over each."""
    pixels = case.images.rows(case.test)
    ratios = {name: mean_psnr(scaled(pixels), made) for name, made in rows(case, pixels).items()}
    own = ratios.pop("model")
    return (
        {"psnr": own}
        | {f"psnr_{name}": value for name, value in ratios.items()}
        | {f"gain_{name}": own - value for name, value in ratios.items()}
    )


def mean_psnr(clean: np.ndarray, estimate: np.ndarray) -> float:
    """Mean over images of the PSNR in dB, of (n, C, H, W) in [0, 1]; a perfect image counts 100 dB."""
    return float(psnr(squared_error(clean, estimate)).mean())


def verdict(figures: Mapping[str, float], recipe: Recipe) -> str:
    """What is gained and lost."""
    over = {title: figures[f"gain_{name}"] for name, title in NAMES.items() if f"gain_{name}" in figures}
    gains = compared(over, " dB", 1)
    return f"{recipe.corruption} noise of {recipe.amount:g}, PSNR {figures['psnr']:.1f} dB: {gains}"
