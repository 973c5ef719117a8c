"""Mending what a published copy grew by: what is whole stays, and what is lost is said."""

from __future__ import annotations

import contextlib
import os
import sys
from itertools import count
from pathlib import Path

import numpy as np

from aecore import artifact
from aecore.artifact import Manifest
from aecore.config import UserError
from aecore.data.images import Images
from aecore.search.growth import BASE, CURRENT, Growth, commit, damaged, growth_folder, segment_path
from aecore.search.vector_index import NONE


def mend(copy: Path, index: Manifest) -> bool:
    """Where what a copy grew by is damaged, go on with what is whole of it, and say what is lost.

    Returns whether it was. Where it cannot even be told what there was, all of it is moved away.
    """
    try:
        growth = Growth.read(copy, index, deep=True)
    except UserError as error:
        _set_aside(copy, error)
        return True
    broken = damaged(copy, growth)
    if not broken:
        return False
    paths = [path for segment in broken for path in _paths_in(copy, growth, segment)]
    removed = {segment: rows for segment, rows in growth.removed.items() if segment not in broken}
    commit(copy, index, [segment for segment in growth.segments if segment not in broken], removed)
    lost = growth.counts[0] - Growth.read(copy, index).counts[0]
    print(f"aecore publish: {lost:,} images that had been added to {copy} are lost: {'; '.join(broken.values())}",
          file=sys.stderr)  # fmt: skip
    if paths:
        named = copy.parent / f"lost-{copy.name}-{growth.number:06d}.txt"
        artifact.write_text(named, "".join(f"{path}\n" for path in paths))
        print(f"aecore publish: add them again; the paths of {len(paths):,} of them are in {named}", file=sys.stderr)
    return True


def _paths_in(copy: Path, growth: Growth, segment: str) -> list[str]:
    """Paths of the images of a damaged segment that were not removed; none where its table is damaged too."""
    try:
        images = Images.open(segment_path(copy, segment) / "data")
        paths: list[str] = images.column("path").to_pylist()
    except (UserError, OSError):
        return []
    return np.delete(np.array(paths, object), growth.removed.get(segment, NONE)).tolist()


def _set_aside(copy: Path, why: UserError) -> None:
    """Move away what a copy grew by, though somebody may read it; say so, and which published images were removed."""
    folder = growth_folder(copy)
    removed = NONE
    with contextlib.suppress(OSError, ValueError, IndexError):
        removed = Images.open(copy / "data").ids()[np.load(folder / CURRENT / f"{BASE}.npy")]
    names = (folder.with_name(f"{copy.name}.damaged-{number}") for number in count(1))
    aside = next(path for path in names if not path.exists())
    os.rename(folder, aside)
    print(f"aecore publish: {why}", file=sys.stderr)
    print(f"aecore publish: so what had been added to {copy} is not found any more, and what had been removed is found "
          f"again. It was moved to {aside}: add and remove it again", end="", file=sys.stderr)  # fmt: skip
    if len(removed):
        artifact.write_text(aside / "removed.txt", "".join(f"{item_id}\n" for item_id in removed.tolist()))
        print(f"; {aside / 'removed.txt'} holds the ids that had been removed", end="", file=sys.stderr)
    print(file=sys.stderr)
