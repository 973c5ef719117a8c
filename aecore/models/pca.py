"""Principal component analysis of images that need not fit in memory: the floor under every autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from aecore.config import UserError
from aecore.counted import counted
from aecore.data.images import Images

EXACT = 4096
"""Exact while the smaller of images and pixels is at most this; else randomised."""
BLOCK = 512
"""Images read at a time."""
OVERSAMPLE = 16
POWER_ITERATIONS = 4

Batches = Callable[[], Iterable[np.ndarray]]


@dataclass(frozen=True)
class Pca:
    """The affine map to the first principal components and back."""

    mean: np.ndarray
    """(D,) float32."""
    components: np.ndarray
    """(d, D) float32, orthonormal rows, by falling variance; signs fixed so that the largest entry is positive."""
    exact: bool
    """False where a randomised method found the components."""

    def encode(self, flat: np.ndarray) -> np.ndarray:
        """(n, D) -> (n, d) float32."""
        return np.asarray((flat - self.mean) @ self.components.T, dtype=np.float32)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """(n, d) -> (n, D) float32."""
        return np.asarray(codes @ self.components + self.mean, dtype=np.float32)


def fit_pca(batches: Batches, count: int, dim: int, seed: int) -> Pca:
    """Fit `dim` components to `count` vectors that `batches()` yields as (m, D) float arrays, in the same order twice.

    Memory: one batch, plus a square matrix of at most EXACT a side (or, randomised, a few (D, dim + 16) ones).
    Randomised: Halko, Martinsson & Tropp 2011, algorithm 4.4 (subspace iteration) on the covariance.
    Raises UserError when `dim` exceeds what the vectors can span.
    """
    total = sum(batch.sum(axis=0, dtype=np.float64) for batch in batches())
    mean = np.asarray(total / count)
    pixels = mean.size
    if dim > min(count, pixels):
        raise UserError(
            f"{counted(dim, 'principal component')} were asked of {counted(count, 'image')} of "
            f"{counted(pixels, 'value')}; lower latent_dim."
        )
    if pixels <= EXACT:
        covariance = np.zeros((pixels, pixels))
        for batch in batches():
            centred = batch.astype(np.float64) - mean
            covariance += centred.T @ centred
        components = _leading(covariance, dim).T
    elif count <= EXACT:
        components = _from_gram(batches, mean, count, dim)
    else:
        components = _randomised(batches, mean, dim, seed)
    largest = np.abs(components).argmax(axis=1)
    components *= np.sign(components[np.arange(dim), largest])[:, None]
    exact = min(count, pixels) <= EXACT
    return Pca(mean.astype(np.float32), components.astype(np.float32), exact)


def fit_images(images: Images, dim: int, seed: int) -> Pca:
    """PCA of the training split's pixels in [0, 1], read in blocks. Raises as `fit_pca` does."""
    positions = images.positions("train")

    def batches() -> Iterator[np.ndarray]:
        for start in range(0, len(positions), BLOCK):
            rows = images.rows(positions[start : start + BLOCK])
            yield rows.reshape(len(rows), -1).astype(np.float32) / 255

    return fit_pca(batches, len(positions), dim, seed)


def _leading(symmetric: np.ndarray, dim: int) -> np.ndarray:
    from scipy.linalg import eigh

    size = len(symmetric)
    _, vectors = eigh(symmetric, subset_by_index=[size - dim, size - 1])
    return np.asarray(vectors[:, ::-1])  # (size, dim), by falling eigenvalue


def _from_gram(batches: Batches, mean: np.ndarray, count: int, dim: int) -> np.ndarray:
    """Fewer images than pixels: eigenvectors of the (n, n) Gram matrix, mapped back to pixels."""
    centred = np.concatenate([batch.astype(np.float32) for batch in batches()]) - mean.astype(np.float32)
    vectors = _leading((centred @ centred.T).astype(np.float64), dim)
    components = np.linalg.qr(centred.astype(np.float64).T @ vectors)[0]
    return np.asarray(components.T)


def _randomised(batches: Batches, mean: np.ndarray, dim: int, seed: int) -> np.ndarray:
    basis = np.random.default_rng(seed).standard_normal((mean.size, dim + OVERSAMPLE)).astype(np.float32)
    centre = mean.astype(np.float32)
    for _ in range(POWER_ITERATIONS):
        basis = np.linalg.qr(basis)[0]
        image = np.zeros_like(basis)
        for batch in batches():
            centred = batch - centre
            image += centred.T @ (centred @ basis)
        basis = image
    basis = np.linalg.qr(basis)[0]
    small = np.zeros((basis.shape[1], basis.shape[1]))
    for batch in batches():
        projected = ((batch - centre) @ basis).astype(np.float64)
        small += projected.T @ projected
    return np.asarray((basis @ _leading(small, dim)).T, dtype=np.float64)
