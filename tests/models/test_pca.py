from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from sklearn.decomposition import PCA

from aecore.config import UserError
from aecore.models import pca
from aecore.models.pca import fit_pca


def vectors(count: int, pixels: int, rank: int = 12) -> np.ndarray:
    rng = np.random.default_rng(0)
    spectrum = 0.7 ** np.arange(rank)
    return (rng.standard_normal((count, rank)) * spectrum @ rng.standard_normal((rank, pixels)) + 0.3).astype(
        np.float32
    )


def in_batches(x: np.ndarray) -> pca.Batches:
    def batches() -> Iterator[np.ndarray]:
        yield from np.array_split(x, 5)

    return batches


@pytest.mark.parametrize("way", ["covariance", "gram", "randomised"])
def test_equals_scikit_learn(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = vectors(*{"covariance": (300, 50), "gram": (60, 200), "randomised": (300, 200)}[way])
    if way != "covariance":
        monkeypatch.setattr(pca, "EXACT", 100)
    found = fit_pca(in_batches(x), len(x), 4, seed=0)
    expected = PCA(4, svd_solver="full").fit(x.astype(np.float64))
    assert found.exact == (way != "randomised")
    np.testing.assert_allclose(found.mean, expected.mean_, atol=1e-5)
    cosines = np.abs((found.components * expected.components_).sum(axis=1))
    np.testing.assert_allclose(cosines, 1, atol=1e-4)
    np.testing.assert_allclose(found.components @ found.components.T, np.eye(4), atol=1e-5)
    reconstruction = expected.inverse_transform(expected.transform(x))
    np.testing.assert_allclose(found.decode(found.encode(x)), reconstruction, atol=2e-3)


def test_the_same_twice_and_signs_fixed() -> None:
    x = vectors(100, 20)
    first, second = (fit_pca(in_batches(x), len(x), 3, seed=1) for _ in range(2))
    assert np.array_equal(first.components, second.components)
    assert (first.components[np.arange(3), np.abs(first.components).argmax(axis=1)] > 0).all()


def test_more_components_than_the_images_span() -> None:
    x = vectors(5, 20)
    with pytest.raises(UserError, match="6 principal components were asked of 5 images of 20 values"):
        fit_pca(in_batches(x), len(x), 6, seed=0)
