"""`VectorIndex`: FAISS over codes, and who is nearest by it: what a segment answers, and what recall is measured of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from aecore.search.gpu import MOST, Copy
from aecore.search.metric import Metric, Vectors, codes, distances

EXACT = "exact"
GATHERED = 2**21
"""Numbers of candidates' codes in memory at a time, about."""
NONE = np.empty(0, np.int64)


class Candidates(NamedTuple):
    """Of each query what one search found, nearest first."""

    distance: np.ndarray
    """float64 (q, w): 1 - cosine, or the Euclidean distance; infinite where fewer were found."""
    ids: np.ndarray
    """int64 (q, w), -1 where fewer were found."""


class Allowed(NamedTuple):
    """The rows of an index that may answer. Threads may share it: a search changes only its own parameters."""

    rows: int
    """How many."""
    selector: Any
    """faiss.IDSelector; None lets all."""


@dataclass(frozen=True, eq=False)
class VectorIndex:
    """A FAISS index beside the codes it was made from. Threads may share one."""

    index: Any
    """faiss.Index, the images' ids inside."""
    center: np.ndarray
    """float32 (dim,)."""
    lookup: np.ndarray
    """int64 (2, size), it may be memory-mapped: ids ascending, and the row of each."""
    facts: Mapping[str, Any]
    """`metric`, the kind of `index` (see `aecore.search.kinds`), and of a compressed one `refine`."""
    embeddings: Vectors
    """The raw codes, by row."""
    removed: np.ndarray
    """Rows that do not answer any more, int64 ascending."""
    on_gpu: Copy | None = field(default=None, kw_only=True)
    """A copy of the index: it answers where all rows may."""

    @property
    def size(self) -> int:
        """Rows, removed ones too."""
        return int(self.lookup.shape[1])

    @property
    def count(self) -> int:
        """Rows that answer."""
        return self.size - len(self.removed)

    @property
    def metric(self) -> Metric:
        """What "near" means."""
        metric: Literal["cosine", "l2"] = self.facts["metric"]
        return metric

    @property
    def is_exact(self) -> bool:
        """Whether every row is compared."""
        return bool(self.facts["index"] == EXACT)

    @property
    def scores_are_final(self) -> bool:
        """Whether FAISS's float32 sums are distances to 1e-6: not of compressed codes, nor of squares that cancel."""
        return self.metric == "cosine" and "," not in self.facts["index"]

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """Rows of ids int64 (m,), -1 where an id is not here or was removed."""
        known, order = self.lookup
        place = np.minimum(np.searchsorted(known, ids), self.size - 1)
        rows = np.where(known[place] == ids, order[place], -1)
        if len(self.removed):
            gone = self.removed[np.minimum(np.searchsorted(self.removed, rows), len(self.removed) - 1)] == rows
            rows[gone] = -1
        return rows

    def codes(self, rows: np.ndarray) -> np.ndarray:
        """Codes as they are compared, float32 (m, dim)."""
        return codes(self.embeddings.rows(rows), self.center, self.metric)

    @cached_property
    def ids(self) -> np.ndarray:
        """Id of every row, int64 (size,)."""
        known, order = self.lookup
        ids = np.empty(self.size, np.int64)
        ids[order] = known
        return ids

    def allowing(self, rows: np.ndarray) -> Allowed:
        """Let only these rows answer, int64 (m,)."""
        import faiss

        return Allowed(len(rows), faiss.IDSelectorBatch(self.ids[rows]))

    @cached_property
    def living(self) -> Allowed:
        """All rows but the removed ones."""
        import faiss

        if not len(self.removed):
            return Allowed(self.size, None)
        gone = faiss.IDSelectorBatch(self.ids[self.removed])
        selector: Any = faiss.IDSelectorNot(gone)
        selector.negated = gone  # FAISS holds a pointer only
        return Allowed(self.count, selector)

    def nearest(self, queries: np.ndarray, k: int, allowed: Allowed | None = None) -> Candidates:
        """At least the k nearest (at most as many as are allowed) to codes (q, dim) as they are compared.

        None allows the living. An inverted file is probed the more widely the smaller the share of its rows that may
        answer.
        """
        allowed = allowed or self.living
        k = min(k, allowed.rows)
        wide = min(k * self.facts.get("refine", 1), allowed.rows)
        step = max(1, GATHERED // (max(1, wide) * queries.shape[1]))
        if self.scores_are_final or len(queries) <= step:
            return self._found(queries, k, wide, allowed)
        parts = [self._found(queries[i : i + step], k, wide, allowed) for i in range(0, len(queries), step)]
        return Candidates(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _parameters(self, allowed: Allowed, everywhere: bool = False) -> Any:
        """Parameters of one search, which FAISS changes while it searches; None where it needs none."""
        import faiss

        if allowed.selector is None and not everywhere:
            return None
        selected: dict[str, Any] = {} if allowed.selector is None else {"sel": allowed.selector}
        if self.is_exact:
            exact: Any = faiss.SearchParameters
            return exact(**selected)
        inverted: Any = faiss.SearchParametersIVF
        wider = self.size / max(allowed.rows, 1)
        nprobe = self.index.nlist if everywhere else min(self.index.nlist, math.ceil(self.index.nprobe * wider))
        return inverted(nprobe=nprobe, **selected)

    def _found(self, queries: np.ndarray, k: int, wide: int, allowed: Allowed) -> Candidates:
        if self.on_gpu is not None and allowed.selector is None and wide <= MOST:
            scores, ids = self.on_gpu.search(queries, wide)
        else:
            scores, ids = self.index.search(queries, wide, params=self._parameters(allowed))
        if not self.is_exact:
            short = np.flatnonzero(ids[:, k - 1] < 0) if k else NONE  # the probed lists held fewer: probe them all
            if len(short):
                everywhere = self._parameters(allowed, everywhere=True)
                scores[short], ids[short] = self.index.search(queries[short], wide, params=everywhere)
        if self.scores_are_final:
            return Candidates(np.subtract(1, scores, dtype=np.float64), ids)
        rows = np.maximum(self.rows_of(ids.ravel()), 0)  # of -1 any will do
        found = rescored(queries, ids, self.codes(rows), self.metric)
        return Candidates(found.distance[:, :k], found.ids[:, :k])


def rescored(queries: np.ndarray, ids: np.ndarray, found: np.ndarray, metric: Metric) -> Candidates:
    """Candidates `ids` (q, w), whose codes are `found` (q * w, dim), by their exact distances; equal ones by id."""
    distance = distances(queries[:, None], found.reshape(*ids.shape, -1), metric)
    distance[ids < 0] = np.inf
    order = np.lexsort((ids, distance), axis=1)
    return Candidates(np.take_along_axis(distance, order, 1), np.take_along_axis(ids, order, 1))
