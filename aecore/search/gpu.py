"""FAISS on a GPU: what it takes over of an index's build and of batches of queries. What is kept is an index for CPUs.

A GPU finds the list that a code belongs to, for training and for filling, and the exact neighbours that recall is
measured by. Of an open index it holds a copy, which answers where all images may (filters and tombstones are the
CPU's), after it has answered as the CPU does.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from aecore.config import UserError

LARGE = 500_000
"""Codes from which `run.device: auto` takes the GPU: with fewer, the CPU is done before a GPU has started."""
MEMORY = 512 * 2**20
"""Bytes that FAISS calculates in."""
MOST = 2_048
"""Neighbours that FAISS finds on a GPU."""
ASKED = 16
"""Codes that a copy is asked for before it is believed."""
ROUNDING = 1e-4
"""Between the scores of codes of length 1 on a GPU and on a CPU; of longer ones, times their square."""

Knn = Callable[..., tuple[np.ndarray, np.ndarray]]
Add = Callable[[Any, np.ndarray, np.ndarray], None]


def wanted(device: str, count: int) -> bool:
    """Whether `run.device` has a GPU deal with `count` codes. Raises UserError for `cuda` where there is none."""
    import faiss

    there = hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
    if device == "cuda" and not there:
        raise UserError("run.device is 'cuda', but FAISS sees no GPU here: set it to 'auto' or 'cpu'.")
    return there and (device == "cuda" or (device == "auto" and count >= LARGE))


@dataclass(frozen=True, eq=False)
class Copy:
    """An index on the GPU, which threads ask one after the other."""

    index: Any
    """faiss.GpuIndex."""
    ids: np.ndarray | None
    """int64 (n,) by what the index calls a code; None where that is its id."""
    turn: threading.Lock

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores float32 and ids int64 (q, k), -1 where fewer were found."""
        with self.turn:
            scores, found = self.index.search(queries, k)
        return scores, found if self.ids is None else np.where(found < 0, -1, self.ids[found])


class Gpu:
    """The first GPU."""

    def __init__(self) -> None:
        self._turn = threading.Lock()

    @cached_property
    def _resources(self) -> Any:
        import faiss

        resources: Any = faiss.StandardGpuResources()
        resources.setTempMemory(MEMORY)
        return resources

    def _moved(self, index: Any) -> Any:
        import faiss

        return faiss.index_cpu_to_gpu(self._resources, 0, index)

    def knn(self, queries: np.ndarray, codes: np.ndarray, k: int, metric: int) -> Any:
        """In the place of `faiss.knn`."""
        import faiss

        return faiss.knn_gpu(self._resources, queries, codes, k, metric=metric)

    def train(self, index: Any, codes: np.ndarray) -> None:
        """Train an inverted file; its k-means looks for the nearest centroids here."""
        import faiss

        index.clustering_index = self._moved(faiss.IndexFlat(index.d, index.metric_type))
        try:
            index.train(codes)
        finally:
            index.clustering_index = None

    def adding(self, trained: Any) -> Add:
        """What adds codes float32 (n, dim) with their ids to an index that was trained as this one."""
        import faiss

        quantizer = self._moved(trained.quantizer)

        def add(index: Any, codes: np.ndarray, ids: np.ndarray) -> None:
            codes, ids = np.ascontiguousarray(codes, np.float32), np.ascontiguousarray(ids, np.int64)
            lists = np.ascontiguousarray(quantizer.search(codes, 1)[1].ravel())
            index.add_core(len(codes), faiss.swig_ptr(codes), faiss.swig_ptr(ids), faiss.swig_ptr(lists))

        return add

    def copy(self, index: Any, codes: np.ndarray, ids: np.ndarray) -> Copy | None:
        """A copy of an index that finds for these `codes` what the index does; None, after saying why, where it fails.

        `ids` are those of all its codes, by row.
        """
        import faiss

        flat = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap2) else None
        try:
            made = Copy(self._moved(index if flat is None else flat), None if flat is None else ids, self._turn)
            scores, _ = made.search(codes, min(10, len(ids)))
        except RuntimeError as error:
            _tell(str(error).strip().splitlines()[-1])
            return None
        expected, _ = index.search(codes, min(10, len(ids)))
        scale = max(1.0, float(np.square(codes).sum(axis=1).max()))
        if not np.allclose(scores, expected, rtol=0, atol=ROUNDING * scale):
            _tell(f"its scores are off the CPU's by up to {np.abs(scores - expected).max():.2g}")
            return None
        return made


def _tell(why: str) -> None:
    print(f"aecore: the GPU does not search this index ({why}); the CPU does", file=sys.stderr)
