"""`Growth`: what a published copy has gained and lost since it was made, as a chain of generations.

    serving/grown/<id>/segments/000001/    a segment: data/ embeddings/ index/ (see `aecore.search.segment`)
    serving/grown/<id>/000007/             a generation: which segments there are, and the rows removed from each
    serving/grown/<id>/current             symbolic link to the generation that counts, switched in one rename

Nothing here is ever changed, only replaced: the copy itself stays what was published. A kill at any time leaves
`current` at the old generation or at the new one. The generation before stays, with its segments, for those who just
opened it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aecore import artifact
from aecore.artifact import Manifest

BASE = "base"
"""Name of the segment that was published."""


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

    @classmethod
    def read(cls, copy: Path, index: Manifest) -> Growth:
        """The current generation of a published copy, which must have grown from this `index`.

        Raises as `artifact.read_manifest` does, and WorkFailed naming both digests where it grew from another.
        """
        number = _current(growth_folder(copy))
        if not number:
            return cls()
        generation = growth_folder(copy) / f"{number:06d}"
        manifest = artifact.read_manifest(generation, "growth")
        artifact.check_chain(index, manifest)
        removed = {segment: np.load(generation / f"{segment}.npy") for segment in manifest.facts["removed"]}
        return cls(number, manifest.facts["segments"], removed, manifest)

    @property
    def counts(self) -> tuple[int, int]:
        """Images that were added and are there, and images of the base that were removed."""
        if self.manifest is None:
            return 0, 0
        facts = self.manifest.facts
        gone: dict[str, int] = dict(facts["removed"])
        base = gone.pop(BASE, 0)
        return facts["added"] - sum(gone.values()), base


def growth_folder(copy: Path) -> Path:
    """Where the growth of a published copy lies."""
    return copy.parent / "grown" / copy.name


def segment_path(copy: Path, name: str) -> Path:
    """Folder of a segment that was added."""
    return growth_folder(copy) / "segments" / name


def new_segment(copy: Path) -> str:
    """The next free name; the caller holds the lock."""
    folder = growth_folder(copy) / "segments"
    taken = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()] if folder.is_dir() else []
    return f"{1 + max(taken, default=0):06d}"


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
    temporary = folder / ".current.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(name, target_is_directory=True)
    os.replace(temporary, folder / "current")
    artifact.fsync(folder)


def sweep(copy: Path) -> None:
    """Remove what neither the current generation nor the one before refers to; the caller holds the lock."""
    folder = growth_folder(copy)
    if not folder.is_dir():
        return
    kept = {f"{number:06d}" for number in (_current(folder) - 1, _current(folder))}
    used: set[str] = set()
    for name in kept:
        if (folder / name / artifact.MANIFEST).is_file():
            used |= set(artifact.read_manifest(folder / name, "growth").facts["segments"])
    stale = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    stale = [path for path in stale if path.name not in kept | {"segments"}]
    if (folder / "segments").is_dir():
        stale += [path for path in (folder / "segments").iterdir() if path.name not in used]
    for path in stale:
        shutil.rmtree(path)


def verify(copy: Path, growth: Growth) -> None:
    """Compare every file of the growth with its manifests, byte by byte. Raises WorkFailed naming one that differs."""
    if growth.manifest is None:
        return
    artifact.verify(growth_folder(copy) / f"{growth.number:06d}", growth.manifest, deep=True)
    for name in growth.segments:
        for kind in ("data", "embeddings", "index"):
            path = segment_path(copy, name) / kind
            artifact.verify(path, artifact.read_manifest(path, kind), deep=True)


def _current(folder: Path) -> int:
    current = folder / "current"
    return int(current.readlink().name) if current.is_symlink() else 0
