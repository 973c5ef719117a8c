"""`Growth`: what a published copy has gained and lost since it was made, as a chain of generations.

    serving/grown/<id>/segments/<name>/    a segment: data/ embeddings/ index/ (see `aecore.search.segment`)
    serving/grown/<id>/000007/             a generation: which segments there are, the rows removed from each, and the
                                           files that were added with the pixels of an image that was there
    serving/grown/<id>/current             symbolic link to the generation that counts, switched in one rename

Nothing here is ever changed, only replaced: the copy itself stays what was published. A kill at any time leaves
`current` at the old generation or at the new one. Whoever reads a generation holds a shared lock on its manifest: what
is held stays, with its segments, until nobody does. Before the first, `current` leads to 000000, which is not there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aecore import artifact
from aecore.artifact import Manifest
from aecore.config import UserError, WorkFailed
from aecore.data.images import ALIASES, no_aliases

if TYPE_CHECKING:
    import pyarrow as pa

CURRENT = "current"
KINDS = ("data", "embeddings", "index")
"""What a segment is made of."""
BASE = "base"
"""Name of the segment that was published."""


class Hold:
    """A shared lock on the manifest of a generation, for as long as this lives."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __del__(self) -> None:
        os.close(self._descriptor)

    @classmethod
    def on(cls, generation: Path) -> Hold | None:
        """Wait for the lock; None where the generation is gone."""
        try:
            hold = cls(os.open(generation / artifact.MANIFEST, os.O_RDONLY))
        except FileNotFoundError:
            return None
        with contextlib.suppress(OSError):  # a file system without locks, on which nothing can grow
            fcntl.flock(hold._descriptor, fcntl.LOCK_SH)
        try:
            same = os.path.samestat(os.fstat(hold._descriptor), os.stat(generation / artifact.MANIFEST))
        except FileNotFoundError:
            return None
        return hold if same else None


