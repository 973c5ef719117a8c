"""How many clusters: the number whose k-means has the largest mean silhouette.

Rousseeuw 1987, "Silhouettes"; of the 30 indices that Arbelaitz et al. 2013 compared, the best on average. The index of
Calinski & Harabasz (1974) costs less and said 2 for each of the three sets of images that both were tried on.
"""

from __future__ import annotations

import numpy as np

from aecore.analysis.kmeans import kmeans
from aecore.config import WorkFailed
from aecore.search.clusters import nearest
from aecore.search.metric import Metric

CANDIDATES = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 50, 100)
"""Numbers of clusters that are tried."""
TRIED = 20_000
"""Training images that they are tried on at most: the smallest ids."""
JUDGED = 4_000
"""Those of them whose silhouettes count: all their distances are held (64 MiB)."""

Tried = list[tuple[int, float | None]]
"""(number of clusters, mean silhouette or None where there is none), in the order of CANDIDATES."""


def silhouettes(tried: np.ndarray, judged: np.ndarray, iterations: int, seed: int, metric: Metric) -> Tried:
    """Mean silhouette of `judged` (m, D) under k-means of `tried` (n, D), comparable, for each number of clusters < m.

    (b - a) / max(a, b) of an image, from -1 to 1: a its mean distance to its own cluster, b to the next one, both the
    index's. Rounded to six digits.
    """
    from sklearn.metrics import pairwise_distances, silhouette_score

    distances = pairwise_distances(judged, metric="cosine" if metric == "cosine" else "euclidean")
    found: Tried = []
    for clusters in (number for number in CANDIDATES if number < min(len(judged), len(tried))):
        cluster, _ = nearest(judged, kmeans(tried, clusters, iterations, seed, metric), metric)
        some = 2 <= len(np.unique(cluster)) < len(judged)
        score = silhouette_score(distances, cluster, metric="precomputed") if some else None
        found.append((clusters, None if score is None else round(float(score), 6)))
    return found


def best(tried: Tried) -> int:
    """The number with the largest silhouette, the smallest of equals. Raises WorkFailed where none has one."""
    judged = [(score, -clusters) for clusters, score in tried if score is not None]
    if not judged:
        raise WorkFailed(
            "cluster.clusters is auto, but no number of clusters has a silhouette, since the images are too few or all "
            "alike: set a number."
        )
    return -max(judged)[1]
