"""The Fréchet distance against scipy's matrix square root and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from aecore.analysis.frechet import Gaussian, distance, fit

RNG = np.random.default_rng(0)


def covariance(dim: int, rank: int | None = None) -> np.ndarray:
    factor = RNG.normal(size=(dim, rank or dim + 3))
    return factor @ factor.T


@pytest.mark.parametrize("dim", [1, 5, 64])
def test_it_is_the_definition_by_scipys_square_root(dim: int) -> None:
    a, b = (Gaussian(RNG.normal(size=dim), covariance(dim)) for _ in range(2))
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance).real
    expected = np.square(a.mean - b.mean).sum() + np.trace(a.covariance + b.covariance - 2 * root)
    assert distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert distance(b, a) == pytest.approx(distance(a, b), rel=1e-10)


def test_covariances_that_commute_have_a_closed_form() -> None:
    axes = scipy.linalg.qr(RNG.normal(size=(6, 6)))[0]
    first, second = np.array([0, 1, 4, 9, 2, 0.5]), np.array([1, 1, 0, 4, 8, 0.5])
    a, b = (Gaussian(np.zeros(6), axes * variances @ axes.T) for variances in (first, second))
    assert distance(a, b) == pytest.approx(np.square(np.sqrt(first) - np.sqrt(second)).sum(), rel=1e-6)
    moved = Gaussian(np.full(6, 2.0), a.covariance)
    assert distance(a, moved) == pytest.approx(24, rel=1e-10)


@pytest.mark.parametrize("rank", [None, 3])
def test_equal_distributions_are_at_distance_0_singular_or_not(rank: int | None) -> None:
    a = Gaussian(RNG.normal(size=20), covariance(20, rank))
    assert 0 <= distance(a, a) < 1e-7 * np.trace(a.covariance)


def test_the_fit_is_numpys_and_samples_are_biased_upwards() -> None:
    features = RNG.normal(3, 2, size=(2000, 8)).astype(np.float32)
    whole = fit(features)
    np.testing.assert_allclose(whole.covariance, np.cov(features.astype(np.float64).T), rtol=1e-10)
    np.testing.assert_allclose(whole.mean, features.astype(np.float64).mean(axis=0), rtol=1e-12)
    assert distance(fit(features[:20]), whole) > distance(fit(features[:1000]), whole) > 0