@dataclass(frozen=True)
class Growth:
    """One generation."""

    number: int = 0
    """0: nothing was added or removed yet."""
    segments: Mapping[str, str] = field(default_factory=dict)
    """Names of the segments added, in order, and the digests of their indexes."""
    removed: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Segment -> removed rows, int64 ascending, where there are any."""
    manifest: Manifest | None = None
    hold: Hold | None = field(default=None, compare=False, repr=False)
    """Keeps it, and its segments, from being removed."""

    @classmethod
    def read(cls, copy: Path, index: Manifest, deep: bool = False) -> Growth:
        """The current generation of a published copy, which must have grown from this `index`.

        Raises as `artifact.read_manifest` does (`deep`: every byte is compared), WorkFailed naming both digests where
        it grew from another, and where no generation is said to be current.
        """
        while True:
            number = _current(growth_folder(copy))
            if not number:
                return cls()
            generation = growth_folder(copy) / _name(number)
            hold = Hold.on(generation)
            if hold is None and _current(growth_folder(copy)) != number:
                continue  # it went on growing just now
            manifest = artifact.read_manifest(generation, "growth")
            artifact.check_chain(index, manifest)
            if deep:
                artifact.verify(generation, manifest, deep=True)
            removed = {segment: np.load(generation / f"{segment}.npy") for segment in manifest.facts["removed"]}
            return cls(number, manifest.facts["segments"], removed, manifest, hold)

    def aliases(self) -> pa.Table:
        """The table of files that were added with the pixels of an image that was there."""
        import pyarrow.parquet as pq

        if self.manifest is None or ALIASES not in self.manifest.files:
            return no_aliases()
        assert self.manifest.path is not None
        return pq.read_table(self.manifest.path / ALIASES)

    @property
    def counts(self) -> tuple[int, int]:
        """Images that were added and are there, and images of the base that were removed."""
        if self.manifest is None:
            return 0, 0
        facts = self.manifest.facts
        gone: dict[str, int] = dict(facts["removed"])
        base = gone.pop(BASE, 0)
        return facts["added"] - sum(gone.values()), base

    def check(self, segment: str, index: Manifest) -> None:
        """Raise WorkFailed, naming both digests, unless this is the `index` of that segment."""
        if index.digest != self.segments[segment]:
            raise WorkFailed(
                f"segment {segment}, which was added, should have index {self.segments[segment][:12]}, but the one "
                f"there is {index.digest[:12]}: run {artifact.PUBLISH}."
            )


def growth_folder(copy: Path) -> Path:
    """Where the growth of a published copy lies."""
    return copy.parent / "grown" / copy.name


def segment_path(copy: Path, name: str) -> Path:
    """Folder of a segment that was added."""
    return growth_folder(copy) / "segments" / name


def new_segment() -> str:
    """A name that no segment ever had: who has one open shall not read another, even where all of them were removed."""
    return secrets.token_hex(6)


def generation(copy: Path) -> Path:
    """Folder of the current generation. Raises WorkFailed where none is said to be current."""
    return growth_folder(copy) / _name(_current(growth_folder(copy)))


def commit(
    copy: Path,
    index: Manifest,
    segments: Sequence[str],
    removed: Mapping[str, np.ndarray],
    aliases: pa.Table,
) -> None:
    """Make the next generation and switch to it; the caller holds the lock. `index` is the base's.

    `aliases` is the whole table of files with the pixels of an image, which may lie in any segment.
    """
    import pyarrow.parquet as pq

    folder = growth_folder(copy)
    name = _name(_current(folder) + 1)
    parts = {segment: artifact.read_manifest(segment_path(copy, segment) / "index", "index") for segment in segments}
    rows = {segment: np.sort(gone).astype(np.int64) for segment, gone in removed.items() if len(gone)}
    facts = {
        "segments": {segment: part.digest for segment, part in parts.items()},
        "added": sum(part.facts["count"] for part in parts.values()),
        "removed": {segment: len(gone) for segment, gone in rows.items()},
    }
    if not (folder / CURRENT).is_symlink():
        artifact.make_directory(folder)
        artifact.point(folder / CURRENT, _name(0))
    with artifact.writing(folder / name, "growth", {"index": index}, facts) as directory:
        for segment, gone in rows.items():
            np.save(directory / f"{segment}.npy", gone)
        if len(aliases):
            pq.write_table(aliases, directory / ALIASES, compression="zstd")
    artifact.point(folder / CURRENT, name)


def sweep(copy: Path) -> None:
    """Remove what neither the current generation nor one that somebody reads refers to; the caller holds the lock."""
    folder = growth_folder(copy)
    if not folder.is_dir():
        return
    for path in (*folder.glob(".*"), *folder.glob("segments/.*")):  # what a kill left
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
    current, used = _current(folder), set[str]()
    try:
        for number in _numbers(folder):
            if number == current or not _removed(folder / _name(number)):
                used |= set(artifact.load_manifest(folder / _name(number), "growth").facts["segments"])
    except UserError:
        return  # whose segments they are cannot be told
    for path in folder.glob("segments/*"):
        if path.name not in used:
            shutil.rmtree(path)


def damaged(copy: Path, growth: Growth) -> dict[str, str]:
    """Segments of a generation that are not what they were, by every byte, and what is wrong with each."""
    found = {}
    for name in growth.segments:
        try:
            parts = [artifact.read_manifest(segment_path(copy, name) / kind, kind) for kind in KINDS]
            for part in parts:
                artifact.verify(segment_path(copy, name) / part.kind, part, deep=True)
            artifact.check_chain(*parts)
            growth.check(name, parts[-1])
        except (UserError, OSError) as error:
            found[name] = str(error)
    return found


def verify(copy: Path, index: Manifest) -> None:
    """Compare all that the copy grew by with its manifests, byte by byte. Raises as `Growth.read` does."""
    for reason in damaged(copy, Growth.read(copy, index, deep=True)).values():
        raise WorkFailed(reason)


def _removed(generation: Path) -> bool:
    """Remove a generation, unless somebody reads it."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(FileNotFoundError):  # then nobody can read it
            manifest = stack.enter_context((generation / artifact.MANIFEST).open("rb+"))
            try:
                fcntl.flock(manifest, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        old = generation.with_name(f".{generation.name}.old")
        os.rename(generation, old)  # at once and while it is locked: who waits for the lock finds it gone
        shutil.rmtree(old)
    return True


def _current(folder: Path) -> int:
    """Number of the current generation. Raises WorkFailed where there are some, but none is said to be current."""
    for _ in range(2):
        try:
            name = (folder / CURRENT).readlink().name
        except FileNotFoundError:
            if not _numbers(folder):
                return 0
            continue  # the first was made just now: look again
        except OSError:
            break  # it is no link
        if name.isdecimal():
            return int(name)
    raise WorkFailed(f"{folder / CURRENT} does not lead to a generation: run {artifact.PUBLISH}.")


def _numbers(folder: Path) -> list[int]:
    """Numbers of the generations there are."""
    try:
        return [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
    except FileNotFoundError:
        return []


def _name(number: int) -> str:
    return f"{number:06d}"
