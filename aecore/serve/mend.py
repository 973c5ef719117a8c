"""Mending what a published copy grew by: what is whole stays, and what is lost is said."""

from __future__ import annotations

import dataclasses
import os
import sys
from itertools import count
from pathlib import Path

import numpy as np

from aecore import artifact
from aecore.artifact import Manifest
from aecore.config import UserError
from aecore.data.images import Images
from aecore.names import legible
from aecore.search.growth import BASE, Growth, commit, damaged, generation, growth_folder, segment_path
from aecore.search.vector_index import NONE

ITEMS = "items.parquet"


def mend(copy: Path, index: Manifest) -> bool:
    """Where what a copy grew by is damaged, go on with what is whole of it, and say what is lost.

    Returns whether it was. Where it cannot even be told what there was, all of it is moved away.
    """
    try:
        growth, unknown = _salvaged(copy, index)
    except (UserError, OSError) as error:
        _set_aside(copy, error)
        return True
    broken = damaged(copy, growth)
    if not (broken or unknown):
        return False
    paths = [path for segment in broken for path in _paths_in(copy, growth, segment)]
    named = copy.parent / f"lost-{copy.name}-{growth.number:06d}.txt"
    for reason in (*broken.values(), *unknown.values()):
        print(f"aecore publish: {reason}", file=sys.stderr)
    if broken:
        print(f"aecore publish: images that had been added to {copy} are lost", end="", file=sys.stderr)
        print(f"; add them again: {named} has {len(paths):,} of their paths" if paths else "", file=sys.stderr)
    if paths:
        artifact.write_text(named, "".join(f"{legible(path)}\n" for path in paths))
    again = sum(growth.manifest.facts["removed"][segment] for segment in unknown) if growth.manifest else 0
    if again:
        print(f"aecore publish: {again:,} images that had been removed are found again: remove them again",
              file=sys.stderr)  # fmt: skip
    whole = [segment for segment in growth.segments if segment not in broken]
    commit(copy, index, whole, {name: rows for name, rows in growth.removed.items() if name in (BASE, *whole)})
    return True


def _salvaged(copy: Path, index: Manifest) -> tuple[Growth, dict[str, str]]:
    """The current generation as far as its rows removed can be told, and of which segments they cannot, and why not.

    Raises UserError where its manifest is damaged, or another index's.
    """
    folder = generation(copy)
    if not int(folder.name):
        return Growth(), {}
    manifest = artifact.load_manifest(folder, "growth")
    artifact.check_chain(index, manifest)
    removed, unknown = {}, {}
    for segment in manifest.facts["removed"]:
        file = f"{segment}.npy"
        try:
            artifact.verify(folder, dataclasses.replace(manifest, files={file: manifest.files[file]}), deep=True)
            removed[segment] = np.load(folder / file)
        except (UserError, OSError) as error:
            unknown[segment] = str(error)
    return Growth(int(folder.name), manifest.facts["segments"], removed, manifest), unknown


def _paths_in(copy: Path, growth: Growth, segment: str) -> list[str]:
    """Paths of the images of a damaged segment that were not removed; none where its table is not whole."""
    folder = segment_path(copy, segment)
    try:
        index, data = artifact.load_manifest(folder / "index", "index"), artifact.load_manifest(folder / "data", "data")
        growth.check(segment, index)
        artifact.check_chain(index, data)
        artifact.verify(folder / "data", dataclasses.replace(data, files={ITEMS: data.files[ITEMS]}), deep=True)
    except (UserError, OSError):
        return []
    paths = np.array(Images(folder / "data", data).column("path").to_pylist(), object)
    return np.delete(paths, growth.removed.get(segment, NONE)).tolist()


def _set_aside(copy: Path, why: Exception) -> None:
    """Move away what a copy grew by, and say so; who reads it finds it gone."""
    folder = growth_folder(copy)
    names = (folder.with_name(f"{copy.name}.damaged-{number}") for number in count(1))
    aside = next(path for path in names if not path.exists())
    print(f"aecore publish: {why}", file=sys.stderr)
    print(f"aecore publish: so what had been added to {copy} is not found any more, and what had been removed is found "
          f"again. It is moved to {aside} (segments/*/data/items.parquet there have the paths and ids of what had been "
          "added): add and remove it again, then remove that folder", file=sys.stderr)  # fmt: skip
    os.rename(folder, aside)
