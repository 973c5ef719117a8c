"""Which of the images found become items, and how items are written: shards of pixels and the tables beside them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aecore.config import WorkFailed
from aecore.data.entry import Source
from aecore.data.images import ATTRIBUTE, shard_name
from aecore.data.layout import read_layout

if TYPE_CHECKING:
    import pyarrow as pa

SPLITS = ("train", "validation", "test")
SHARD_BYTES = 64 * 2**20
BLOCK_BYTES = 4 * 2**20
GROUP = 2**16
"""Rows of a table that are read together, at least."""


@dataclass
class Found:
    """Metadata of the images in the order of the source, compactly; n images, m rejected."""

    paths: list[str] = field(default_factory=list)
    batches: list[str] = field(default_factory=list)
    sha256: bytearray = field(default_factory=bytearray)  # n * 32
    pixel_hash: bytearray = field(default_factory=bytearray)  # n * 32
    labels: list[int | None] = field(default_factory=list)
    named: list[str | None] = field(default_factory=list)  # labels by name, where folders give them: see `lay_out`
    official: bytearray = field(default_factory=bytearray)  # 0 none, else 1 + place in SPLITS
    sizes: list[tuple[int, int]] = field(default_factory=list)  # width, height
    rejected: list[tuple[str, str, str]] = field(default_factory=list)  # path, batch, reason
    failures: list[int] = field(default_factory=list)  # places in `rejected` that count
    files: int = 0  # entries that count: images, or what promised to be one
    known: int = 0  # files that were not decoded, because what reads them has them already
    removed: list[int] = field(default_factory=list)  # ids of files of removed images: nothing else is kept of them
    removed_pixels: set[bytes] = field(default_factory=set)  # their pixel hashes


@dataclass(frozen=True)
class Kept:
    """Which of the n found images are items, in their final order, and which repeat an item."""

    ids: np.ndarray  # int64 (n,)
    hashes: np.ndarray  # uint64 (n, 4): the pixel hash
    items: np.ndarray  # int64 (count,): places in the source's order, sorted by batch, then id
    aliases: np.ndarray  # int64 (n - count,)
    item_of: np.ndarray  # int64 (n,): the place of the item that stands for each image
    official: np.ndarray  # uint8 (n,): of the item, the official split of any of its copies; test wins
    batch: np.ndarray  # int64 (n,): rank of the batch


def lay_out(found: Found, stream: Source) -> str:
    """Take the labels and splits of files from their folders; return what was taken for what, empty if nothing to tell.

    Raises UserError where `data.split_folders` is always, and they are none.
    """
    if stream.split_folders is None:
        return ""
    layout = read_layout(found.paths, found.batches, packed=stream.packed, split_folders=stream.split_folders)
    found.named = layout.labels
    found.official = bytearray(0 if split is None else 1 + SPLITS.index(split) for split in layout.splits)
    return layout.told


def deduplicate(found: Found) -> Kept:
    """Images of equal pixels become one item: that of the earliest batch, in it of the smallest id, then path.

    What has the pixels of a removed file is neither item nor alias.
    """
    n = len(found.paths)
    ids = (_words(found.sha256)[:, 0] >> np.uint64(1)).astype(np.int64)  # `content_id`, of all at once
    hashes = _words(found.pixel_hash)
    path = np.empty(n, dtype=np.int64)
    path[sorted(range(n), key=found.paths.__getitem__)] = np.arange(n)
    rank = {name: i for i, name in enumerate(sorted(set(found.batches)))}
    batch = np.array([rank[name] for name in found.batches], dtype=np.int64)

    order = np.lexsort((path, ids, batch, *hashes.T[::-1]))
    first = np.ones(n, dtype=bool)
    first[1:] = (hashes[order[1:]] != hashes[order[:-1]]).any(axis=1)
    group = np.cumsum(first) - 1
    item_of = np.empty(n, dtype=np.int64)
    item_of[order] = order[first][group]
    official = np.empty(n, dtype=np.uint8)
    copies = np.frombuffer(bytes(found.official), dtype=np.uint8)[order]
    official[order] = np.maximum.reduceat(copies, np.flatnonzero(first))[group]

    place = np.lexsort((path, ids, batch))
    if found.removed_pixels:
        stays = [bytes(found.pixel_hash[32 * i : 32 * i + 32]) not in found.removed_pixels for i in place.tolist()]
        place = place[np.array(stays, dtype=bool)]
    is_item = item_of[place] == place
    items = place[is_item]
    if len(np.unique(ids[items])) != len(items):
        raise WorkFailed("two different images have the same 63-bit id; remove one of them.")  # by chance: never
    return Kept(ids, hashes, items, place[~is_item], item_of, official, batch)


def pixel_hash(found: Found, place: int) -> str:
    """Pixel hash of one of the images, in hexadecimal."""
    return found.pixel_hash[32 * place : 32 * place + 32].hex()


def _words(hashes: bytearray) -> np.ndarray:
    """Hashes of 32 bytes each as uint64 (n, 4)."""
    return np.frombuffer(bytes(hashes), dtype=">u8").reshape(-1, 4).astype(np.uint64)


def write_shards(directory: Path, unsorted: Path, kept: Kept, shape: tuple[int, int, int]) -> list[int]:
    """Gather the items from the unsorted file into shards, each of one batch; return their sizes."""
    row = math.prod(shape)
    per_shard = max(1, (SHARD_BYTES - 128) // row)
    per_block = max(1, BLOCK_BYTES // row)
    sizes: list[int] = []
    with unsorted.open("rb") as pixels:
        for rows in _runs(kept.items, kept.batch, per_shard):
            with (directory / shard_name(len(sizes))).open("wb") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": (len(rows), *shape)}
                np.lib.format.write_array_header_1_0(file, header)
                for start in range(0, len(rows), per_block):
                    places = rows[start : start + per_block].tolist()
                    file.write(b"".join(os.pread(pixels.fileno(), row, place * row) for place in places))
            sizes.append(len(rows))
    return sizes


def _runs(items: np.ndarray, batch: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """Cut `items` where the batch changes, and into pieces of at most `most`."""
    edges = np.flatnonzero(np.diff(batch[items])) + 1
    for part in np.split(items, edges):
        for start in range(0, len(part), most):
            yield part[start : start + most]


def make_tables(
    found: Found, kept: Kept, split: list[str], shards: list[int], stream: Source
) -> tuple[dict[str, pa.Table], list[str] | None]:
    """Tables of items, aliases and rejected, and the names of the labels, None where no image has one.

    `split` names that of each item.
    """
    import pyarrow as pa

    items, aliases = kept.items, kept.aliases
    labels, names = _labels(found, stream)
    sizes = np.array(found.sizes, dtype=np.int32).reshape(-1, 2)

    def take(values: list[Any], places: np.ndarray) -> list[Any]:
        return [values[i] for i in places.tolist()]

    item_labels = take(labels, items)
    tables = {
        "items": {
            "id": pa.array(kept.ids[items]),
            "path": pa.array(take(found.paths, items), pa.string()),
            "batch": pa.array(take(found.batches, items), pa.string()),
            "sha256": _hex(found.sha256, items),
            "pixel_hash": _hex(found.pixel_hash, items),
            "label": pa.array(item_labels, pa.int32()),
            "label_name": pa.array([None if i is None else (names or [])[i] for i in item_labels], pa.string()),
            "split": pa.array(split, pa.string()),
            "width": pa.array(sizes[items, 0]),
            "height": pa.array(sizes[items, 1]),
            "shard": pa.array(np.repeat(np.arange(len(shards), dtype=np.int32), shards)),
            "row": pa.array(np.concatenate([np.arange(n, dtype=np.int32) for n in shards])),
            **_attributes(stream, take(found.paths, items)),
        },
        "aliases": {
            "id": pa.array(kept.ids[aliases]),
            "path": pa.array(take(found.paths, aliases), pa.string()),
            "batch": pa.array(take(found.batches, aliases), pa.string()),
            "sha256": _hex(found.sha256, aliases),
            "item": pa.array(kept.ids[kept.item_of[aliases]]),
        },
        "rejected": {
            name: pa.array([row[i] for row in sorted(found.rejected)], pa.string())
            for i, name in enumerate(("path", "batch", "reason"))
        },
    }
    return {name: pa.table(columns) for name, columns in tables.items()}, names


def write_tables(directory: Path, tables: dict[str, pa.Table]) -> None:
    """Write each as `NAME.parquet`."""
    for name, table in tables.items():
        write_table(directory / f"{name}.parquet", [table])


def write_table(path: Path, parts: Iterable[pa.Table]) -> None:
    """Write parts of a table, one or more, one after the other, holding a group of rows in memory."""
    import pyarrow.parquet as pq

    groups = _groups(parts)
    first = next(groups)
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        for group in chain([first], groups):
            writer.write_table(group, row_group_size=GROUP)


def _groups(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Join parts until they have GROUP rows or more."""
    import pyarrow as pa

    waiting: list[pa.Table] = []
    for part in parts:
        waiting.append(part)
        if sum(map(len, waiting)) >= GROUP:
            yield pa.concat_tables(waiting)
            waiting.clear()
    if waiting:
        yield pa.concat_tables(waiting)


