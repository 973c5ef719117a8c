"""The files of an index artefact: the FAISS index, its centre, the rows of its ids, and what was trained for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from aecore.search.metric import Metric

INDEX_FILE = "index.faiss"
CENTER_FILE = "center.npy"
LOOKUP_FILE = "ids.npy"
TRAINED_FILE = "trained.faiss"


def measure_of(metric: Metric) -> int:
    """FAISS's name of the metric, of codes as they are compared."""
    import faiss

    return int(faiss.METRIC_INNER_PRODUCT if metric == "cosine" else faiss.METRIC_L2)


def exact_index(dim: int, metric: Metric) -> Any:
    """An empty faiss.Index that compares every code."""
    import faiss

    return faiss.IndexIDMap2(faiss.IndexFlat(dim, measure_of(metric)))


def save(directory: Path, index: Any, center: np.ndarray, ids: np.ndarray, trained: Any = None) -> None:
    """Write the index, `center` float32 (dim,), and where each of `ids` int64 (n,) lies; `trained` is the empty index.

    Raises OSError where the disk is full.
    """
    order = np.argsort(ids, kind="stable")
    _write(index, directory / INDEX_FILE)
    if trained is not None:
        _write(trained, directory / TRAINED_FILE)
    np.save(directory / CENTER_FILE, center)
    np.save(directory / LOOKUP_FILE, np.stack([ids[order], order]))


def load(directory: Path, mapped: bool) -> tuple[Any, np.ndarray, np.ndarray]:
    """The index (its lists memory-mapped where `mapped`), the centre, and the lookup int64 (2, n), memory-mapped."""
    import faiss

    flags = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY if mapped else 0
    index = faiss.read_index(str(directory / INDEX_FILE), flags)
    return index, np.load(directory / CENTER_FILE), np.load(directory / LOOKUP_FILE, mmap_mode="r")


def load_trained(directory: Path) -> Any:
    """The index as it was trained, holding nothing, to add to."""
    import faiss

    return faiss.read_index(str(directory / TRAINED_FILE))


def _write(index: Any, path: Path) -> None:
    import faiss

    with path.open("wb") as file:  # FAISS's own writer would hide that a disk is full
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]
