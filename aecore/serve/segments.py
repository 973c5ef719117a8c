"""Segments that a published copy has grown by: written beside its base, with the base's centre and trained lists."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aecore import artifact
from aecore.artifact import Manifest
from aecore.data.images import ALIASES, Images, no_aliases, shard_name
from aecore.data.items import SHARD_BYTES, write_table
from aecore.search import storage
from aecore.search.filling import fill
from aecore.search.growth import BASE, commit, new_segment, segment_path, sweep
from aecore.search.kinds import Kind
from aecore.search.metric import BLOCK, codes
from aecore.search.searcher import Searcher, Source
from aecore.search.segment import Segment
from aecore.search.vector_index import EXACT
from aecore.vectors import Embeddings, vectors_name

if TYPE_CHECKING:
    import pyarrow as pa

FLAT_BELOW = 4_096
"""Rows up to which a segment is searched one by one, whatever the base is."""
SMALL = 1_024
"""Segments of up to so many rows count as of one size."""
FAN = 4
"""Segments of about the same size that are merged into one."""
LOSSY = 0.25
"""Share of a segment's rows that are removed before it is written anew without them."""


def append(
    source: Source,
    searcher: Searcher,
    items: pa.Table,
    blocks: Iterable[tuple[np.ndarray, np.ndarray]],
    aliases: pa.Table | None = None,
) -> None:
    """Add images to the published copy `source`, open as `searcher`, for good; needs the lock, and `tidied` after it.

    `items` is the whole table, it may be empty, `blocks` as in `write_segment`; `aliases` are files with the pixels of
    an image that is in either.
    """
    import pyarrow as pa

    copy, growth, names = source.directory, searcher.growth, list(searcher.growth.segments)
    if len(items):
        names.append(new_segment())
        write_segment(segment_path(copy, names[-1]), searcher.base, len(items), [items], blocks)
    known = growth.aliases()
    commit(copy, searcher.manifest, names, growth.removed, pa.concat_tables([known, aliases]) if aliases else known)


def retire(source: Source, searcher: Searcher, positions: np.ndarray) -> None:
    """Remove the images at `positions` from the published copy, for good; needs the lock, and `tidied` after it."""
    names, removed = [BASE, *searcher.growth.segments], dict(searcher.growth.removed)
    for place, _, rows in searcher.collection.split(positions):
        removed[names[place]] = np.union1d(searcher.collection.segments[place].removed, rows)
    commit(source.directory, searcher.manifest, list(searcher.growth.segments), removed, searcher.growth.aliases())


def restore(source: Source, searcher: Searcher, ids: np.ndarray) -> int:
    """Let removed images with these ids answer again, for good, as far as they are in the published copy still.

    Needs the lock, and `tidied` after it; returns how many do.
    """
    removed, back = dict(searcher.growth.removed), 0
    wanted, pixels = ids[searcher.collection.positions(ids) < 0], set[str]()
    for name, segment in zip([BASE, *searcher.growth.segments], searcher.collection.segments, strict=True):
        again = np.isin(segment.ids[segment.removed], wanted)
        hashes = [row["pixel_hash"] for row in segment.images.take(segment.removed[again], ["pixel_hash"])]
        different = list(dict.fromkeys(hashes))
        shown = searcher.collection.showing(different) >= 0
        pixels |= {some for some, answers in zip(different, shown.tolist(), strict=True) if answers}
        for place, some in zip(np.flatnonzero(again).tolist(), hashes, strict=True):
            again[place] = some not in pixels  # else another file of the picture answers
            pixels.add(some)
        wanted = np.setdiff1d(wanted, segment.ids[segment.removed[again]])  # none of them twice
        removed[name], back = segment.removed[~again], back + int(again.sum())
    if back:
        names = list(searcher.growth.segments)
        commit(source.directory, searcher.manifest, names, removed, searcher.growth.aliases())
    return back


