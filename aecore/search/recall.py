"""Recall of an index: how many of the exact neighbours it finds, queries themselves left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from aecore.search.metric import Shards

QUERIES = 1_000
"""At most this many queries behind a recall."""


class Found(NamedTuple):
    """What FAISS answers."""

    scores: np.ndarray
    """float32 (q, k): inner products (larger is nearer) or squared Euclidean distances (smaller is nearer)."""
    ids: np.ndarray
    """int64 (q, k), nearest first; -1 where fewer were found."""


class Queries(NamedTuple):
    """Images whose neighbours are compared with the exact ones."""

    split: str
    """Where they come from."""
    positions: np.ndarray
    """int64 (q,), ascending."""


class Truth(NamedTuple):
    """Queries and their exact neighbours, themselves left out."""

    queries: np.ndarray
    """Codes, float32 (q, dim)."""
    own: np.ndarray
    """Their ids, int64 (q,)."""
    nearest: Found


def recall_at(k: int, found: Found, truth: Found, sign: int, tolerance: float) -> float:
    """Share of the k exact nearest that were found, averaged over queries; what ties with the k-th nearest counts.

    `sign` is 1 where larger scores are nearer, else -1; scores closer than `tolerance` tie.
    """
    k = min(k, truth.ids.shape[1])
    if not k:
        return 1.0
    same = (found.ids[:, :k, None] == truth.ids[:, None, :k]).any(axis=2)
    as_near = sign * found.scores[:, :k] >= sign * truth.scores[:, k - 1 : k] - tolerance
    return float(((same | as_near) & (found.ids[:, :k] >= 0)).mean())


def sample(positions: np.ndarray, most: int, random: np.random.Generator) -> np.ndarray:
    """At most `most` of the positions, ascending."""
    if len(positions) <= most:
        return positions
    return np.sort(random.choice(positions, most, replace=False))


def choose_queries(splits: Mapping[str, np.ndarray], name: str, random: np.random.Generator, count: int) -> Queries:
    """A sample of the split `name`; where it is empty, of the one before it, and of all in the end."""
    order = ["test", "validation", "train"]
    for split in order[order.index(name) :]:
        if len(splits[split]):
            return Queries(split, sample(splits[split], QUERIES, random))
    return Queries("all", sample(np.arange(count), QUERIES, random))


def gather(coded: Shards, positions: np.ndarray, dim: int) -> np.ndarray:
    """The vectors at `positions`, float32 (m, dim)."""
    result = np.empty((len(positions), dim), np.float32)
    for first, block in coded():
        here = (positions >= first) & (positions < first + len(block))
        result[here] = block[positions[here] - first]
    return result


def exact_neighbours(coded: Shards, ids: np.ndarray, positions: np.ndarray, dim: int, k: int, measure: int) -> Truth:
    """The k nearest of the vectors at `positions`, by comparison with every vector but themselves, block by block."""
    import faiss

    queries, own = gather(coded, positions, dim), ids[positions]
    sign = -1 if measure == faiss.METRIC_INNER_PRODUCT else 1
    wide = min(k + 1, len(ids))
    scores, names = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    for first, block in coded():
        near, rows = faiss.knn(queries, block, min(wide, len(block)), metric=measure)
        scores, names = np.hstack([scores, near]), np.hstack([names, ids[first + rows]])
        order = np.argsort(sign * scores, axis=1, kind="stable")[:, :wide]
        scores, names = np.take_along_axis(scores, order, 1), np.take_along_axis(names, order, 1)
    return Truth(queries, own, _without(own, Found(scores, names)))


def _without(own: np.ndarray, found: Found) -> Found:
    """One neighbour fewer: the query's `own` id (q,), or the last where it was not found."""
    order = np.argsort(found.ids == own[:, None], axis=1, kind="stable")[:, :-1]
    return Found(np.take_along_axis(found.scores, order, 1), np.take_along_axis(found.ids, order, 1))


def recall_of(index: Any, truth: Truth, ks: tuple[int, ...]) -> dict[str, float]:
    """Recall@k of a faiss.Index for each of `ks`, rounded to four digits."""
    import faiss

    found = _without(truth.own, Found(*index.search(truth.queries, truth.nearest.ids.shape[1] + 1)))
    tolerance = 1e-6 * float((truth.queries**2).sum(axis=1).max())  # float32 rounding of what FAISS sums
    sign = 1 if index.metric_type == faiss.METRIC_INNER_PRODUCT else -1
    return {str(k): round(recall_at(k, found, truth.nearest, sign, tolerance), 4) for k in ks}
