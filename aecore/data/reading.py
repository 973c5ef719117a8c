"""Reading a source: every entry decoded on threads, in order, its pixels streamed to a file."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from aecore.data.decode import Decoded, Preparation, Undecodable, content_hash, content_id, decode, prepare_array
from aecore.data.entry import Entry
from aecore.data.items import SPLITS, Found
from aecore.data.removed import Removals, told
from aecore.data.trees import READ_ERRORS

if TYPE_CHECKING:
    import numpy as np
    from tqdm import tqdm


class Removed(NamedTuple):
    """What an entry is that was removed."""

    item_id: int
    pixel_hash: bytes | None
    """None where it cannot be decoded any more."""


Result = tuple[bytes, bytes, Decoded] | str | Removed | None
"""Content hash, pixel hash and picture of an entry, or the reason why it has none; None where it is known already."""
CHUNK = 32
"""Entries that a thread decodes at a time, at most."""
IN_FLIGHT = 256 * 2**20
"""Bytes of content read ahead and of pixels not written yet, at most; but always one chunk, and one being read."""


def read_all(
    entries: Iterable[Entry],
    preparation: Preparation,
    threads: int,
    pixels: BinaryIO,
    bar: tqdm[Any],
    known: Callable[[int], bool] | None = None,
    removed: Removals | None = None,
) -> Found:
    """Decode every entry on `threads` threads, in order; pixels go to the file `pixels`, row after row.

    Files whose id is `known` (asked from several threads) are counted and not decoded. Those that were `removed`, by
    their id or by their pixels, are counted and leave nothing else; where a removal is told in the pixels of another
    preparation, each picture is prepared in that way too. `bar` advances by entries.
    """
    found = Found()
    removed = removed or Removals()
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[list[Entry], int, Future[list[Result]]]] = deque()
        in_flight = 0

        def take() -> int:
            chunk, size, future = waiting.popleft()
            for entry, result in zip(chunk, future.result(), strict=True):
                _record(found, entry, result, pixels)
            bar.update(len(chunk))
            return size

        try:
            for chunk, size in _chunks(entries, math.prod(preparation.shape), IN_FLIGHT // (2 * threads + 1)):
                waiting.append((chunk, size, pool.submit(_decode_all, chunk, preparation, known, removed)))
                in_flight += size
                while len(waiting) > 2 * threads or (in_flight > IN_FLIGHT and len(waiting) > 1):
                    in_flight -= take()
            while waiting:
                take()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return found


def _chunks(entries: Iterable[Entry], row: int, most: int) -> Iterator[tuple[list[Entry], int]]:
    """Cut the stream after CHUNK entries, or sooner once contents held and `row` bytes of pixels each are `most`.

    Yields the entries and those bytes.
    """
    chunk: list[Entry] = []
    size = 0
    for entry in entries:
        chunk.append(entry)
        size += entry.held + row
        if len(chunk) == CHUNK or size >= most:
            yield chunk, size
            chunk, size = [], 0
    if chunk:
        yield chunk, size


def _decode_all(
    entries: list[Entry], preparation: Preparation, known: Callable[[int], bool] | None, removed: Removals
) -> list[Result]:
    return [_decode_one(entry, preparation, known, removed) for entry in entries]


def _decode_one(
    entry: Entry, preparation: Preparation, known: Callable[[int], bool] | None, removed: Removals
) -> Result:
    try:
        content = entry.read()
    except READ_ERRORS as error:
        return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    sha256 = content_hash(content)
    item_id = content_id(sha256)
    gone = item_id in removed.ids
    if not gone and known is not None and known(item_id):
        return None
    try:
        picture = _prepared(content, preparation)
    except Undecodable as error:
        return Removed(item_id, None) if gone else str(error)
    pixel_hash = content_hash(picture.pixels)
    if gone or (removed.rows and _was_removed(content, pixel_hash, preparation, removed)):
        return Removed(item_id, pixel_hash)
    return sha256, pixel_hash, picture


def _prepared(content: bytes | np.ndarray, preparation: Preparation) -> Decoded:
    return decode(content, preparation) if isinstance(content, bytes) else prepare_array(content, preparation)


def _was_removed(content: bytes | np.ndarray, pixel_hash: bytes, preparation: Preparation, removed: Removals) -> bool:
    """Whether these are the pixels of an image that was removed, in this way of preparing them or in an earlier one."""
    return pixel_hash in removed.pixels.get(told(preparation), ()) or any(
        content_hash(_prepared(content, other).pixels) in hashes for other, hashes in removed.others(preparation)
    )


def _record(found: Found, entry: Entry, result: Result, pixels: BinaryIO) -> None:
    if result is None:
        found.files += 1
        found.known += 1
        return
    if isinstance(result, Removed):
        found.removed.append(result.item_id)
        if result.pixel_hash is not None:
            found.removed_pixels.add(result.pixel_hash)
        return
    if isinstance(result, str):
        if entry.counts:
            found.failures.append(len(found.rejected))
            found.files += 1
        found.rejected.append((entry.path, entry.batch, result))
        return
    sha256, pixel_hash, picture = result
    pixels.write(picture.pixels.data)
    found.files += 1
    found.paths.append(entry.path)
    found.batches.append(entry.batch)
    found.sha256 += sha256
    found.pixel_hash += pixel_hash
    found.labels.append(entry.label)
    found.official.append(1 + SPLITS.index(entry.split) if entry.split else 0)
    found.sizes.append((picture.width, picture.height))
