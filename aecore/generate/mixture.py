"""A Gaussian mixture over codes: fitted afterwards to the training split's, it makes a generator of any autoencoder.

Ghosh et al. 2020, "From variational to deterministic autoencoders", section 4: ex-post density estimation.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np

COMPONENTS = 10
"""Gaussians in the mixture, as Ghosh et al. have; fewer where one would get no more codes than a code has numbers.

For the bundled images' codes the Bayesian information criterion is least at 10 to 20.
"""
FITTED = 50_000
"""Codes that a mixture is fitted to at most: of a larger training split those of the smallest ids."""
FLOOR = 1e-4
"""Added to each covariance's diagonal, in mean variances of a code's numbers: a collapsed axis does not break it."""
ITERATIONS = 200
"""Of expectation maximisation, at most."""


class Mixture(NamedTuple):
    """A mixture of k Gaussians over codes of d numbers."""

    weights: np.ndarray
    """(k,) float64, of sum 1."""
    means: np.ndarray
    """(k, d) float64."""
    factors: np.ndarray
    """(k, d, d) float64: lower Cholesky factors of the covariances."""

    def draw(self, count: int, seed: int) -> np.ndarray:
        """Codes float32 (count, d), of the components in the order that chance has them in."""
        generator = np.random.default_rng(seed)
        chosen = generator.choice(len(self.weights), count, p=self.weights)
        noise = generator.standard_normal((count, self.means.shape[1]))
        drawn = self.means[chosen]
        for component, factor in enumerate(self.factors):
            mine = chosen == component
            drawn[mine] += noise[mine] @ factor.T
        return drawn.astype(np.float32)


def fit_mixture(codes: np.ndarray, seed: int) -> Mixture:
    """Fit full covariances to codes (n, d) by expectation maximisation, which k-means starts.

    In one thread: the matrices are so small that several would wait for one another.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    values = codes.astype(np.float64)
    count, dim = values.shape
    components = max(1, min(COMPONENTS, count // (dim + 1)))
    floor = FLOOR * float(values.var(axis=0).mean()) + 1e-12
    model = GaussianMixture(components, reg_covar=floor, max_iter=ITERATIONS, random_state=seed)
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # ITERATIONS passed, or codes alike: it still is a mixture
        model.fit(values)
    return Mixture(model.weights_ / model.weights_.sum(), model.means_, np.linalg.cholesky(model.covariances_))


def fitted_to(train: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The positions among `train` whose codes a mixture is fitted to, ascending; `ids` of all images."""
    return np.sort(train[np.argsort(ids[train], kind="stable")[:FITTED]])
