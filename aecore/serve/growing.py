"""`Growing`: a published copy that images are added to."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING

import numpy as np

from aecore.data.images import no_aliases
from aecore.embedding import Encoder
from aecore.search.searcher import Searcher, Source
from aecore.serve.segments import append, described, tidied

if TYPE_CHECKING:
    import pyarrow as pa

Pixels = Callable[[np.ndarray], np.ndarray]
"""Prepared images, uint8 (m, C, H, W), at m rows of a table."""


class Growing:
    """A published copy, open with its model's encoder; whoever has one holds the lock."""

    def __init__(self, source: Source, encoder: Encoder) -> None:
        self.source, self.encoder = source, encoder
        self.added = 0
        """Images added so far, for good."""
        self._searcher: Searcher | None = Searcher.open(source, encoder.manifest)

    @property
    def searcher(self) -> Searcher:
        """The copy as it is now."""
        assert self._searcher is not None, "an error while it was tidied ended it"
        return self._searcher

    def lacks(self, ids: np.ndarray) -> np.ndarray:
        """Which of these ids, int64 (n,), are those of no image here, nor of a file with its pixels; bool (n,)."""
        return ~self.searcher.holds(ids)

    def add(self, images: pa.Table, pixels: Pixels, aliases: pa.Table | None = None) -> None:
        """Add the rows of a table, no two of equal pixels, encoded here; those whose pixels are here become aliases.

        `aliases`, with the columns of `no_aliases`, are more files with the pixels of one of the rows.
        """
        import pyarrow as pa

        collection, schema = self.searcher.collection, no_aliases().schema
        shown = collection.showing(images["pixel_hash"].to_pylist())
        new, there = np.flatnonzero(shown < 0), np.flatnonzero(shown >= 0)
        item_of = dict(zip(images["id"].to_numpy()[there].tolist(), collection.ids(shown[there]).tolist(), strict=True))
        repeated = images.take(there).append_column("item", images["id"].take(there)).select(schema.names).cast(schema)
        files = repeated if aliases is None else pa.concat_tables([repeated, aliases.select(schema.names).cast(schema)])
        items = [item_of.get(item, item) for item in files["item"].to_pylist()]
        files = files.set_column(files.column_names.index("item"), "item", pa.array(items, pa.int64()))
        files = files.filter(pa.array(self._unknown(files, images["id"].to_numpy()[new])))
        if not (len(new) or len(files)):
            return
        append(self.source, self.searcher, described(images.take(new), self.searcher.base),
               self._blocks(new, pixels), files)  # fmt: skip
        self.added += len(new)
        del collection
        self._searcher = None  # what it holds cannot be tidied away
        self._searcher = tidied(self.source, self.encoder.manifest)

    def _unknown(self, files: pa.Table, new: np.ndarray) -> np.ndarray:
        """Which rows tell of a file that is not here, and not among the `new` images, each once; bool (n,)."""
        ids = files["id"].to_numpy()
        first = np.zeros(len(ids), bool)
        first[np.unique(ids, return_index=True)[1]] = True
        return np.asarray(first & self.lacks(ids) & ~np.isin(ids, new))

    def _blocks(self, rows: np.ndarray, pixels: Pixels) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Images at `rows`, uint8 (n, C, H, W), and their codes, a batch at a time."""
        waiting: deque[np.ndarray] = deque()

        def read() -> Iterator[np.ndarray]:
            for start in range(0, len(rows), self.encoder.batch_size):
                waiting.append(pixels(rows[start : start + self.encoder.batch_size]))
                yield waiting[-1]

        for codes in self.encoder.encode_stream(read()):
            yield waiting.popleft(), codes


def streamed(file: IO[bytes], places: np.ndarray, shape: tuple[int, int, int]) -> Pixels:
    """Images of this `shape` in a file that `read_all` filled: row r of a table is the one at `places[r]`."""
    each = math.prod(shape)

    def read(rows: np.ndarray) -> np.ndarray:
        content = b"".join(os.pread(file.fileno(), each, place * each) for place in places[rows].tolist())
        return np.frombuffer(content, np.uint8).reshape(len(rows), *shape)

    return read
