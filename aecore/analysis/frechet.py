"""The Fréchet distance between two sets of features, each taken for a Gaussian: how far samples are from images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Gaussian(NamedTuple):
    """The normal distribution with the mean and covariance of some features."""

    mean: np.ndarray
    """(D,) float64."""
    covariance: np.ndarray
    """(D, D) float64, symmetric, unbiased."""


def fit(features: np.ndarray) -> Gaussian:
    """The Gaussian of features (n, D), n of 2 or more, summed in float64."""
    values = features.astype(np.float64)
    centred = values - values.mean(axis=0)
    return Gaussian(values.mean(axis=0), centred.T @ centred / (len(values) - 1))


def distance(a: Gaussian, b: Gaussian) -> float:
    """Squared Fréchet (2-Wasserstein) distance of two Gaussians, 0 or more, in squared units of the features.

    |m_a - m_b|^2 + Tr(C_a + C_b - 2 (C_a C_b)^(1/2)): Dowson & Landau 1982, eq. 16; Heusel et al. 2017, eq. 6, where
    the features are those of the Inception network. The trace of (C_a C_b)^(1/2) is taken as the sum of the singular
    values of C_a^(1/2) C_b^(1/2), both symmetric roots: no square root of a matrix that is not symmetric, and singular
    covariances (fewer features than dimensions) need no offset.

    Estimated from samples it is biased upwards, by more the fewer they are (Chong & Forsyth 2020): compare distances
    of equally many only.
    """
    import scipy.linalg

    shift = float(np.square(a.mean - b.mean).sum())
    shared = scipy.linalg.svdvals(_root(a.covariance) @ _root(b.covariance)).sum()
    return max(0.0, shift + float(np.trace(a.covariance) + np.trace(b.covariance) - 2 * shared))


def _root(covariance: np.ndarray) -> np.ndarray:
    """Symmetric square root (D, D); eigenvalues that rounding made negative count as 0."""
    import scipy.linalg

    values, vectors = scipy.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T)
