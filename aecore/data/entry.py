"""One image of a source before it is decoded, and the stream of them that every source is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

SplitName = Literal["train", "validation", "test"]
SplitFolders = Literal["auto", "always", "never"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or array of a source, not read yet."""

    path: str
    """The source's own name of it: for files the path below `data.path`."""
    batch: str
    """Empty where the source is one batch."""
    read: Callable[[], bytes | np.ndarray]
    """Encoded bytes, or a uint8 array (h, w) or (h, w, 3); raises Unreadable, OSError and what archives raise."""
    counts: bool = True
    """False where the name does not promise an image: its rejection is listed but not held against the data."""
    label: int | None = None
    split: SplitName | None = None
    """The official split, where the source has one."""
    held: int = 0
    """Bytes of content in memory before `read` is called."""


@dataclass(frozen=True, slots=True)
class Source:
    """Entries, batch by batch in sorted order."""

    entries: Iterator[Entry]
    total: int | None
    """How many entries, where that is known before the end."""
    labels: tuple[str, ...] | None = None
    """Names of the labels, where entries carry them; None where the label is the folder."""
    packed: bool = False
    """True for archives, in which one common top folder is packaging."""
    split_folders: SplitFolders | None = None
    """How folders named after splits are taken (`aecore/data/layout.py`); None where entries lie in no folders."""
    top_folders: frozenset[str] | None = None
    """The first folders of the entries, below their batches, where they are known before the end."""
    attributes: pa.Table | None = None
    """What is known of each entry: its path, then bool and string columns; every entry that can be read has a row."""
    files: Sequence[tuple[str, int]] = ()
    """Name and bytes of each file that it reads, as they were when it was opened; empty where that is not known."""


class Unreadable(ValueError):
    """The reason why one entry cannot be read; it is listed among the rejected."""


def rejected(path: str, batch: str, reason: str, *, counts: bool = True) -> Entry:
    """Make the entry of a file that is known to be of no use before it is read; its names may hold any bytes."""

    def refuse() -> bytes:
        raise Unreadable(reason)

    return Entry(printable(path), printable(batch), refuse, counts)


def printable(name: str) -> str:
    """Return the name of a file with bytes that are not UTF-8 written as `\\xNN`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
