"""Filling an index: every code into it, in memory or, where that would be large, part by part on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from aecore.output import on_standard_error
from aecore.search.gpu import Add
from aecore.search.kinds import Kind
from aecore.search.storage import LISTS_FILE, write_index

PART_BYTES = 2**29
"""Bytes of an inverted file that are held in memory: a larger one is filled in parts, which are merged on disk."""


def add_with_ids(index: Any, codes: np.ndarray, ids: np.ndarray) -> None:
    """Put codes into an index, their lists found on the CPU."""
    index.add_with_ids(codes, ids)


def fill(
    index: Any,
    kind: Kind,
    coded: Iterator[tuple[int, np.ndarray]],
    ids: np.ndarray,
    folder: Path | None = None,
    add: Add = add_with_ids,
) -> None:
    """Put all codes into the trained, empty `index`, as `add` does; `ids` int64 (n,) are theirs.

    With a `folder`, and where they would take more than PART_BYTES, its lists lie in LISTS_FILE there, memory-mapped.
    Such an index must never be added to: FAISS would lose codes of it without a word.
    """
    import faiss

    most = PART_BYTES // kind.bytes
    if folder is None or not kind.lists or len(ids) <= most:
        for first, block in coded:
            add(index, block, ids[first : first + len(block)])
        return
    part, parts = faiss.clone_index(index), list[Path]()
    for first, block in coded:
        add(part, block, ids[first : first + len(block)])
        if part.ntotal >= most or first + len(block) == len(ids):
            parts.append(folder / f"part-{len(parts):05d}.faiss")
            write_index(part, parts[-1])
            part.reset()
    _merge(index, parts, folder / LISTS_FILE, kind.bytes * len(ids))
    for path in parts:
        path.unlink()


def _merge(index: Any, parts: list[Path], lists: Path, size: int) -> None:
    """Put the parts, which share the index's quantiser, into it; their lists are joined in the file `lists`."""
    from faiss.contrib.ondisk import merge_ondisk

    _require_room(lists, size)
    with on_standard_error():
        merge_ondisk(index, [str(path) for path in parts], str(lists))


def _require_room(path: Path, size: int) -> None:
    """Raise OSError where the disk has no room for a file of this size.

    FAISS writes the lists through a mapping of a file with holes: a full disk would end the process with SIGBUS.
    """
    try:
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        path.unlink(missing_ok=True)
