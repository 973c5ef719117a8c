"""Mending what a published copy grew by: what is whole stays, and what is lost is said."""

from __future__ import annotations

import dataclasses
import os
import sys
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aecore import artifact
from aecore.artifact import Manifest
from aecore.config import UserError
from aecore.data.images import ALIASES, Images, no_aliases
from aecore.data.removed import Removals
from aecore.names import legible
from aecore.search.growth import BASE, Growth, commit, damaged, generation, growth_folder, segment_path
from aecore.search.vector_index import NONE

if TYPE_CHECKING:
    import pyarrow as pa

ITEMS = "items.parquet"


def mend(copy: Path, index: Manifest, removals: Removals) -> bool:
    """Where what a copy grew by is damaged, go on with what is whole of it, and say what is lost.

    Returns whether it was. Where it cannot even be told what there was, all of it is moved away. What `removals` lists
    does not answer, whatever became of the rows that said so.
    """
    try:
        growth, unknown, aliases = _salvaged(copy, index)
    except (UserError, OSError) as error:
        _set_aside(copy, error)
        _commit(copy, index, Growth(), [], no_aliases(), removals)
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
    _commit(copy, index, growth, [segment for segment in growth.segments if segment not in broken], aliases, removals)
    return True


def lost(copy: Path, index: Manifest) -> list[str]:
    """Paths of the images that `mend` would lose, as far as they can be told. Raises as `Growth.read`."""
    growth = Growth.read(copy, index)
    return sorted(path for segment in damaged(copy, growth) for path in _paths_in(copy, growth, segment))


def _commit(
    copy: Path, index: Manifest, growth: Growth, whole: list[str], aliases: pa.Table, removals: Removals
) -> None:
    """Go on with the segments that are `whole`, less what was removed from them."""
    import pyarrow

    images = {BASE: copy / "data", **{name: segment_path(copy, name) / "data" for name in whole}}
    opened = {name: Images.open(path) for name, path in images.items()}
    files = pyarrow.concat_tables([opened[BASE].aliases(), aliases.select(["id", "path", "item"])])
    removed = {
        name: np.union1d(growth.removed.get(name, NONE), removals.among(some, files)) for name, some in opened.items()
    }
    if whole or aliases.num_rows or any(map(len, removed.values())) or growth.number:
        commit(copy, index, whole, removed, aliases)


def _salvaged(copy: Path, index: Manifest) -> tuple[Growth, dict[str, str], pa.Table]:
    """The current generation as far as its files can be read, what is wrong with the others, and its aliases.

    Raises UserError where its manifest is damaged, or another index's.
    """
    folder = generation(copy)
    if not int(folder.name):
        return Growth(), {}, no_aliases()
    manifest = artifact.load_manifest(folder, "growth")
    artifact.check_chain(index, manifest)
    unknown = {}
    for file in manifest.files:
        try:
            artifact.verify(folder, dataclasses.replace(manifest, files={file: manifest.files[file]}), deep=True)
        except (UserError, OSError) as error:
            unknown[file] = str(error)
    names = [segment for segment in manifest.facts["removed"] if f"{segment}.npy" not in unknown]
    removed = {segment: np.load(folder / f"{segment}.npy") for segment in names}
    growth = Growth(int(folder.name), manifest.facts["segments"], removed, manifest)
    return growth, unknown, no_aliases() if ALIASES in unknown else growth.aliases()


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
    print(f"aecore publish: so what had been added to {copy} is not found any more. It is moved to {aside} "
          "(segments/*/data/items.parquet there have the paths of it): add it again, then remove that folder",
          file=sys.stderr)  # fmt: skip
    os.rename(folder, aside)
