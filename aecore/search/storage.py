"""The files of an index artefact: the FAISS index, its centre, the rows of its ids, and what was trained for it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from aecore.search.metric import Metric

INDEX_FILE = "index.faiss"
CENTER_FILE = "center.npy"
LOOKUP_FILE = "ids.npy"
TRAINED_FILE = "trained.faiss"
LISTS_FILE = "lists.ivfdata"
"""The lists of an inverted file that was filled in parts."""


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

    Lists that lie on disk already must lie in `directory`. Raises OSError where the disk is full.
    """
    import faiss

    order = np.argsort(ids, kind="stable")
    if (directory / LISTS_FILE).exists():
        lists: Any = faiss.downcast_InvertedLists(index.invlists)
        lists.filename = LISTS_FILE  # wherever the artefact will lie
    write_index(index, directory / INDEX_FILE)
    if trained is not None:
        write_index(trained, directory / TRAINED_FILE)
    np.save(directory / CENTER_FILE, center)
    np.save(directory / LOOKUP_FILE, np.stack([ids[order], order]))


def load(directory: Path, mapped: bool) -> tuple[Any, np.ndarray, np.ndarray]:
    """The index (its lists memory-mapped where `mapped`), the centre, and the lookup int64 (2, n), memory-mapped."""
    import faiss

    flags = faiss.IO_FLAG_READ_ONLY if mapped else 0
    if (directory / LISTS_FILE).exists():  # FAISS's flag for lists that lie beside the index prints on standard output
        content = (directory / INDEX_FILE).read_bytes()
        content = content.replace(_told(LISTS_FILE), _told(str((directory / LISTS_FILE).absolute())))
        index: Any = faiss.deserialize_index(np.frombuffer(content, np.uint8), flags)
    else:
        index = faiss.read_index(str(directory / INDEX_FILE), flags | (faiss.IO_FLAG_MMAP if mapped else 0))
    if mapped:
        lists: Any = faiss.downcast_InvertedLists(index.invlists)
        lists.prefetch_nthread = 0  # its 32 threads would be started anew by every search, which takes longer than it
    lookup = np.asarray(np.load(directory / LOOKUP_FILE, mmap_mode="r"))  # a np.memmap is slow to index
    return index, np.load(directory / CENTER_FILE), lookup


def _told(name: str) -> bytes:
    """A file's name as FAISS writes it: its length and its bytes."""
    return struct.pack("<Q", len(name.encode())) + name.encode()


def load_trained(directory: Path) -> Any:
    """The index as it was trained, holding nothing, to add to."""
    import faiss

    return faiss.read_index(str(directory / TRAINED_FILE))


def write_index(index: Any, path: Path) -> None:
    """Write a faiss.Index. Raises OSError where the disk is full, which FAISS's own writer would hide."""
    import faiss

    with path.open("wb") as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]
