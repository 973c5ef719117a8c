"""Reading a source: every entry decoded on threads, in order, its pixels streamed to a file."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, BinaryIO

from aecore.data.decode import Decoded, Preparation, Undecodable, content_hash, content_id, decode, prepare_array
from aecore.data.entry import Entry
from aecore.data.items import SPLITS, Found
from aecore.data.trees import READ_ERRORS

if TYPE_CHECKING:
    from tqdm import tqdm

Result = tuple[bytes, bytes, Decoded] | str | None
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
) -> Found:
    """Decode every entry on `threads` threads, in order; pixels go to the file `pixels`, row after row.

    Files whose id is `known` (asked from several threads) are counted and not decoded. `bar` advances by entries.
    """
    found = Found()
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
                waiting.append((chunk, size, pool.submit(_decode_all, chunk, preparation, known)))
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


def _decode_all(entries: list[Entry], preparation: Preparation, known: Callable[[int], bool] | None) -> list[Result]:
    return [_decode_one(entry, preparation, known) for entry in entries]


def _decode_one(entry: Entry, preparation: Preparation, known: Callable[[int], bool] | None) -> Result:
    try:
        content = entry.read()
    except READ_ERRORS as error:
        return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    sha256 = content_hash(content)
    if known is not None and known(content_id(sha256)):
        return None
    try:
        picture = decode(content, preparation) if isinstance(content, bytes) else prepare_array(content, preparation)
    except Undecodable as error:
        return str(error)
    return sha256, content_hash(picture.pixels), picture


def _record(found: Found, entry: Entry, result: Result, pixels: BinaryIO) -> None:
    if result is None:
        found.files += 1
        found.known += 1
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
