"""A space of vectors and who is nearest in it: the one ranking behind every figure, for codes, PCA and pixels.

Exact and blocked: at most BLOCK scores, and BLOCK / 8 numbers of the searched vectors, are held at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from aecore.search.metric import Metric, affinity, comparable

BLOCK = 2**26
"""Scores held at a time (256 MiB of float32)."""

Rows = Callable[[np.ndarray], np.ndarray]
"""Positions (m,) -> vectors float32 (m, D), in that order."""


@dataclass(frozen=True)
class Space:
    """Vectors of the prepared images, and the metric that compares them."""

    rows: Rows
    """Reads vectors by the images' positions."""
    center: np.ndarray
    """(D,) float32: mean of the training vectors."""
    metric: Metric
    """`cosine` (of centred vectors) or `l2`."""

    @classmethod
    def fit(cls, rows: Rows, train: np.ndarray, metric: Metric) -> Space:
        """The space of `rows`, centred by the mean over the positions `train`, which is read in blocks."""
        width = rows(train[:1]).shape[1]
        total = np.zeros(width)
        for block in blocks(len(train), width):
            total += rows(train[block]).sum(axis=0, dtype=np.float64)
        return cls(rows, (total / len(train)).astype(np.float32), metric)

    def comparable(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors (m, D) as the index compares them, float32; for `l2` centred too, which only rounds better."""
        return comparable(vectors, self.center, self.metric)

    def read(self, positions: np.ndarray) -> np.ndarray:
        """Comparable vectors at `positions`, float32 (m, D)."""
        return self.comparable(self.rows(positions))

    def scores(self, queries: np.ndarray, positions: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Score comparable `queries` (q, D) against the images at `positions` (n,).

        Yields (which queries, their scores float32 (b, n)). More is nearer: the cosine, or for `l2` the squared
        distance d as (|query|^2 - d) / 2.
        """
        count, width = len(positions), queries.shape[1]
        height = max(1, BLOCK // max(count, 1))
        for start in range(0, len(queries), height):
            some = queries[start : start + height]
            scores = np.empty((len(some), count), np.float32)
            for block in blocks(count, width):
                scores[:, block] = affinity(some, self.read(positions[block]), self.metric)
            yield slice(start, start + len(some)), scores

    def nearest(self, queries: np.ndarray, positions: np.ndarray, k: int) -> np.ndarray:
        """The min(k, n) nearest of `positions` to each comparable query, nearest first: positions (q, k)."""
        found = [leading(scores, k) for _, scores in self.scores(queries, positions)]
        return np.asarray(positions[np.concatenate(found)])


def leading(scores: np.ndarray, k: int) -> np.ndarray:
    """Columns of the min(k, n) largest of each row of `scores` (q, n), largest first, equal ones in column order."""
    k = min(k, scores.shape[1])
    columns = np.sort(np.argpartition(scores, -k, axis=1)[:, -k:], axis=1)
    order = np.argsort(-np.take_along_axis(scores, columns, axis=1), axis=1, kind="stable")
    return np.asarray(np.take_along_axis(columns, order, axis=1))


def smallest(positions: np.ndarray, ids: np.ndarray, count: int) -> np.ndarray:
    """The up to `count` of `positions` whose ids are smallest, ascending by position; `ids` of all images."""
    return np.sort(positions[np.argsort(ids[positions], kind="stable")[:count]])


def blocks(count: int, width: int) -> Iterator[slice]:
    """Slices over `count` rows of `width` numbers that hold at most BLOCK / 8 numbers each."""
    height = max(1, BLOCK // 8 // max(width, 1))
    for start in range(0, count, height):
        yield slice(start, min(start + height, count))
