"""The Parquet files that a batch of queries is answered with.

The table of neighbours has a row for each query and rank, all of a query together, nearest first:

    query         string   the image file asked for, with the folder or archive it lies in as that was given, or null
    query_id      int64    the id asked for, or null: one of the two is there
    rank          int32    1…k
    id            int64    of the neighbour
    path          string   the source's name of the neighbour
    label_name    string   its label, or null
    similarity    float32  the cosine of centred codes, or minus the Euclidean distance
    distance      float32  1 - cosine, or the Euclidean distance

Queries that have none (a file that cannot be read, an id that is not indexed) are in a file of their own, beside it: a
null among whole numbers makes pandas and NumPy round them, and ids would be others. That file has the columns query,
query_id and reason (string). The schemas' metadata hold at `aecore`, as JSON, what answered.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aecore import artifact
from aecore.search.collection import Collection
from aecore.search.queries import Block, Rejected
from aecore.search.searcher import Neighbours

if TYPE_CHECKING:
    import pyarrow as pa

GROUP = 2**16
"""Rows that are read together, at least."""
COLUMNS = {"query": "string", "query_id": "int64", "rank": "int32", "id": "int64", "path": "string",
           "label_name": "string", "similarity": "float32", "distance": "float32"}  # fmt: skip
REJECTED = {"query": "string", "query_id": "int64", "reason": "string"}

Write = Callable[["pa.Table"], None]


class Names:
    """Paths and label names of a whole collection, in memory: what a batch looks up at random."""

    def __init__(self, collection: Collection) -> None:
        import pyarrow as pa

        self._collection = collection
        self._columns = {}
        for name in ("path", "label_name"):
            chunks = [chunk for segment in collection.segments for chunk in segment.images.column(name).chunks]
            self._columns[name] = pa.concat_arrays([chunk.cast(pa.large_string()) for chunk in chunks])

    def of(self, ids: np.ndarray) -> dict[str, pa.Array]:
        """Columns of indexed images, by their ids int64 (m,)."""
        import pyarrow as pa

        positions = pa.array(self._collection.positions(ids))
        return {name: column.take(positions).cast(pa.string()) for name, column in self._columns.items()}


def tabulate(block: Block, found: Neighbours, names: Names) -> pa.Table:
    """The neighbours of a block as rows of COLUMNS."""
    import pyarrow as pa

    count, k = found.ids.shape
    columns = {
        "query": pa.array(block.paths, pa.string()).take(each := pa.array(np.repeat(np.arange(count), k))),
        "query_id": pa.array(block.ids, pa.int64()).take(each),
        "rank": np.tile(np.arange(1, k + 1, dtype=np.int32), count),
        "id": found.ids.ravel(),
        **names.of(found.ids.ravel()),
        "similarity": found.similarity.ravel(),
        "distance": found.distance.ravel(),
    }
    return pa.table(columns, pa.schema(COLUMNS.items()))


def keep_rejected(parquet: Path, rejected: Sequence[Rejected], about: dict[str, Any]) -> Path | None:
    """Write the queries that have no neighbours beside `parquet`, as NAME.rejected.parquet; None where there are none.

    One that an earlier batch left is then removed.
    """
    import pyarrow as pa

    path = parquet.with_name(f"{parquet.name.removesuffix('.parquet')}.rejected.parquet")
    if not rejected:
        path.unlink(missing_ok=True)
        return None
    columns = dict(zip(REJECTED, zip(*rejected, strict=True), strict=True))
    with writing(path, REJECTED, about) as write:
        write(pa.table(columns, pa.schema(REJECTED.items())))
    return path


@contextlib.contextmanager
def writing(path: Path, columns: dict[str, str], about: dict[str, Any]) -> Iterator[Write]:
    """Yield what writes tables of `columns` to a temporary sibling, which is renamed to `path` at the end.

    On any error it is removed and `path` is untouched. Raises OSError, with the file's name, where the disk is full.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(columns.items(), {"aecore": json.dumps(about, allow_nan=False)})
    artifact.clear_stale(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    waiting: list[pa.Table] = []

    def write(table: pa.Table, least: int = GROUP) -> None:
        waiting.append(table)
        if sum(map(len, waiting)) >= least:
            writer.write_table(pa.concat_tables(waiting).cast(schema), row_group_size=2**30)
            waiting.clear()

    try:
        with temporary.open("wb") as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
            yield write
            write(schema.empty_table(), least=0)
        artifact.fsync(temporary)
        os.replace(temporary, path)
        artifact.fsync(path.parent)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
