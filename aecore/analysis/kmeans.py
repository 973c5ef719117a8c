"""K-means under one roof: for the `cluster` stage and for the clustering scores of every space."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from aecore.analysis.space import affinity, blocks
from aecore.config import UserError
from aecore.search.metric import Metric

SAMPLE = 2**26
"""Numbers that k-means is trained on at most (256 MiB of float32): of larger training splits, the smallest ids."""
RESTARTS = 3
"""Random starts, of which the best is kept."""


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """Let FAISS and numpy's linear algebra use `number` threads inside the block."""
    import faiss
    from threadpoolctl import threadpool_limits

    faiss.omp_set_num_threads(number)
    with threadpool_limits(number):
        yield


def kmeans(vectors: np.ndarray, clusters: int, iterations: int, seed: int, metric: Metric) -> np.ndarray:
    """Centroids float32 (clusters, D) of comparable vectors float32 (n, D); spherical for `cosine`.

    Raises UserError where there are fewer vectors than clusters.
    """
    import faiss

    if clusters > len(vectors):
        raise UserError(
            f"cluster.clusters is {clusters:,}, but there are only {len(vectors):,} images to group: lower it."
        )
    model = faiss.Kmeans(
        vectors.shape[1], clusters, niter=iterations, nredo=RESTARTS, seed=seed % 2**31, spherical=metric == "cosine",
        max_points_per_centroid=len(vectors), min_points_per_centroid=1,
    )  # fmt: skip
    model.train(np.ascontiguousarray(vectors, dtype=np.float32))
    return np.asarray(model.centroids, dtype=np.float32)


def assign(vectors: np.ndarray, centroids: np.ndarray, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """Nearest centroid int32 (n,) of comparable vectors (n, D), and the distance to it float32 (n,), as the index's.

    1 - cosine, or the Euclidean distance.
    """
    cluster = np.empty(len(vectors), np.int32)
    for block in blocks(len(vectors), len(centroids)):
        cluster[block] = affinity(vectors[block], centroids, metric).argmax(axis=1)
    own = centroids[cluster]
    if metric == "l2":
        return cluster, np.linalg.norm(vectors - own, axis=1).astype(np.float32)
    return cluster, np.maximum(1 - np.einsum("nd,nd->n", vectors, own), 0).astype(np.float32)


def sample(positions: np.ndarray, ids: np.ndarray, width: int) -> np.ndarray:
    """As many of `positions` as k-means may hold of `width` numbers each: the smallest ids, ascending by position."""
    most = max(1, SAMPLE // width)
    return positions if len(positions) <= most else np.sort(positions[np.argsort(ids[positions])[:most]])
