"""Mixtures against the distribution they were drawn from, and nearest images against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from aecore.generate import closest as closest_module
from aecore.generate.closest import closest, in_pixels
from aecore.generate.mixture import COMPONENTS, Mixture, fit_mixture, fitted_to

RNG = np.random.default_rng(0)
TRUTH = Mixture(
    np.array([0.2, 0.8]),
    np.array([[10.0, 0, 0], [-10.0, 1, 2]]),
    np.linalg.cholesky(np.array([np.diag([1.0, 4, 9]), [[2, 1, 0], [1, 2, 0.5], [0, 0.5, 1]]])),
)


def test_draws_have_the_moments_of_the_mixture() -> None:
    drawn = TRUTH.draw(200_000, 1).astype(np.float64)
    mean = TRUTH.weights @ TRUTH.means
    inner = np.einsum("k,kij,klj->il", TRUTH.weights, TRUTH.factors, TRUTH.factors)
    apart = TRUTH.means - mean
    np.testing.assert_allclose(drawn.mean(axis=0), mean, atol=0.06)
    np.testing.assert_allclose(np.cov(drawn.T), inner + (apart.T * TRUTH.weights) @ apart, rtol=0.02, atol=0.15)
    assert 0.3 < np.mean((drawn[1:, 0] > 0) == (drawn[:-1, 0] > 0)) < 0.75  # the components come in any order


def test_a_fit_finds_the_components_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aecore.generate.mixture.COMPONENTS", 2)
    found = fit_mixture(TRUTH.draw(20_000, 0), 0)
    order = np.argsort(found.weights)
    np.testing.assert_allclose(found.weights[order], TRUTH.weights, atol=0.01)
    np.testing.assert_allclose(found.means[order], TRUTH.means, atol=0.1)
    covariances = [factors @ factors.transpose(0, 2, 1) for factors in (found.factors[order], TRUTH.factors)]
    np.testing.assert_allclose(*covariances, rtol=0.06, atol=0.1)


def test_few_codes_get_few_components_and_equal_ones_a_point() -> None:
    assert len(fit_mixture(RNG.normal(size=(500, 4)), 0).weights) == COMPONENTS
    assert len(fit_mixture(RNG.normal(size=(25, 4)), 0).weights) == 5
    assert len(fit_mixture(RNG.normal(size=(3, 4)), 0).weights) == 1
    flat = RNG.normal(size=(200, 3))
    flat[:, 1] = 7  # a collapsed axis
    assert np.abs(fit_mixture(flat, 0).draw(100, 0)[:, 1] - 7).max() < 0.1
    np.testing.assert_allclose(fit_mixture(np.full((100, 3), 2.0), 0).draw(5, 0), 2, atol=1e-4)


def test_the_same_seed_draws_the_same_and_another_something_else() -> None:
    codes = TRUTH.draw(300, 0)
    first = fit_mixture(codes, 0).draw(9, 5)
    np.testing.assert_array_equal(fit_mixture(codes, 0).draw(9, 5), first)
    assert not np.isclose(fit_mixture(codes, 0).draw(9, 6), first).all(axis=1).any()


def test_of_many_codes_the_smallest_ids_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, train = np.array([5, 3, 9, 1, 7]), np.array([0, 1, 2, 4])
    assert fitted_to(train, ids).tolist() == [0, 1, 2, 4]
    monkeypatch.setattr("aecore.generate.mixture.FITTED", 2)
    assert fitted_to(train, ids).tolist() == [0, 1]


@pytest.mark.parametrize("block", [8, 2**22])
def test_the_closest_is_brute_forces_and_a_copy_is_at_0(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closest_module, "BLOCK", block)
    vectors, queries = RNG.normal(size=(40, 6)).astype(np.float32), RNG.normal(size=(7, 6)).astype(np.float32)
    positions = np.arange(0, 40, 2)
    queries[3] = vectors[14]
    found, distance = closest(queries, lambda rows: vectors[rows], positions)
    every = cdist(queries.astype(np.float64), vectors[positions].astype(np.float64))
    np.testing.assert_array_equal(found, positions[every.argmin(axis=1)])
    np.testing.assert_allclose(distance, every.min(axis=1), rtol=1e-12)
    assert (found[3], distance[3]) == (14, 0)


def test_distances_in_pixels_are_root_mean_squares_whatever_the_type() -> None:
    pair = RNG.integers(0, 255, (2, 3, 5, 4), dtype=np.uint8)
    expected = np.sqrt(np.square(pair[0] / 255 - pair[1] / 255).mean())
    for pictures in (pair, (pair / 255).astype(np.float32)):
        assert np.linalg.norm(np.subtract(*in_pixels(pictures))) == pytest.approx(expected, rel=1e-5)
