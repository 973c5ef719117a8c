"""K-means under one roof: for the `cluster` stage and for the clustering scores of every space."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import numpy as np

from aecore.analysis.space import smallest
from aecore.config import UserError
from aecore.counted import counted
from aecore.search.metric import Metric

SAMPLE = 2**26
"""Numbers that k-means holds at most (256 MiB of float32): of larger training splits, the smallest ids."""
BATCH = 16_384
"""Images of a mini-batch; where there are more clusters than half of that, twice as many as those."""
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
            f"cluster.clusters is {clusters:,}, more than the {counted(len(vectors), 'image')} to group: lower it."
        )
    model = faiss.Kmeans(
        vectors.shape[1], clusters, niter=iterations, nredo=RESTARTS, seed=seed % 2**31, spherical=metric == "cosine",
        max_points_per_centroid=len(vectors), min_points_per_centroid=1,
    )  # fmt: skip
    model.train(np.ascontiguousarray(vectors, dtype=np.float32))
    return np.asarray(model.centroids, dtype=np.float32)


def refine(centroids: np.ndarray, batches: Iterable[np.ndarray], metric: Metric, seed: int) -> np.ndarray:
    """Centroids (k, D) after mini-batch k-means over `batches` of comparable vectors (b, D), one in memory at a time.

    Sculley 2010, "Web-scale k-means clustering": each vector moves its nearest centroid by one over the number of
    vectors that it has met. The first batch, of k vectors at least, gives the centroids their weight. For `cosine` they
    are brought back to length 1 after every batch (spherical, Dhillon & Modha 2001).
    """
    from sklearn.cluster import MiniBatchKMeans

    model = MiniBatchKMeans(len(centroids), init=centroids, n_init=1, reassignment_ratio=0, random_state=seed)
    for vectors in batches:
        model.partial_fit(vectors)
        if metric == "cosine":
            length = np.linalg.norm(model.cluster_centers_, axis=1, keepdims=True)
            model.cluster_centers_ /= np.maximum(length, np.finfo(np.float32).tiny)
    return np.asarray(model.cluster_centers_, dtype=np.float32)


def mini_batches(positions: np.ndarray, clusters: int, seed: int) -> list[np.ndarray]:
    """Ascending `positions` in mini-batches that lie together on the disk, in an order that the seed draws."""
    parts = np.array_split(positions, -(-len(positions) // max(BATCH, 2 * clusters)))
    return [parts[number] for number in np.random.default_rng(seed).permutation(len(parts))]


def sample(positions: np.ndarray, ids: np.ndarray, width: int) -> np.ndarray:
    """As many of `positions` as k-means may hold of `width` numbers each: the smallest ids, ascending by position."""
    return smallest(positions, ids, max(1, SAMPLE // width))
