"""What lies below a folder: the one walk over it, what of it DVC stumbles over, and the listing that `prepare` keeps.

DVC hashes a folder after the stage that depends on it, so what arrives meanwhile is recorded as seen and never read.
The listing is taken before the first file is read; `python -m aecore check` compares it with what is there now.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

PASSED_OVER = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini", "README.md"})
LISTING = "listing.npy"

Kind = Literal["file", "special", "nowhere", "closed", "link"]
"""`special`: a pipe, socket or device; `nowhere`: a link that leads nowhere, or in a circle; `closed`: what may not be
read; `link`: one to a folder."""


class Seen(NamedTuple):
    """One name below a folder."""

    name: str
    """With forward slashes; may hold bytes that are not UTF-8, as surrogates."""
    kind: Kind
    size: int
    """Bytes; 0 where it is no file."""
    watched: bool
    """Whether DVC sees it: it does not follow links to folders."""


class Change(NamedTuple):
    """How many files are there now and were not, were there and are not, and have another size."""

    came: int
    gone: int
    changed: int


@dataclass(frozen=True, eq=False)
class Listing:
    """Names and sizes of files, without the names: enough to say whether there are others now, and how many."""

    names: np.ndarray
    """uint64 (n,), ascending: the first 64 bits of the sha256 of each."""
    sizes: np.ndarray
    """uint64 (n,): bytes."""

    @classmethod
    def of(cls, files: Iterable[tuple[str, int]]) -> Listing:
        """Of names, each once, and bytes, in any order."""
        pairs = [(hashlib.sha256(os.fsencode(name)).digest()[:8], size) for name, size in files]
        names = np.frombuffer(b"".join(name for name, _ in pairs), ">u8").astype("<u8")
        order = np.argsort(names, kind="stable")
        return cls(names[order], np.array([size for _, size in pairs], "<u8")[order])

    @classmethod
    def load(cls, directory: Path) -> Listing | None:
        """What `save` put into an artefact; None where it has none."""
        path = directory / LISTING
        return cls(*np.load(path, allow_pickle=False)) if path.is_file() else None

    def save(self, directory: Path) -> dict[str, int | str]:
        """Write it beside the other files of an artefact; returns how many files, their bytes, and its digest."""
        both = np.stack([self.names, self.sizes])
        np.save(directory / LISTING, both)
        digest = hashlib.sha256(both.tobytes()).hexdigest()
        return {"files": len(self.names), "bytes": int(self.sizes.sum()), "digest": digest}

    def until(self, now: Listing) -> Change:
        """What has become of these files."""
        shared, mine, theirs = np.intersect1d(self.names, now.names, assume_unique=True, return_indices=True)
        changed = np.count_nonzero(self.sizes[mine] != now.sizes[theirs])
        return Change(len(now.names) - len(shared), len(self.names) - len(shared), int(changed))


def hidden(name: str) -> bool:
    """Whether a name is passed over, and with it what lies below."""
    return name.startswith(".") or name in PASSED_OVER


def walk(root: Path, *, everything: bool = False) -> Iterator[Seen]:
    """Yield what lies below `root`, sorted, following links but never in a circle; hidden names are passed over.

    With `everything` they are not, and two kinds come that do not come otherwise: `link`, before what it leads to, and
    `closed`. Without it a folder that may not be read raises OSError.
    """
    return _walk(root, "", (), True, everything)


def _walk(
    root: Path, prefix: str, above: tuple[tuple[int, int], ...], watched: bool, everything: bool
) -> Iterator[Seen]:
    try:
        here = os.stat(root / prefix)
        if (here.st_dev, here.st_ino) in above:
            return
        with os.scandir(root / prefix) as found:
            children = sorted(found, key=lambda child: child.name)
    except PermissionError:
        if not everything:
            raise
        yield Seen(prefix.removesuffix("/"), "closed", 0, watched)
        return
    above = (*above, (here.st_dev, here.st_ino))
    for child in children:
        if not everything and hidden(child.name):
            continue
        name = prefix + child.name
        try:
            status = child.stat()
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM) and not everything:
                raise
            kind: Kind = "closed" if error.errno in (errno.EACCES, errno.EPERM) else "nowhere"
            yield Seen(name, kind, 0, watched)
            continue
        if not stat.S_ISDIR(status.st_mode):
            regular = stat.S_ISREG(status.st_mode)
            yield Seen(name, "file" if regular else "special", status.st_size if regular else 0, watched)
            continue
        linked = child.is_symlink()
        if everything and linked:
            yield Seen(name, "link", 0, watched)
        yield from _walk(root, f"{name}/", above, watched and not linked, everything)


def size_of(path: Path) -> int:
    """Bytes of a file; 0 of what is none."""
    try:
        status = path.stat()
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


Stumble = Literal["name", "ignore", "special", "nowhere", "closed", "link"]
"""`name`: not UTF-8; `ignore`: a file .dvcignore; else as in Kind."""


def stumbles(root: Path) -> dict[Stumble, list[str]]:
    """Names below `root` that DVC cannot watch, by why, hidden ones too; a `link` to a folder it passes over."""
    found: dict[Stumble, list[str]] = {}
    for seen in walk(root, everything=True):
        if seen.watched and (why := _stumble(root, seen)):
            found.setdefault(why, []).append(seen.name)
    return found


def _stumble(root: Path, seen: Seen) -> Stumble | None:
    try:
        seen.name.encode()
    except UnicodeEncodeError:
        return None if seen.kind == "link" else "name"  # DVC stops at files only
    if seen.name.rpartition("/")[2] == ".dvcignore":
        return "ignore"
    if seen.kind != "file":
        return seen.kind
    return None if readable(root / seen.name) else "closed"


def readable(path: Path) -> bool:
    """Whether this process may read a file or folder."""
    return os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids)
