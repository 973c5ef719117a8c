"""`Collection`: the images that answer, over all segments: what was published, what was added since, less what left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from aecore.config import UserError
from aecore.counted import counted
from aecore.search.filters import matching
from aecore.search.segment import Segment

if TYPE_CHECKING:
    import pyarrow as pa


class Collection:
    """Segments, one after the other. A position counts rows over all of them, removed ones too."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = tuple(segments)
        self.starts = np.cumsum([0, *(segment.size for segment in segments)])
        self.count: int = sum(segment.count for segment in segments)
        """Images that answer."""
        self.shape = segments[0].images.shape
        """(C, H, W) of an image."""

    @cached_property
    def removed(self) -> np.ndarray:
        """Positions of removed images, int64 ascending."""
        parts = [start + segment.removed for start, segment in zip(self.starts, self.segments, strict=False)]
        return np.concatenate(parts)

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """Yield the positions of all images that answer, ascending, at most `size` at a time."""
        for start in range(0, int(self.starts[-1]), size):
            block = self.answering(np.arange(start, min(start + size, int(self.starts[-1]))))
            if len(block):
                yield block

    def answering(self, positions: np.ndarray) -> np.ndarray:
        """Those of `positions` that were not removed."""
        if not len(self.removed):
            return positions
        place = np.minimum(np.searchsorted(self.removed, positions), len(self.removed) - 1)
        kept: np.ndarray = positions[self.removed[place] != positions]
        return kept

    def ids(self, positions: np.ndarray) -> np.ndarray:
        """Ids at `positions`, int64."""
        return self._gathered(positions, lambda segment, rows: segment.ids[rows], np.empty(len(positions), np.int64))

    def vectors(self, positions: np.ndarray) -> np.ndarray:
        """Raw codes at `positions`, float32 (m, dim)."""
        dim = self.segments[0].embeddings.dim
        into = np.empty((len(positions), dim), np.float32)
        return self._gathered(positions, lambda segment, rows: segment.embeddings.rows(rows), into)

    def codes(self, positions: np.ndarray) -> np.ndarray:
        """Codes at `positions` as they are compared, float32 (m, dim)."""
        dim = self.segments[0].embeddings.dim
        return self._gathered(
            positions, lambda segment, rows: segment.codes(rows), np.empty((len(positions), dim), np.float32)
        )

    def pixels(self, positions: np.ndarray) -> np.ndarray:
        """Prepared images at `positions`, uint8 (m, C, H, W)."""
        into = np.empty((len(positions), *self.shape), np.uint8)
        return self._gathered(positions, lambda segment, rows: segment.images.rows(rows), into)

    def items(self, positions: np.ndarray, columns: list[str] | None = None) -> list[dict[str, Any]]:
        """Rows of the images' table at `positions`: id, path, label, label_name, split, width, height, …"""
        rows = np.empty(len(positions), object)
        return list(self._gathered(positions, lambda segment, at: segment.images.take(at, columns), rows))

    def item(self, item_id: int) -> dict[str, Any]:
        """The row of one image. Raises UserError where there is no such id."""
        return self.items(np.array([self.position(item_id)]))[0]

    def vector(self, item_id: int) -> np.ndarray:
        """The stored raw code of an image, float32 (dim,). Raises UserError where there is no such id."""
        code: np.ndarray = self.vectors(np.array([self.position(item_id)]))[0]
        return code

    def position(self, item_id: int) -> int:
        """Position of an image. Raises UserError where there is no such id."""
        position = self.positions(np.array([item_id]))[0] if 0 <= item_id < 2**63 else -1
        if position < 0:
            raise UserError(
                f"id {item_id} is not among the {counted(self.count, 'indexed image')}: "
                "`python -m aecore inspect` lists some, `python -m aecore query IMAGE` finds those like a file."
            )
        return int(position)

    def positions(self, ids: np.ndarray) -> np.ndarray:
        """Positions of images by their ids, int64 of any shape; -1 where there is none that answers."""
        wanted = np.asarray(ids, dtype=np.int64).ravel()
        result = self.segments[0].rows_of(wanted)
        for start, segment in zip(self.starts[1:], self.segments[1:], strict=False):
            rows = segment.rows_of(wanted)
            result = np.where(rows < 0, result, start + rows)
        return result.reshape(np.shape(ids))

    def showing(self, pixel_hashes: Sequence[str]) -> np.ndarray:
        """Position of an image that answers with each of these prepared pixels (hexadecimal), int64; -1: there is none.

        The hashes are different from each other.
        """
        shown = np.full(len(pixel_hashes), -1, np.int64)
        for start, segment in zip(self.starts.tolist(), self.segments, strict=False):
            found = np.array(list(segment.images.with_pixels(pixel_hashes)), np.int64).reshape(-1, 2)
            found[:, 1] += start
            found = found[np.isin(found[:, 1], self.answering(found[:, 1]))]
            shown[found[:, 0]] = found[:, 1]
        return shown

    def matching(self, where: str, clusters: np.ndarray | None = None, more: Sequence[str] = ()) -> np.ndarray:
        """Positions, ascending, of the images that meet the condition `where` (see `aecore.search.filters`).

        `clusters`, int32 by position, is their column `cluster`, if the condition shall know one; `more` are columns
        that an error lists besides.
        """
        try:
            parts = [matching(table, where) for table in self._tables(clusters, described=True)]
        except UserError:  # it may name what is seldom asked for
            parts = [matching(table, where, more) for table in self._tables(clusters)]
        starts = self.starts.tolist()
        return self.answering(np.concatenate([start + part for start, part in zip(starts, parts, strict=False)]))

    def _tables(self, clusters: np.ndarray | None, described: bool = False) -> Iterator[pa.Table]:
        """Of each segment the images' table with a column `cluster`."""
        import pyarrow as pa

        for start, segment in zip(self.starts.tolist(), self.segments, strict=False):
            table = segment.images.described if described else segment.images.items
            if clusters is not None:
                table = table.append_column("cluster", pa.array(clusters[start : start + segment.size]))
            yield table

    def split(self, positions: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """Of every segment that holds some of `positions`: its place, where in `positions` they stand, and its rows."""
        number = np.searchsorted(self.starts, positions, side="right") - 1
        found = [(i, np.flatnonzero(number == i)) for i in np.unique(number).tolist()]
        return [(i, here, positions[here] - self.starts[i]) for i, here in found]

    def _gathered(self, positions: np.ndarray, read: Any, into: np.ndarray) -> np.ndarray:
        if len(self.segments) == 1:
            into[:] = read(self.segments[0], np.asarray(positions))
            return into
        for place, here, rows in self.split(np.asarray(positions)):
            into[here] = read(self.segments[place], rows)
        return into


def parse_id(text: str | int) -> int:
    """An id as it was typed. Raises UserError where it is none."""
    try:
        return int(text)
    except ValueError as error:
        raise UserError(f"id {text!r} is not a number: `python -m aecore inspect` lists some ids.") from error
