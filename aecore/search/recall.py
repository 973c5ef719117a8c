"""Recall of an index: how many of the exact neighbours it finds, queries themselves left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from aecore.search.gpu import Knn
from aecore.search.vector_index import Candidates, VectorIndex, rescored

QUERIES = 500
"""At most this many queries behind a recall: at 0.98, a standard error of 0.002 in recall@10."""
RESCORED = 64
"""Queries whose exact neighbours are in memory at a time."""


class Queries(NamedTuple):
    """Images whose neighbours are compared with the exact ones."""

    split: str
    """Where they come from."""
    positions: np.ndarray
    """int64 (q,), ascending."""


class Asked(NamedTuple):
    """Queries of one kind."""

    queries: np.ndarray
    """Codes, float32 (q, dim)."""
    own: np.ndarray
    """Their ids, int64 (q,)."""
    k: int


class Truth(NamedTuple):
    """Queries and their exact neighbours, themselves left out."""

    queries: np.ndarray
    """Codes, float32 (q, dim)."""
    own: np.ndarray
    """Their ids, int64 (q,)."""
    nearest: Candidates


def recall_at(k: int, found: Candidates, truth: Candidates, tolerance: float) -> float:
    """Share of the k exact nearest that were found, averaged over queries; what ties with the k-th nearest counts.

    Distances closer than `tolerance` tie.
    """
    k = min(k, truth.ids.shape[1])
    if not k:
        return 1.0
    same = (found.ids[:, :k, None] == truth.ids[:, None, :k]).any(axis=2)
    as_near = found.distance[:, :k] <= truth.distance[:, k - 1 : k] + tolerance
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


def exact_neighbours(
    coded: Iterator[tuple[int, np.ndarray]],
    ids: np.ndarray,
    asked: Sequence[Asked],
    measure: int,
    knn: Knn | None = None,
) -> list[Truth]:
    """The k nearest of each query, by comparison with every code but its own, in one pass over the blocks.

    By `faiss.knn`, or by what else gives the same.
    """
    import faiss

    knn = knn or faiss.knn
    sign = -1 if measure == faiss.METRIC_INNER_PRODUCT else 1
    found = [(np.empty((len(a.own), 0), np.float32), np.empty((len(a.own), 0), np.int64)) for a in asked]
    for first, block in coded:
        for place, (queries, _, k) in enumerate(asked):
            near, rows = knn(queries, block, min(k + 1, len(block)), metric=measure)
            scores, names = found[place]
            scores, names = np.hstack([scores, near]), np.hstack([names, ids[first + rows]])
            order = np.argsort(sign * scores, axis=1, kind="stable")[:, : k + 1]
            found[place] = np.take_along_axis(scores, order, 1), np.take_along_axis(names, order, 1)
    truths = []
    for (queries, own, _), (scores, names) in zip(asked, found, strict=True):
        distance = 1 - scores if sign < 0 else np.sqrt(np.maximum(scores, 0))
        truths.append(Truth(queries, own, without(own, Candidates(distance, names))))
    return truths


def exactly(truth: Truth, index: VectorIndex) -> Truth:
    """The same with distances computed anew from the codes of `index`, some queries at a time."""
    parts = []
    for start in range(0, len(truth.own), RESCORED):
        ids = truth.nearest.ids[start : start + RESCORED]
        found = index.codes(index.rows_of(ids.ravel()))
        parts.append(rescored(truth.queries[start : start + RESCORED], ids, found, index.metric))
    return Truth(truth.queries, truth.own, Candidates(*map(np.concatenate, zip(*parts, strict=True))))


def recall_of(index: VectorIndex, truth: Truth, ks: tuple[int, ...]) -> dict[str, float]:
    """Recall@k for each of `ks`, rounded to four digits, of what the index answers."""
    tolerance = 2e-6 * float(np.linalg.norm(truth.queries, axis=1).max())
    recall = {}
    for k in ks:  # each by a search of its own: one for more neighbours may look further
        found = without(truth.own, index.nearest(truth.queries, min(k, truth.nearest.ids.shape[1]) + 1))
        recall[str(k)] = round(recall_at(k, found, truth.nearest, tolerance), 4)
    return recall


def without(own: np.ndarray, found: Candidates) -> Candidates:
    """One neighbour fewer: the query's `own` id (q,), or the last where it was not found."""
    order = np.argsort(found.ids == own[:, None], axis=1, kind="stable")[:, :-1]
    return Candidates(np.take_along_axis(found.distance, order, 1), np.take_along_axis(found.ids, order, 1))
