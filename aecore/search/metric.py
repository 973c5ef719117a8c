"""What "near" means: section `index`, `codes`, the one place that centres and normalises, and what compares them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from aecore.config import require

BLOCK = 8_192
"""Codes in memory at a time, besides the index itself."""

ROUNDING = 1e-6
"""Of a vector's length: what is nearer to the centre is the centre."""

Metric = Literal["cosine", "l2"]


class Vectors(Protocol):
    """Raw codes by position."""

    def shards(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (position of its first row, float32 (n_k, dim)) shard by shard."""

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """The codes at `positions`, float32 (m, dim)."""


@dataclass(frozen=True)
class IndexConfig:
    """Section `index`."""

    metric: Metric
    """`cosine` of centred codes, or `l2`: Euclidean distance of the codes as they are."""
    exact_below: int
    """Search exactly up to this many images, by an inverted file (IVF) above."""
    memory_mb: float | None
    """What the searched codes and ids may take; codes are compressed to fit. None: as they are."""
    min_recall: float
    """Recall@10 against exact search below which no index is written."""

    def __post_init__(self) -> None:
        require(self.exact_below >= 0, "exact_below", self.exact_below, "0 or more")
        require(self.memory_mb is None or self.memory_mb > 0, "memory_mb", self.memory_mb, "more than 0, or null")
        require(0 < self.min_recall <= 1, "min_recall", self.min_recall, "a share above 0 and up to 1")


def codes(vectors: np.ndarray, center: np.ndarray, metric: Metric) -> np.ndarray:
    """Vectors (n, dim) as they are indexed and compared, float32: centred and of length 1 for cosine, unchanged for l2.

    A vector that is the centre, to rounding, has no direction: it becomes zero, and its cosine with anything is 0.
    """
    if metric == "l2":
        return np.ascontiguousarray(vectors, dtype=np.float32)
    result = np.empty(vectors.shape, np.float32)
    center = center.astype(np.float64)
    least = ROUNDING * np.sqrt(center @ center)
    for start in range(0, len(vectors), BLOCK):
        raw = vectors[start : start + BLOCK]
        centred = raw.astype(np.float64)
        centred -= center
        length = np.sqrt(np.einsum("nd,nd->n", centred, centred))
        short = np.flatnonzero(~(length > least + ROUNDING * length))
        short = short[length[short] <= ROUNDING * np.linalg.norm(raw[short].astype(np.float64), axis=1)]
        length[short] = 1
        centred /= length[:, None]
        centred[short] = 0
        result[start : start + BLOCK] = centred
    return result


def distances(queries: np.ndarray, others: np.ndarray, metric: Metric) -> np.ndarray:
    """Distances, float64, of codes as they are compared, float32 (…, dim) that broadcast: 1 - cosine, or Euclidean.

    Summed over differences (for codes of length 1, 1 - cos = |a - b|² / 2), so that a code is at distance 0 exactly
    from itself. Anything is at cosine 0 from a zero code.
    """
    squared: np.ndarray = np.square(queries.astype(np.float64) - others).sum(axis=-1)
    if metric == "l2":
        return np.asarray(np.sqrt(squared))
    return np.asarray(np.where(queries.any(axis=-1) & others.any(axis=-1), squared / 2, 1.0))


def comparable(vectors: np.ndarray, center: np.ndarray, metric: Metric) -> np.ndarray:
    """`codes` to calculate with, float32 (n, dim): for `l2` centred too, which only rounds better."""
    ready = codes(vectors, center, metric)
    return np.asarray(ready - center) if metric == "l2" else ready


def affinity(queries: np.ndarray, vectors: np.ndarray, metric: Metric) -> np.ndarray:
    """Scores (q, n) of comparable vectors (q, D) against (n, D); within one query, more is nearer."""
    scores = np.asarray(queries @ vectors.T)
    if metric == "l2":
        scores -= np.einsum("nd,nd->n", vectors, vectors) / 2
    return scores


def apart(vectors: np.ndarray, others: np.ndarray, metric: Metric) -> np.ndarray:
    """How far each comparable vector (n, D) is from that in the same row of the others, float32 (n,), as the index's.

    1 - cosine, or the Euclidean distance.
    """
    if metric == "l2":
        return np.asarray(np.linalg.norm(vectors - others, axis=1), np.float32)
    return np.asarray(np.maximum(1 - np.einsum("nd,nd->n", vectors, others), 0), np.float32)


def center_of(vectors: Vectors, positions: np.ndarray) -> np.ndarray:
    """Mean of the vectors at the ascending `positions`, summed in float64, as float32 (dim,)."""
    total: np.ndarray | float = 0.0
    for first, shard in vectors.shards():
        mine = positions[np.searchsorted(positions, first) : np.searchsorted(positions, first + len(shard))] - first
        for start in range(0, len(mine), BLOCK):
            total = total + shard[mine[start : start + BLOCK]].sum(axis=0, dtype=np.float64)
    return np.asarray(total / len(positions), dtype=np.float32)
