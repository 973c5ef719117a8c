"""The reader of prepared images: memory-mapped shards, and the table of what they show."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

import numpy as np

from aecore.artifact import Manifest, read_manifest, way_out
from aecore.config import PREPARED, WorkFailed, require

if TYPE_CHECKING:
    import pyarrow as pa

ATTRIBUTE = "attribute."
"""How the columns of `items.parquet` begin that a source's table of attributes gave."""

ALIASES = "aliases.parquet"
"""The table of files with the pixels of an image, as `no_aliases` has it."""
HASHES = ("sha256", "pixel_hash")
"""Columns of `items.parquet`: the sha256 of the file and of the prepared pixels, in hexadecimal."""


def folded(name: str) -> str:
    """What names have in common that differ in case alone, or in how Unicode writes a letter: its caseless match.

    SQL's names ignore case, so a table never holds two columns that are equal here.
    """
    return normalize("NFD", normalize("NFD", name).casefold())


class Images:
    """Prepared images in shard order; position i is row i of `items` and the i-th image counted over the shards."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        facts = manifest.facts
        self.directory = directory
        self.manifest = manifest
        self.count: int = facts["count"]
        self.shape: tuple[int, int, int] = (facts["channels"], facts["height"], facts["width"])
        self.shard_sizes: list[int] = facts["shards"]
        self.label_names: list[str] | None = facts["labels"]
        self.split_folders: str = facts.get("split_folders", "never")
        """As `data.split_folders` was; `never` of images that were prepared before there was one."""
        self._starts = np.concatenate([[0], np.cumsum(self.shard_sizes)]).astype(np.int64)

    @classmethod
    def open(cls, directory: Path = PREPARED) -> Images:
        """Open the prepared images at `directory`. Raises UserError where there are none, WorkFailed where damaged."""
        return cls(Path(directory), read_manifest(Path(directory), "data"))

    @cached_property
    def items(self) -> pa.Table:
        """The table `items.parquet`, one row an image."""
        import pyarrow.parquet as pq

        return pq.read_table(self.directory / "items.parquet")

    @cached_property
    def described(self) -> pa.Table:
        """The same without the columns HASHES, which take more memory than all others."""
        import pyarrow.parquet as pq

        return pq.read_table(
            self.directory / "items.parquet", columns=[name for name in self.schema.names if name not in HASHES]
        )

    def take(self, positions: np.ndarray, columns: list[str] | None = None) -> list[dict[str, Any]]:
        """Rows of the table at `positions` (m,), in that order; only the parts of the file that hold them are read."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        positions = np.asarray(positions, dtype=np.int64)
        if "items" in self.__dict__ or not len(positions):
            table = self.items if columns is None else self.items.select(columns)
            return table.take(positions).to_pylist()  # type: ignore[no-any-return]
        file = pq.ParquetFile(self.directory / "items.parquet")
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        order = np.argsort(positions, kind="stable")
        group = np.searchsorted(starts, positions[order], side="right") - 1
        found = pa.concat_tables(
            file.read_row_group(int(g), columns=columns).take(positions[order][group == g] - starts[g])
            for g in np.unique(group)
        )
        return found.take(np.argsort(order)).to_pylist()  # type: ignore[no-any-return]

    def tables(self, positions: np.ndarray) -> Iterator[pa.Table]:
        """Yield the table's rows at `positions` (m,), ascending, part by part of the file."""
        import pyarrow.parquet as pq

        file, first = pq.ParquetFile(self.directory / "items.parquet"), 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            start, stop = np.searchsorted(positions, [first, first + size])
            if stop > start:
                yield file.read_row_group(group).take(positions[start:stop] - first)
            first += size

    @property
    def schema(self) -> pa.Schema:
        """The table's columns and their types."""
        import pyarrow.parquet as pq

        return pq.read_schema(self.directory / "items.parquet")

    def with_pixels(self, hashes: Sequence[str]) -> Iterator[tuple[int, int]]:
        """Yield (place in `hashes`, row) of every image with one of these pixel hashes; the table is read in parts."""
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        file, first = pq.ParquetFile(self.directory / "items.parquet"), 0
        wanted = pa.array(hashes, pa.string())
        for group in range(file.num_row_groups):
            column = file.read_row_group(group, columns=["pixel_hash"])["pixel_hash"]
            places = pc.index_in(column, value_set=wanted)
            rows = np.flatnonzero(places.is_valid().to_numpy(zero_copy_only=False))
            yield from zip(places.take(rows).to_pylist(), (first + rows).tolist(), strict=True)
            first += len(column)

    def aliases(self) -> pa.Table:
        """The table of files with the pixels of an image: their `id`, `path` and the id of that `item`."""
        import pyarrow.parquet as pq

        return pq.read_table(self.directory / ALIASES, columns=["id", "path", "item"])

    def ids(self) -> np.ndarray:
        """Ids, int64 (n,)."""
        return self._column("id")

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of the table; the others are not read for it."""
        import pyarrow.parquet as pq

        if "items" in self.__dict__:
            return self.items[name]
        return pq.read_table(self.directory / "items.parquet", columns=[name])[name]

    def labels(self) -> np.ndarray | None:
        """Labels, int32 (n,), -1 where an image has none; None where no image has one."""
        return None if self.label_names is None else self._column("label", missing=-1).astype(np.int32)

    def attributes(self) -> dict[str, np.ndarray]:
        """Attributes by name, each bool or str (n,); empty where the source had no table of them."""
        return {
            name.removeprefix(ATTRIBUTE): np.array(self.items[name].to_pylist())
            for name in self.items.column_names
            if name.startswith(ATTRIBUTE)
        }

    def attribute_types(self) -> dict[str, pa.DataType]:
        """Types of the attributes by name: bool or string."""
        return {
            field.name.removeprefix(ATTRIBUTE): field.type for field in self.schema if field.name.startswith(ATTRIBUTE)
        }

    def positions(self, split: str) -> np.ndarray:
        """Positions of one split, int64, ascending."""
        import pyarrow.compute as pc

        require(split in ("train", "validation", "test"), "split", split, "train, validation or test")
        return np.flatnonzero(pc.equal(self.column("split"), split).to_numpy(zero_copy_only=False)).astype(np.int64)

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Images at `positions` (m,), in that order, uint8 (m, C, H, W); read, not mapped, and no file stays open."""
        positions = np.asarray(positions, dtype=np.int64)
        if ((positions < 0) | (positions >= self.count)).any():
            raise IndexError(f"positions must lie in 0…{self.count - 1}")
        gathered = np.empty((len(positions), *self.shape), dtype=np.uint8)
        if not len(positions):
            return gathered
        shards = np.searchsorted(self._starts, positions, side="right") - 1
        breaks = np.flatnonzero((np.diff(positions) != 1) | (np.diff(shards) != 0)) + 1
        firsts = np.concatenate([[0], breaks])  # runs of images that lie one after the other are read at once
        lengths = np.diff(np.concatenate([firsts, [len(positions)]]))
        for shard in np.unique(shards):
            mine = shards[firsts] == shard
            self._read(int(shard), gathered, firsts[mine], lengths[mine], positions[firsts[mine]])
        return gathered

    def shards(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (position of its first image, uint8 (n_k, C, H, W) memory-mapped) shard by shard."""
        for shard in range(len(self.shard_sizes)):
            yield int(self._starts[shard]), self._map(shard)

    def _read(
        self, shard: int, into: np.ndarray, firsts: np.ndarray, lengths: np.ndarray, positions: np.ndarray
    ) -> None:
        """Read from one shard runs of `lengths` images, which begin at `positions`, to rows `firsts` of `into`."""
        path, each = self.directory / shard_name(shard), math.prod(self.shape)
        file = os.open(path, os.O_RDONLY)
        try:
            header = 10 + int.from_bytes(os.pread(file, 2, 8), "little")  # of version 1, as `np.save` writes it
            for first, length, row in zip(
                firsts.tolist(), lengths.tolist(), (positions - self._starts[shard]).tolist(), strict=True
            ):
                rows = memoryview(into[first : first + length].data)
                if os.preadv(file, [rows], header + row * each) != length * each:
                    raise WorkFailed(f"{path} is cut short: run {way_out(path, 'data')}.")
        finally:
            os.close(file)

    def _map(self, shard: int) -> np.ndarray:
        array: np.ndarray = np.load(self.directory / shard_name(shard), mmap_mode="r")
        return array

    def _column(self, name: str, missing: int = 0) -> np.ndarray:
        column: np.ndarray = self.column(name).fill_null(missing).to_numpy()
        return column


def shard_name(number: int) -> str:
    """File name of a shard of images."""
    return f"images-{number:05d}.npy"


def no_aliases() -> pa.Table:
    """The table of aliases where every image is an item."""
    import pyarrow as pa

    text = pa.string()
    kinds = {"id": pa.int64(), "path": text, "batch": text, "sha256": text, "item": pa.int64()}
    return pa.schema(kinds).empty_table()