def tidied(source: Source, model: Manifest | None = None) -> Searcher:
    """Remove what nobody reads, merge segments of a size, write anew those that lost much, and open the copy.

    Needs the lock; `model` as in `Searcher.open`. What the caller still holds open stays until the next time. Where the
    disk is full it says so, and the segments stay as they are.
    """
    searcher = Searcher.open(source, model)
    sweep(source.directory)
    try:
        while together := _to_rewrite(searcher):
            _rewrite(source.directory, searcher, together)
            searcher = Searcher.open(source, model)
    except OSError as error:
        print(f"aecore: segments were not merged ({error}): what comes next does it", file=sys.stderr)
        searcher = Searcher.open(source, model)
    sweep(source.directory)
    return searcher


def _to_rewrite(searcher: Searcher) -> list[int]:
    """Places, among the segments that were added, of those that one should be written in the place of."""
    added = searcher.collection.segments[1:]
    lossy = [place for place, segment in enumerate(added) if len(segment.removed) > LOSSY * segment.size]
    return lossy[:1] or to_merge([segment.count for segment in added])


def _rewrite(copy: Path, searcher: Searcher, together: Sequence[int]) -> None:
    name = _merged(copy, searcher, together)
    left = [other for place, other in enumerate(searcher.growth.segments) if place not in together]
    removed = {segment: rows for segment, rows in searcher.growth.removed.items() if segment in (BASE, *left)}
    commit(copy, searcher.manifest, [*left, *([name] if name else [])], removed, searcher.growth.aliases())