def _labels(found: Found, stream: Source) -> tuple[list[int | None], list[str] | None]:
    if stream.labels is not None:
        return found.labels, list(stream.labels)
    if any(label is not None for label in found.labels):
        return found.labels, [str(i) for i in range(1 + max(label or 0 for label in found.labels))]
    names = sorted({name for name in found.named if name is not None})
    number = {name: i for i, name in enumerate(names)}
    return [None if name is None else number[name] for name in found.named] or found.labels, names or None


def _attributes(stream: Source, paths: list[str]) -> dict[str, Any]:
    """Columns of the source's attributes, of the files at `paths`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if stream.attributes is None:
        return {}
    rows = stream.attributes.take(pc.index_in(pa.array(paths, pa.string()), value_set=stream.attributes.column(0)))
    return {ATTRIBUTE + name: rows.column(i) for i, name in enumerate(rows.column_names) if i > 0}


def _hex(hashes: bytearray, places: np.ndarray) -> Any:
    """Arrow strings of the hashes (32 bytes each) at `places`, made without a Python string for each."""
    import pyarrow as pa

    chosen = np.frombuffer(bytes(hashes), dtype=np.uint8).reshape(-1, 32)[places]
    text = pa.py_buffer(chosen.tobytes().hex().encode())
    offsets = pa.py_buffer(np.arange(0, 64 * len(places) + 1, 64, dtype=np.int32))
    return pa.StringArray.from_buffers(len(places), offsets, text)
