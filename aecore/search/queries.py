"""Queries by the block: every image of files, folders and archives, and indexed images by their ids."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from aecore.config import UserError
from aecore.data.entry import Source as Stream
from aecore.data.entry import printable
from aecore.data.given import check_sources
from aecore.data.paths import refused, streams
from aecore.data.reading import read_all
from aecore.search.collection import Collection

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

    from aecore.embedding import Encoder

PIXEL_BYTES = 2**26
"""Prepared images of a block, at most; but always one."""


class Rejected(NamedTuple):
    """A query that cannot be looked for."""

    path: str | None
    id: int | None
    reason: str

    def __str__(self) -> str:
        return f"{self.path or f'id {self.id}'}: {self.reason}"


class Block(NamedTuple):
    """Queries that are looked for together; q of them."""

    paths: list[str | None]
    """(q,): files, or None of ids."""
    ids: list[int | None]
    """(q,): ids, or None of files."""
    vectors: np.ndarray
    """Raw codes, float32 (q, dim)."""
    rejected: list[Rejected]
    """Besides these."""


@dataclass(frozen=True)
class Queries:
    """What is looked for, in this order."""

    images: Sequence[Path]
    """Image files, folders, archives."""
    ids: Sequence[int]
    table: Path | None
    """A Parquet file whose column `id` holds more ids."""
    everything: bool
    """Every image of the collection."""

    def check(self) -> None:
        """Raise UserError where nothing is looked for, a path is missing, or the table has no ids."""
        if not (self.images or self.ids or self.table or self.everything):
            raise UserError("there is nothing to look for: give image files or folders, --id, --ids or --all.")
        for path in self.images:
            if not path.exists():
                raise UserError(f"{path} is not there; nothing was looked for.")
        check_sources(self.images)
        for item_id in self.ids:
            if not 0 <= item_id < 2**63:
                raise UserError(f"id {item_id} is none: `python -m aecore inspect` lists some.")
        if self.table is not None:
            open_ids(self.table)

    def blocks(
        self, collection: Collection, encoder: Encoder | None, size: int, threads: int
    ) -> Generator[Block, None, None]:
        """Yield them, at most `size` at a time; needs the encoder for images alone.

        Shows a bar on standard error. Raises UserError as the sources do.
        """
        opened = list(streams(self.images, encoder.preparation.max_pixels)) if encoder else []
        table = None if self.table is None else open_ids(self.table)
        totals = [stream.total for _, stream in opened]
        totals += [len(self.ids), table.metadata.num_rows if table else 0, collection.count if self.everything else 0]
        known = [total for total in totals if total is not None]
        with tqdm(
            total=sum(known) if len(known) == len(totals) else None, desc="query", unit=" images", unit_scale=True,
            mininterval=0.5 if sys.stderr.isatty() else 10,
        ) as bar:  # fmt: skip
            if encoder:
                yield from of_files(opened, encoder, size, threads, bar)
            for ids in self._ids(collection, table, size):
                yield of_ids(collection, ids)
                bar.update(len(ids))

    def _ids(self, collection: Collection, table: ParquetFile | None, size: int) -> Iterator[Sequence[int | None]]:
        for start in range(0, len(self.ids), size):
            yield self.ids[start : start + size]
        if table is not None and self.table is not None:
            yield from _read_ids(table, self.table, size)
        if self.everything:
            for positions in collection.blocks(size):
                yield collection.ids(positions).tolist()


def of_files(
    opened: Iterable[tuple[str, Stream]], encoder: Encoder, size: int, threads: int, bar: tqdm[Any]
) -> Iterator[Block]:
    """Every image of the streams (see `aecore.data.paths`), at most `size` a block; `bar` advances as they are read."""
    size = min(size, max(1, PIXEL_BYTES // math.prod(encoder.shape)))
    for prefix, stream in opened:
        while True:
            pixels = io.BytesIO()
            found = read_all(islice(stream.entries, size), encoder.preparation, threads, pixels, bar)
            if not found.paths and not found.rejected:
                break
            images = np.frombuffer(pixels.getvalue(), np.uint8).reshape(-1, *encoder.shape)
            yield Block(
                [printable(prefix) + path for path in found.paths],
                [None] * len(found.paths),
                encoder.encode(images),
                [Rejected(path, None, reason) for path, reason in refused(found, prefix)],
            )


def of_ids(collection: Collection, ids: Sequence[int | None]) -> Block:
    """Indexed images by their ids."""
    wanted = np.array([-1 if item_id is None else item_id for item_id in ids], np.int64)
    positions = collection.positions(wanted)
    known = np.flatnonzero(positions >= 0)
    rejected = [
        Rejected(None, ids[place], "the id is missing" if ids[place] is None else "the id is not indexed")
        for place in np.flatnonzero(positions < 0).tolist()
    ]
    return Block([None] * len(known), wanted[known].tolist(), collection.vectors(positions[known]), rejected)


def open_ids(path: Path) -> ParquetFile:
    """Open a Parquet file that has a column `id` of whole numbers, or text. Raises UserError where it has none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UserError(f"--ids {path} is no file: name a Parquet file with a column `id`.")
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"--ids {path} cannot be read as Parquet ({str(error).splitlines()[0]}).") from error
    schema = file.schema_arrow
    if "id" not in schema.names:
        raise UserError(f"--ids {path} has no column `id`; it has {', '.join(schema.names)}.")
    if schema.names.count("id") > 1:
        raise UserError(f"--ids {path} has {schema.names.count('id')} columns `id`: rename all but one.")
    if not (pa.types.is_integer(kind := schema.field("id").type) or pa.types.is_string(kind)):
        raise UserError(f"--ids {path}: the column `id` holds {kind}; expected int64, or text of whole numbers.")
    return file


def _read_ids(file: ParquetFile, path: Path, size: int) -> Iterator[list[int | None]]:
    import pyarrow as pa

    try:
        for batch in file.iter_batches(batch_size=size, columns=["id"]):
            yield batch.column(0).cast(pa.int64()).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"--ids {path}: the column `id` cannot be read ({str(error).splitlines()[0]}).") from error