def write_segment(
    path: Path,
    base: Segment,
    count: int,
    tables: Iterable[pa.Table],
    blocks: Iterable[tuple[np.ndarray, np.ndarray]],
) -> None:
    """Write a segment of `count` images at `path`, whole or not at all, holding a part of it in memory.

    Its rows are those of the `tables`, one after the other, in the order in which the `blocks` give them: a table has
    the base's columns (shard and row are set here), a block is images uint8 (n, C, H, W) and their raw codes
    float32 (n, dim).
    """
    dim = base.embeddings.dim
    each = max(1, (SHARD_BYTES - 128) // math.prod(base.images.shape))
    shards = [min(each, count - start) for start in range(0, count, each)]
    facts = base.images.manifest.facts | {"count": count, "shards": shards, "aliases": 0, "rejected": 0, "splits": {}}
    sources = {"model": Manifest("model", base.embeddings.manifest.sources["model"])}
    with artifact.replacing(path) as directory:
        with artifact.writing(directory / "data", "data", {}, facts) as data:
            _write_rows(data, directory, shards, base, blocks)
            write_table(data / "items.parquet", _placed(tables, shards))
            write_table(data / ALIASES, [no_aliases()])
        images = Images.open(directory / "data")
        sources["data"] = images.manifest
        facts = {"count": count, "dim": dim, "shards": shards}
        with artifact.writing(directory / "embeddings", "embeddings", sources, facts) as files:
            for number in range(len(shards)):
                (directory / vectors_name(number)).rename(files / vectors_name(number))
        embeddings = Embeddings.open(directory / "embeddings")
        sources["embeddings"] = embeddings.manifest

        kind = Kind.of(EXACT if count <= FLAT_BELOW else base.manifest.facts["index"], dim)
        ids, trained = images.ids(), base.manifest.facts if kind.lists else {}
        index = storage.load_trained(base.directory) if kind.lists else storage.exact_index(dim, base.metric)
        facts = {"count": count, "dim": dim, "metric": base.metric, "index": kind.name}
        facts |= {key: trained[key] for key in ("nprobe", "refine") if key in trained}
        with artifact.writing(directory / "index", "index", sources, facts) as files:
            fill(index, kind, _coded(embeddings, base), ids, files)
            storage.save(files, index, base.center, ids)
        Segment.open(directory.joinpath, sources["model"])  # what cannot be opened shall not be referred to


def described(table: pa.Table, base: Segment) -> pa.Table:
    """A table of images with the base's columns: labels are numbered as there, what it does not know is left out."""
    import pyarrow as pa

    names = base.images.label_names or []
    labels = table["label_name"].to_pylist()
    numbers = pa.array([names.index(label) if label in names else None for label in labels], pa.int32())
    table = table.set_column(table.column_names.index("label"), "label", numbers)

    def column(field: pa.Field) -> Any:
        try:
            return table[field.name].cast(field.type)
        except (KeyError, pa.ArrowInvalid, pa.ArrowNotImplementedError):  # not there, or of another kind there
            return pa.nulls(len(table), field.type)

    return pa.table({field.name: column(field) for field in base.images.schema})


def _coded(embeddings: Embeddings, base: Segment) -> Iterator[tuple[int, np.ndarray]]:
    """Codes as they are compared, a block at a time, with the row of the first."""
    for first, shard in embeddings.shards():
        for start in range(0, len(shard), BLOCK):
            yield first + start, codes(shard[start : start + BLOCK], base.center, base.metric)


def _write_rows(
    data: Path, vectors: Path, shards: list[int], base: Segment, blocks: Iterable[tuple[np.ndarray, np.ndarray]]
) -> None:
    """Cut the blocks into shards of images (in folder `data`) and of codes (in folder `vectors`)."""
    waiting = iter(blocks)
    pixels, codes = np.empty((0, *base.images.shape), np.uint8), np.empty((0, base.embeddings.dim), np.float32)
    for number, size in enumerate(shards):
        with (data / shard_name(number)).open("wb") as shown, (vectors / vectors_name(number)).open("wb") as coded:
            for file, array, kind in ((shown, pixels, "|u1"), (coded, codes, "<f4")):
                header = {"descr": kind, "fortran_order": False, "shape": (size, *array.shape[1:])}
                np.lib.format.write_array_header_1_0(file, header)
            while size:
                if not len(pixels):
                    pixels, codes = next(waiting)
                shown.write(np.ascontiguousarray(pixels[:size]).data)
                coded.write(np.ascontiguousarray(codes[:size], dtype=np.float32).data)
                written = min(size, len(pixels))
                pixels, codes, size = pixels[written:], codes[written:], size - written


def _placed(tables: Iterable[pa.Table], shards: list[int]) -> Iterator[pa.Table]:
    """The tables with columns `shard` and `row` as they are now."""
    import pyarrow as pa

    starts, first = np.cumsum([0, *shards]), 0
    for table in tables:
        rows = np.arange(first, first + len(table))
        shard = np.searchsorted(starts, rows, side="right") - 1
        table = table.drop_columns([name for name in ("shard", "row") if name in table.column_names])
        table = table.append_column("shard", pa.array(shard.astype(np.int32)))
        yield table.append_column("row", pa.array((rows - starts[shard]).astype(np.int32)))
        first += len(table)


def _merged(copy: Path, searcher: Searcher, together: Sequence[int]) -> str | None:
    """Write one segment of the living rows of some that were added (their places among these).

    Returns its name, None where no row lives. Nothing refers to it yet.
    """
    parts = [searcher.collection.segments[1 + place] for place in together]
    living = [np.setdiff1d(np.arange(part.size), part.removed) for part in parts]
    count = sum(map(len, living))
    if not count:
        return None

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for part, rows in zip(parts, living, strict=True):
            for start in range(0, len(rows), BLOCK):
                some = rows[start : start + BLOCK]
                yield part.images.rows(some), part.embeddings.rows(some)

    tables = chain.from_iterable(part.images.tables(rows) for part, rows in zip(parts, living, strict=True))
    name = new_segment()
    write_segment(segment_path(copy, name), searcher.base, count, tables, blocks())
    return name


def to_merge(sizes: Sequence[int]) -> list[int]:
    """Places of segments that should be one: FAN of about the same size, the smallest such; empty where none are.

    So each row is written again once for every factor of FAN that its segment grows by, and n rows lie in at most
    some FAN log n segments (O'Neil et al. 1996, "The log-structured merge-tree", in its tiered form).
    """
    tiers: dict[int, list[int]] = {}
    for place, size in enumerate(sizes):
        tiers.setdefault(int(math.log(max(size / SMALL, 1), FAN)), []).append(place)
    return next((places for _, places in sorted(tiers.items()) if len(places) >= FAN), [])
