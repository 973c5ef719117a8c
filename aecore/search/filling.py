"""Filling an index: every code into it, in memory or, where that would be large, part by part on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from aecore.search.kinds import Kind
from aecore.search.storage import LISTS_FILE, write_index

PART_BYTES = 2**29
"""Bytes of an inverted file that are held in memory: a larger one is filled in parts, which are merged on disk."""


def fill(
    index: Any, kind: Kind, coded: Iterator[tuple[int, np.ndarray]], ids: np.ndarray, folder: Path | None = None
) -> None:
    """Put all codes into the trained, empty `index`; `ids` int64 (n,) are theirs.

    With a `folder`, and where they would take more than PART_BYTES, its lists lie in LISTS_FILE there, memory-mapped.
    Such an index must never be added to: FAISS would lose codes of it without a word.
    """
    import faiss

    most = PART_BYTES // kind.bytes
    if folder is None or not kind.lists or len(ids) <= most:
        for first, block in coded:
            index.add_with_ids(block, ids[first : first + len(block)])
        return
    part, parts = faiss.clone_index(index), list[Path]()
    for first, block in coded:
        part.add_with_ids(block, ids[first : first + len(block)])
        if part.ntotal >= most or first + len(block) == len(ids):
            parts.append(folder / f"part-{len(parts):05d}.faiss")
            write_index(part, parts[-1])
            part.reset()
    _merge(index, parts, folder / LISTS_FILE)
    for path in parts:
        path.unlink()


def _merge(index: Any, parts: list[Path], lists: Path) -> None:
    """Put the parts, which share the index's quantiser, into it; their lists are joined in the file `lists`."""
    from faiss.contrib.ondisk import merge_ondisk

    lists.unlink(missing_ok=True)
    merge_ondisk(index, [str(path) for path in parts], str(lists))
