"""Drift: how far a published index that grew and shrank is from what a fresh build would be, and when one pays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from aecore.search.kinds import lists_for
from aecore.search.metric import IndexConfig
from aecore.search.recall import Asked, exact_neighbours, recall_at, without
from aecore.search.searcher import Searcher
from aecore.search.storage import measure_of
from aecore.search.vector_index import Candidates

QUERIES = 200
"""Images behind the recall."""
COMPARED = 65_536
"""Codes compared with them at a time."""
WORK = 2.0
"""Times the comparisons of a fresh index from which a rebuild pays."""
LOST = 0.01
"""Recall lost since the index was built from which a rebuild pays."""
GONE = 0.25
"""Share of the published images that were removed from which a rebuild pays."""


class Drift(NamedTuple):
    """What changed since the index was built."""

    imbalance_built: float
    """Of the inverted lists when built: n lists of sizes s as n sum(s²) / sum(s)²; 1 where all are of one size."""
    imbalance: float
    """The same now, of all segments together."""
    work: float
    """Codes that a query is compared with, as a multiple of what a fresh build's would be."""
    recall_built: float
    """Recall@10 of the published index, as its manifest has it."""
    recall: float | None
    """Recall@10 now, of images that answer; None where it was not measured."""
    outgrown: bool
    """Whether it is exact, and holds more images than `index.exact_below`."""

    def reasons(self, removed: float) -> list[str]:
        """Why a rebuild pays, in words; `removed` is the share of the published images that were removed."""
        found = []
        if self.outgrown:
            found.append("it compares every image, and holds more than index.exact_below")
        if self.work >= WORK:
            found.append(f"a query is compared with {self.work:.1f} times the codes of a fresh index")
        if self.recall is not None and self.recall < self.recall_built - LOST:
            found.append(f"recall@10 fell from {self.recall_built} to {self.recall}")
        if removed >= GONE:
            found.append(f"{removed:.0%} of the published images were removed and still lie in it")
        return found


def measure(searcher: Searcher, section: IndexConfig, with_recall: bool = True) -> Drift:
    """Drift of an open index. The recall costs a comparison of QUERIES images with all."""
    base, collection = searcher.base, searcher.collection
    inverted = [segment.index for segment in collection.segments if not segment.is_exact]
    sizes = [_list_sizes(index) for index in inverted]
    imbalance = [_imbalance(sizes[0]), _imbalance(np.sum(sizes, axis=0))] if sizes else [1.0, 1.0]
    compared = float(sum(segment.count for segment in collection.segments if segment.is_exact))
    for index, lists in zip(inverted, sizes, strict=True):
        compared += index.nprobe * lists.sum() / index.nlist * _imbalance(lists)
    count = searcher.count
    trainable = count * base.images.manifest.facts["splits"].get("train", base.size) // base.size
    fresh = count if base.is_exact else base.index.nprobe * count / lists_for(count, trainable) * imbalance[0]
    return Drift(
        imbalance_built=round(imbalance[0], 2),
        imbalance=round(imbalance[1], 2),
        work=round(compared / max(fresh, 1), 2),
        recall_built=base.manifest.facts["recall"]["10"],
        recall=_recall(searcher) if with_recall else None,
        outgrown=base.is_exact and count > section.exact_below,
    )


def _recall(searcher: Searcher) -> float:
    collection = searcher.collection
    positions = np.concatenate(list(collection.blocks(COMPARED)))
    chosen = np.sort(np.random.default_rng(0).choice(positions, min(len(positions), QUERIES), replace=False))

    def coded() -> Iterator[tuple[int, np.ndarray]]:
        first = 0
        for block in collection.blocks(COMPARED):
            yield first, collection.codes(block)
            first += len(block)

    own, ids = collection.ids(chosen), collection.ids(positions)
    (truth,) = exact_neighbours(coded(), ids, [Asked(collection.codes(chosen), own, 10)], measure_of(searcher.metric))
    found = searcher.search(collection.vectors(chosen), 11)
    tolerance = 1e-5 * float(np.linalg.norm(truth.queries, axis=1).max())
    return round(recall_at(10, without(own, Candidates(found.distance, found.ids)), truth.nearest, tolerance), 4)


def _list_sizes(index: object) -> np.ndarray:
    lists = index.invlists  # type: ignore[attr-defined]
    return np.array([lists.list_size(i) for i in range(lists.nlist)], np.int64)


def _imbalance(sizes: np.ndarray) -> float:
    return float(len(sizes) * np.square(sizes, dtype=np.float64).sum() / max(1, sizes.sum()) ** 2)
