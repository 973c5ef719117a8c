"""Figures of codes and weights (sparsity, correlation, subspaces, use) against closed forms, numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy, norm, ortho_group

from aecore.analysis.constraints import off_diagonal
from aecore.analysis.linear import largest_angle
from aecore.analysis.sparsity import active, hoyer, scale, standardised, zeros
from aecore.analysis.usage import active_units, perplexity


def test_hoyer_runs_from_equal_to_alone() -> None:
    codes = np.stack([np.eye(9)[3] * -2e-30, np.full(9, 0.3), np.zeros(9), np.r_[1, 1, 1, 1, np.zeros(5)]])
    np.testing.assert_allclose(hoyer(codes), [1, 0, 0, (3 - 2) / (3 - 1)], atol=1e-12)
    assert hoyer(np.ones((2, 1))).tolist() == [0, 0]


@given(st.lists(st.integers(-999, 999), min_size=2, max_size=20), st.floats(0.01, 100))
def test_hoyer_is_blind_to_size_sign_and_order(values: list[int], factor: float) -> None:
    code = np.array([values])
    value = hoyer(code)[0]
    assert 0 <= value <= 1
    assert hoyer(-factor * code[:, ::-1])[0] == pytest.approx(value, abs=1e-6)


def test_active_counts_against_each_units_own_scale() -> None:
    rng = np.random.default_rng(1)
    codes = rng.normal(size=(4000, 6)).astype(np.float32) * np.array([1, 2, 3, 1, 0.001, 0], np.float32)
    codes[::2, 3] = 0  # half of the time off
    share = active(codes, scale(codes))
    often = 2 * norm.sf(0.1)  # a normal unit beyond a tenth of its scale: 92 %
    expected = (3 * often + norm.sf(0.1 / np.sqrt(2))) / 6  # unit 3's scale is that of its on half over sqrt 2
    assert share.mean() == pytest.approx(expected, abs=0.005)  # units 4 and 5 are dead
    np.testing.assert_array_equal(active(codes * 1e-9, scale(codes * 1e-9)), share)
    assert zeros(codes).mean() == pytest.approx(1.5 / 6, abs=1e-3)
    assert active(np.zeros((3, 2)), np.zeros(2)).tolist() == [0, 0, 0]
    even = standardised(codes, scale(codes))
    np.testing.assert_allclose(scale(even), [1, 1, 1, 1, 0, 0], rtol=1e-6)
    assert hoyer(even[:, :3]).mean() < hoyer(codes[:, :3]).mean()  # unequal units are not yet sparse codes


def test_off_diagonal_correlation_is_numpys() -> None:
    rng = np.random.default_rng(2)
    codes = (rng.normal(size=(300, 5)) @ rng.normal(size=(5, 5)) + 50).astype(np.float32)
    matrix = np.abs(np.corrcoef(codes, rowvar=False))
    assert off_diagonal(codes) == pytest.approx(matrix[~np.eye(5, dtype=bool)].mean(), abs=1e-6)
    assert off_diagonal(np.repeat(codes[:, :1], 3, axis=1)) == pytest.approx(1)
    with_still = np.concatenate([codes[:, :2], np.full((300, 1), 0.1, np.float32)], axis=1)
    assert off_diagonal(with_still) == pytest.approx(2 * matrix[0, 1] / 6, abs=1e-6)
    assert off_diagonal(codes[:, :1]) == 0


@pytest.mark.parametrize("degrees", [0, 1e-5, 0.3, 30, 90])
def test_the_largest_angle_is_the_one_turned_by(degrees: float) -> None:
    rng = np.random.default_rng(3)
    rows = ortho_group.rvs(8, random_state=1)
    turned = rows[:3].copy()
    radians = np.radians(degrees)
    turned[1] = np.cos(radians) * rows[1] + np.sin(radians) * rows[5]
    mixed = rng.normal(size=(3, 3)) @ turned  # another basis of the same span
    assert largest_angle(rows[:3], mixed) == pytest.approx(degrees, abs=1e-5 if degrees > 45 else 1e-6)


def test_a_unit_is_in_use_where_its_mean_moves() -> None:
    rng = np.random.default_rng(4)
    means = rng.normal(size=(5000, 4)) * np.sqrt([1, 0.02, 0.005, 0]) + 3
    assert active_units(means) == 2


def test_perplexity_is_scipys() -> None:
    rng = np.random.default_rng(5)
    counts = rng.integers(0, 9, 40)
    assert perplexity(counts) == pytest.approx(np.exp(entropy(counts / counts.sum())))
    assert perplexity(np.full(16, 3)) == pytest.approx(16)
    assert perplexity(np.eye(16)[2]) == 1
