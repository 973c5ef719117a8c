"""Segments that a published copy has grown by: written beside its base, with the base's centre and trained lists."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aecore import artifact
from aecore.artifact import Manifest
from aecore.data.images import Images, shard_name
from aecore.data.items import SHARD_BYTES, no_aliases, write_tables
from aecore.search import storage
from aecore.search.growth import new_segment, segment_path
from aecore.search.metric import BLOCK, codes
from aecore.search.searcher import Searcher
from aecore.search.segment import EXACT, Segment
from aecore.vectors import Embeddings, vectors_name

if TYPE_CHECKING:
    import pyarrow as pa

FLAT_BELOW = 4_096
"""Rows up to which a segment is searched one by one, whatever the base is."""
SMALL = 1_024
"""Segments of up to so many rows count as of one size."""
FAN = 4
"""Segments of about the same size that are merged into one."""


def write_segment(path: Path, base: Segment, items: pa.Table, blocks: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    """Write a segment at `path`, whole or not at all: its rows are `items`, in that order, as `blocks` gives them.

    A block is images uint8 (n, C, H, W) and their raw codes float32 (n, dim). `items` has the base's columns; shard
    and row are set here.
    """
    count, dim = len(items), base.embeddings.dim
    each = max(1, (SHARD_BYTES - 128) // math.prod(base.images.shape))
    shards = [min(each, count - start) for start in range(0, count, each)]
    facts = base.images.manifest.facts | {"count": count, "shards": shards, "aliases": 0, "rejected": 0, "splits": {}}
    sources = {"model": Manifest("model", base.embeddings.manifest.sources["model"])}
    with artifact.replacing(path) as directory:
        with artifact.writing(directory / "data", "data", {}, facts) as data:
            _write_rows(data, directory, shards, base, blocks)
            write_tables(data, {"items": _placed(items, shards), "aliases": no_aliases()})
        images = Images.open(directory / "data")
        sources["data"] = images.manifest
        facts = {"count": count, "dim": dim, "shards": shards}
        with artifact.writing(directory / "embeddings", "embeddings", sources, facts) as files:
            for number in range(len(shards)):
                (directory / vectors_name(number)).rename(files / vectors_name(number))
        embeddings = Embeddings.open(directory / "embeddings")
        sources["embeddings"] = embeddings.manifest

        kind = EXACT if count <= FLAT_BELOW else base.manifest.facts["index"]
        ids, searching = images.ids(), {} if kind == EXACT else base.manifest.facts
        index = storage.exact_index(dim, base.metric) if kind == EXACT else storage.load_trained(base.directory)
        for first, shard in embeddings.shards():
            for start in range(0, len(shard), BLOCK):
                block = codes(shard[start : start + BLOCK], base.center, base.metric)
                index.add_with_ids(block, ids[first + start : first + start + len(block)])
        facts = {"count": count, "dim": dim, "metric": base.metric, "index": kind}
        facts |= {key: searching[key] for key in ("nprobe", "refine") if key in searching}
        with artifact.writing(directory / "index", "index", sources, facts) as files:
            storage.save(files, index, base.center, ids)
        Segment.open(directory.joinpath, sources["model"])  # what cannot be opened shall not be referred to


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


def _placed(items: pa.Table, shards: list[int]) -> pa.Table:
    """The table with columns `shard` and `row` as they are now."""
    import pyarrow as pa

    places = {"shard": np.repeat(np.arange(len(shards), dtype=np.int32), shards),
              "row": np.concatenate([np.arange(size, dtype=np.int32) for size in shards])}  # fmt: skip
    for name, column in places.items():
        items = items.set_column(items.column_names.index(name), name, pa.array(column))
    return items


def merged(copy: Path, searcher: Searcher, together: Sequence[int]) -> str | None:
    """Write one segment of the living rows of some segments (their places in the collection); None where none lives.

    Returns its name. Nothing refers to it yet.
    """
    import pyarrow as pa

    parts = [searcher.collection.segments[place] for place in together]
    living = [np.setdiff1d(np.arange(part.size), part.removed) for part in parts]
    if not sum(map(len, living)):
        return None
    items = pa.concat_tables(part.images.items.take(rows) for part, rows in zip(parts, living, strict=True))

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for part, rows in zip(parts, living, strict=True):
            for start in range(0, len(rows), BLOCK):
                some = rows[start : start + BLOCK]
                yield part.images.rows(some), part.embeddings.rows(some)

    name = new_segment(copy)
    write_segment(segment_path(copy, name), searcher.base, items, blocks())
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
