"""HDBSCAN: clusters where codes lie densely, as many as there are, and noise between them."""

from __future__ import annotations

import numpy as np

from aecore.config import UserError, WorkFailed
from aecore.counted import counted
from aecore.search.clusters import NOISE, Fitted
from aecore.search.metric import Metric, apart

FITTED = 20_000
"""Training images that clusters are looked for among at most, the smallest ids: time grows with their square.

The others, known by the nearest of these, are noise somewhat less often: 35 % against 43 % of all of Fashion-MNIST
(recipe `best`, 64 numbers, min_size 50).
"""
ROUNDING = 1e-6
"""Of a cosine in float32: equal codes are no farther apart."""


def density(vectors: np.ndarray, min_size: int, metric: Metric) -> tuple[np.ndarray, Fitted]:
    """Centroids float32 (clusters, D) of comparable vectors (n, D), and what gives a code to a cluster (or to none).

    HDBSCAN (Campello, Moulavi & Sander 2013) with one parameter, as they use it: `min_size` is the smallest cluster and
    the neighbours that make a place dense. On vectors of length 1 the Euclidean distance orders as the cosine does. A
    centroid is the mean of the members. Raises UserError where there are fewer vectors, WorkFailed where all are noise.
    """
    from sklearn.cluster import HDBSCAN
    from sklearn.neighbors import NearestNeighbors

    if min_size > len(vectors):
        raise UserError(
            f"cluster.min_size is {min_size:,}, more than the {counted(len(vectors), 'image')} there are: lower it."
        )
    cluster = HDBSCAN(min_cluster_size=min_size, copy=True).fit(vectors).labels_.astype(np.int32)
    if (cluster == NOISE).all():
        raise WorkFailed(
            f"HDBSCAN found no cluster among {counted(len(vectors), 'image')}: lower cluster.min_size, which is "
            f"{min_size:,}, or take cluster.method kmeans."
        )
    centroids, radius = [], []
    for number in range(cluster.max() + 1):
        members = vectors[cluster == number]
        beside = NearestNeighbors(n_neighbors=1).fit(members).kneighbors(return_distance=False)[:, 0]
        radius.append(max(float(apart(members, members[beside], metric).max()), ROUNDING))
        mean = members.mean(axis=0, dtype=np.float64)
        centroids.append(mean / max(float(np.linalg.norm(mean)), 1e-12) if metric == "cosine" else mean)
    return np.array(centroids, np.float32), Fitted(vectors, cluster, np.array(radius, np.float32))
