"""How near an autoencoder comes to PCA's properties: uncorrelated codes, and for a linear one the same subspace."""

from __future__ import annotations

import numpy as np


def off_diagonal(codes: np.ndarray) -> float:
    """Mean absolute correlation between different units of `codes` (n, d): 0 uncorrelated, 1 all the same.

    A unit that never changes correlates with nothing; fewer than two units correlate not at all.
    """
    centred = codes.astype(np.float64) - codes.mean(axis=0, dtype=np.float64)
    norms = np.linalg.norm(centred, axis=0)
    still = norms <= 1e-6 * np.sqrt(len(codes)) * np.maximum(np.abs(codes).max(axis=0), 1e-30)  # rounding alone
    unit = np.where(still, 0, centred / np.where(still, 1, norms))
    count = codes.shape[1]
    if count < 2:
        return 0.0
    correlation = np.abs(unit.T @ unit)
    return float((correlation.sum() - np.trace(correlation)) / (count * (count - 1)))


def largest_angle(basis: np.ndarray, other: np.ndarray) -> float:
    """Largest principal angle, in degrees, between the spans of the rows of (d, D) and (e, D).

    Knyazev & Argentati 2002, exact for small angles too. 90 where a row of one is orthogonal to all of the other.
    """
    from scipy.linalg import subspace_angles

    return float(np.degrees(subspace_angles(basis.T.astype(np.float64), other.T.astype(np.float64)).max()))
