"""How sparse codes are: how few units a code uses, and how unequally."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aecore.analysis.case import Case
from aecore.models.recipe import Recipe

THRESHOLD = 0.1
"""A unit is active in a code where it exceeds this share of its own scale …"""
DEAD = 0.01
"""… unless its scale is below this share of the largest unit's: it carries nothing, whatever its value."""


def scale(codes: np.ndarray) -> np.ndarray:
    """Root mean square of each unit of (training) `codes` (n, d): float64 (d,)."""
    return np.asarray(np.sqrt(np.square(codes.astype(np.float64)).mean(axis=0)))


def active(codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Share of active units in each code, (n, d) and (d,) -> float64 (n,).

    A unit is active where |z| > THRESHOLD x its scale; one whose scale is less than DEAD x the largest never is. Both
    are relative, so that codes made small and decoders made large to please a penalty change nothing. Codes drawn
    from a normal distribution are 92 % active.
    """
    return np.asarray(((np.abs(codes) > THRESHOLD * scale) & _alive(scale)).mean(axis=1))


def standardised(codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Codes (n, d) with each unit divided by its scale (d,), dead units 0."""
    alive = _alive(scale)
    return np.asarray(np.where(alive, codes / np.where(alive, scale, 1), 0))


def zeros(codes: np.ndarray) -> np.ndarray:
    """Share of exact zeros in each code, (n, d) -> float64 (n,)."""
    return np.asarray((codes == 0).mean(axis=1))


def hoyer(codes: np.ndarray) -> np.ndarray:
    """Sparseness of each code, (n, d) -> float64 (n,): 1 with one unit alone, 0 with all equally large.

    (sqrt d - |z|_1 / |z|_2) / (sqrt d - 1): Hoyer 2004, "Non-negative matrix factorization with sparseness
    constraints", section 3.1. Codes of zeros alone, and of one unit, are 0.
    """
    root = np.sqrt(codes.shape[1])
    if root == 1:
        return np.zeros(len(codes))
    size = np.abs(codes.astype(np.float64))
    size /= np.maximum(size.max(axis=1, keepdims=True), np.finfo(np.float64).tiny)  # tiny codes would square to nothing
    norm = np.sqrt(np.square(size).sum(axis=1))
    ratio = np.divide(size.sum(axis=1), norm, out=np.full(len(codes), root), where=norm > 0)
    return np.asarray(np.clip((root - ratio) / (root - 1), 0, 1))


def measure(case: Case) -> dict[str, float]:
    """Means over the test codes: `active`, `zeros`, `hoyer`; the same of PCA's codes (`…_pca`).

    A unit's scale is that on training codes. Hoyer's figure is of codes whose units are brought to scale 1 (dead ones
    to 0): else PCA, whose first units are always the largest, would be called sparse.
    """
    figures: dict[str, float] = {}
    for suffix, read in (("", case.codes), ("_pca", case.projected)):
        codes, size = read(case.test), scale(read(case.train))
        figures[f"active{suffix}"] = float(active(codes, size).mean())
        figures[f"hoyer{suffix}"] = float(hoyer(standardised(codes, size)).mean())
        figures[f"zeros{suffix}"] = float(zeros(codes).mean())
    return figures


def verdict(figures: Mapping[str, float], recipe: Recipe) -> str:
    """How sparse, beside PCA."""
    sparser = "sparser" if figures["hoyer"] > figures["hoyer_pca"] else "**no sparser**"
    return (
        f"{sparser} than PCA: Hoyer {figures['hoyer']:.3f} (PCA {figures['hoyer_pca']:.3f}), {figures['active']:.0%} "
        f"of the units active in a code ({figures['active_pca']:.0%}), {figures['zeros']:.0%} exactly 0"
    )


def _alive(scale: np.ndarray) -> np.ndarray:
    return np.asarray((scale > 0) & (scale >= DEAD * scale.max()))
