"""`Growth`: what a published copy has gained and lost since it was made, as a chain of generations.

    serving/grown/<id>/segments/000001/    a segment, data/ embeddings/ index/: it came with generation 000001
    serving/grown/<id>/000007/             a generation: which segments there are, and the rows removed from each
    serving/grown/<id>/current             symbolic link to the generation that counts, switched in one rename

Nothing here is ever changed, only replaced: the copy itself stays what was published. A kill at any time leaves
`current` at the old generation or at the new one. Whoever reads a generation holds a shared lock on its manifest: what
is held stays, with its segments, until nobody does.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aecore import artifact
from aecore.artifact import Manifest
from aecore.config import WorkFailed

BASE = "base"
"""Name of the segment that was published."""


class _Hold:
    """A shared lock on the manifest of a generation, for as long as this lives."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __del__(self) -> None:
        os.close(self._descriptor)

    @classmethod
    def on(cls, generation: Path) -> _Hold | None:
        """Wait for the lock; None where the generation is gone."""
        try:
            hold = cls(os.open(generation / artifact.MANIFEST, os.O_RDONLY))
        except FileNotFoundError:
            return None
        with contextlib.suppress(OSError):  # a file system without locks: then readers must be quick
            fcntl.flock(hold._descriptor, fcntl.LOCK_SH)
        return hold if generation.is_dir() else None  # its name is never given again


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
    hold: _Hold | None = field(default=None, compare=False, repr=False)
    """Keeps it, and its segments, from being removed."""

    @classmethod
    def read(cls, copy: Path, index: Manifest) -> Growth:
        """The current generation of a published copy, which must have grown from this `index`.

        Raises as `artifact.read_manifest` does, and WorkFailed naming both digests where it grew from another.
        """
        while True:
            number = _current(growth_folder(copy))
            if not number:
                return cls()
            generation = growth_folder(copy) / f"{number:06d}"
            hold = _Hold.on(generation)
            if hold is None and _current(growth_folder(copy)) != number:
                continue  # it went on growing just now
            manifest = artifact.read_manifest(generation, "growth")
            artifact.check_chain(index, manifest)
            removed = {segment: np.load(generation / f"{segment}.npy") for segment in manifest.facts["removed"]}
            return cls(number, manifest.facts["segments"], removed, manifest, hold)

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
                f"there is {index.digest[:12]}: run `python -m aecore publish`."
            )


def growth_folder(copy: Path) -> Path:
    """Where the growth of a published copy lies."""
    return copy.parent / "grown" / copy.name


def segment_path(copy: Path, name: str) -> Path:
    """Folder of a segment that was added."""
    return growth_folder(copy) / "segments" / name


def new_segment(copy: Path) -> str:
    """The name of what the next generation will have new; no other ever has it. The caller holds the lock."""
    return f"{_current(growth_folder(copy)) + 1:06d}"


def commit(copy: Path, index: Manifest, segments: Sequence[str], removed: Mapping[str, np.ndarray]) -> None:
    """Make the next generation and switch to it; the caller holds the lock. `index` is the base's."""
    folder = growth_folder(copy)
    name = f"{_current(folder) + 1:06d}"
    parts = {segment: artifact.read_manifest(segment_path(copy, segment) / "index", "index") for segment in segments}
    rows = {segment: np.sort(gone).astype(np.int64) for segment, gone in removed.items() if len(gone)}
    facts = {
        "segments": {segment: part.digest for segment, part in parts.items()},
        "added": sum(part.facts["count"] for part in parts.values()),
        "removed": {segment: len(gone) for segment, gone in rows.items()},
    }
    with artifact.writing(folder / name, "growth", {"index": index}, facts) as directory:
        for segment, gone in rows.items():
            np.save(directory / f"{segment}.npy", gone)
    artifact.point(folder / "current", name)


def sweep(copy: Path) -> None:
    """Remove what neither the current generation nor one that somebody reads refers to; the caller holds the lock."""
    folder = growth_folder(copy)
    used: set[str] = set()
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.startswith(".") and path.is_dir():  # what a kill left
            shutil.rmtree(path)
        elif path.name.isdecimal() and (int(path.name) == _current(folder) or not _removed(path)):
            used |= set(artifact.read_manifest(path, "growth").facts["segments"])
    for path in (folder / "segments").iterdir() if (folder / "segments").is_dir() else ():
        if path.name not in used:
            shutil.rmtree(path)


def verify(copy: Path, growth: Growth) -> None:
    """Compare every file of the growth with its manifests, byte by byte. Raises WorkFailed naming one that differs."""
    if growth.manifest is None:
        return
    artifact.verify(growth_folder(copy) / f"{growth.number:06d}", growth.manifest, deep=True)
    for name in growth.segments:
        for kind in ("data", "embeddings", "index"):
            path = segment_path(copy, name) / kind
            manifest = artifact.read_manifest(path, kind)
            artifact.verify(path, manifest, deep=True)
            if kind == "index":
                growth.check(name, manifest)


def _removed(generation: Path) -> bool:
    """Remove a generation, unless somebody reads it."""
    with (generation / artifact.MANIFEST).open("rb+") as manifest:
        try:
            fcntl.flock(manifest, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        old = generation.with_name(f".{generation.name}.old")
        os.rename(generation, old)  # at once and while it is locked: who waits for the lock finds it gone
        shutil.rmtree(old)
    return True


def _current(folder: Path) -> int:
    current = folder / "current"
    return int(current.readlink().name) if current.is_symlink() else 0
