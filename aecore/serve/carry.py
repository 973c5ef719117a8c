"""What was added to a published copy goes with the next one, encoded anew by that one's model.

Where both prepare images in the same way, the pixels that were kept are encoded; else the file is read again, if it is
where it was and has its id still. What the new copy has already, and what was removed, is left out.
"""

from __future__ import annotations

import tempfile
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from aecore.config import Runtime
from aecore.data.items import deduplicate, pixel_hash
from aecore.data.paths import entries_at
from aecore.data.reading import read_all
from aecore.data.removed import Removals, told
from aecore.embedding import Encoder
from aecore.search.searcher import Searcher, Source
from aecore.serve.growing import Growing, streamed

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 16_384
"""Images carried over in one step."""


def carry(root: Path, old: Source, new: Source, removals: Removals, runtime: Runtime) -> tuple[int, list[str]]:
    """Add to the copy `new` what had been added to the copy `old` and is not in it; needs the lock.

    Returns how many images that were, and the paths of those that it cannot have. Every BATCH images are a step of its
    own, and what is there is passed over, so that it carries on after a kill. Relative paths are looked up in `root`.
    Raises UserError where `old` cannot be opened.
    """
    before = Searcher.open(old)
    if before.growth.manifest is None:
        return 0, []
    copy = Growing(new, Encoder.load(new.path("model"), runtime.device))
    table, positions = added(before)
    ids = table["id"].to_numpy()
    left = np.flatnonzero(copy.lacks(ids) & ~np.isin(ids, list(removals.ids)))
    table, positions = table.take(left), positions[left]
    if told(before.base.images.manifest.facts) == told(copy.encoder.preparation):
        _from_pixels(before, table, positions, copy)
        return copy.added, []
    return copy.added, _from_files(root, table, copy, removals, runtime.threads)


def added(searcher: Searcher) -> tuple[pa.Table, np.ndarray]:
    """The files that were added to a copy and whose image answers: their rows as items, and the image's position.

    A file with the pixels of an image that was there has the row of that one, with its own id and path.
    """
    import pyarrow as pa

    collection, parts, positions = searcher.collection, list[pa.Table](), list[np.ndarray]()
    for start, segment in list(zip(collection.starts.tolist(), collection.segments, strict=False))[1:]:
        rows = np.setdiff1d(np.arange(segment.size), segment.removed)
        parts += segment.images.tables(rows)
        positions.append(start + rows)
    aliases = searcher.growth.aliases()
    at = collection.positions(aliases["item"].to_numpy())
    for place, segment in enumerate(collection.segments):
        start, stop = collection.starts[place : place + 2].tolist()
        mine = np.flatnonzero((at >= start) & (at < stop))
        mine = mine[np.argsort(at[mine], kind="stable")]
        rows, which = np.unique(at[mine] - start, return_inverse=True)
        if len(rows):
            items = pa.concat_tables(segment.images.tables(rows)).take(which)
            for name in ("id", "path", "batch", "sha256"):
                items = items.set_column(items.column_names.index(name), name, aliases[name].take(mine))
            parts.append(items)
            positions.append(at[mine])
    schema = searcher.base.images.schema
    tables = [part.select(schema.names).cast(schema) for part in parts]
    return pa.concat_tables([schema.empty_table(), *tables]), np.concatenate([np.empty(0, np.int64), *positions])


def _from_pixels(before: Searcher, table: pa.Table, positions: np.ndarray, copy: Growing) -> None:
    """Carry over the images of a table by the pixels that are kept at `positions`."""
    for start in range(0, len(table), BATCH):
        some, at = table.slice(start, BATCH), positions[start : start + BATCH]
        _, first, item = np.unique(some["pixel_hash"].to_pylist(), return_index=True, return_inverse=True)
        rest = np.setdiff1d(np.arange(len(some)), first)
        aliases = some.take(rest).append_column("item", some["id"].take(first[item[rest]]))
        copy.add(some.take(first), partial(_at, before, at[first]), aliases)


def _at(before: Searcher, positions: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return before.collection.pixels(positions[rows])


def _from_files(root: Path, table: pa.Table, copy: Growing, removals: Removals, threads: int) -> list[str]:
    """Carry over the images of a table from their files; returns the paths of those that are lost.

    One is not where another file of its picture was found.
    """
    import pyarrow as pa

    preparation, paths, old = copy.encoder.preparation, table["path"].to_pylist(), table["pixel_hash"].to_pylist()
    row_of = {item_id: row for row, item_id in enumerate(table["id"].to_pylist())}
    seen = set[str]()
    with tqdm(total=len(paths), desc="carry over", unit=" images", mininterval=0.5, disable=None) as bar:
        for entries in entries_at(root, paths, preparation.max_pixels):
            while some := list(islice(entries, BATCH)):
                with tempfile.TemporaryFile(dir=copy.source.directory.parent) as pixels:
                    found = read_all(some, preparation, threads, pixels, bar, lambda name: name not in row_of, removals)
                    pixels.flush()
                    kept = deduplicate(found)
                    rows = np.array([row_of[item_id] for item_id in kept.ids.tolist()], np.int64)
                    hashes = pa.array([pixel_hash(found, place) for place in kept.items.tolist()], pa.string())
                    items = table.take(rows[kept.items])
                    items = items.set_column(items.column_names.index("pixel_hash"), "pixel_hash", hashes)
                    stands = pa.array(kept.ids[kept.item_of[kept.aliases]])
                    aliases = table.take(rows[kept.aliases]).append_column("item", stands)
                    copy.add(items, streamed(pixels, kept.items, preparation.shape), aliases)
                seen |= {old[row_of[item_id]] for item_id in [*found.removed, *kept.ids.tolist()] if item_id in row_of}
    return [path for path, pixels in zip(paths, old, strict=True) if pixels not in seen]
