"""What was removed stays removed: the list of it, and how a published copy is made to keep to it.

The list stands in the project, where `prepare` reads it, and beside the published copies, so that they have it where
they stand alone. What stands in either counts. It is written before the copy is changed: a kill between the two leaves
an image that is found until the next command that changes what is served, and never one that comes back.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from aecore import config
from aecore.config import UserError, WorkFailed
from aecore.counted import counted
from aecore.data.removed import Removals, Row, told
from aecore.output import tell
from aecore.search.growth import growth_folder
from aecore.search.searcher import Searcher, Source
from aecore.serve.segments import retire


def places(root: Path) -> list[Path]:
    """Where the list stands: in the project, if this is one, and beside the published copies."""
    project = [root / config.REMOVED] if (root / config.PARAMS).is_file() else []
    return [*project, root / config.SERVING / config.REMOVED.name]


def listed(root: Path) -> Removals:
    """What was removed. Raises UserError where a list cannot be read: nobody comes back for that."""
    found = Removals()
    for path in places(root):
        found |= Removals.read(path)
    return found


def record(root: Path, removals: Removals) -> None:
    """Have this list in each of its places, on the disk; needs the lock."""
    for path in places(root):
        if Removals.read(path) != removals:
            removals.write(path)


def known(root: Path) -> Removals:
    """The list, the same in each of its places after this; needs the lock.

    A copy that was served by a program without such a list has images that do not answer any more: they are listed.
    """
    removals, beside = listed(root), places(root)[-1]
    if not beside.is_file():
        removals |= Removals(_tombstones(root))
        removals.write(beside)
    for path in places(root):
        if (missing := len(removals.rows - Removals.read(path).rows)) and path.is_file():
            print(f"aecore: {missing:,} lines that {path} lacked were written there: they were removed, and not "
                  "withdrawn by `remove --withdraw`", file=sys.stderr)  # fmt: skip
    record(root, removals)
    return removals


def position(searcher: Searcher, item_id: int) -> int:
    """Position of the image that has this id, or a file with this id. Raises UserError where there is none."""
    for table in (searcher.base.images.aliases(), searcher.growth.aliases()):
        items = table["item"].to_numpy()[table["id"].to_numpy() == item_id]
        if (searcher.collection.positions(items) >= 0).any():
            return int(searcher.collection.positions(items).max())
    return searcher.collection.position(item_id)


def rows_of(searcher: Searcher, positions: np.ndarray) -> frozenset[Row]:
    """Of images at `positions` the rows of the list: one for each file that has their pixels."""
    items = searcher.collection.items(positions, ["id", "pixel_hash"])
    prepared = told(searcher.base.images.manifest.facts)
    files: dict[int, set[int]] = {item["id"]: {item["id"]} for item in items}
    for table in (searcher.base.images.aliases(), searcher.growth.aliases()):
        some = table.filter(np.isin(table["item"].to_numpy(), list(files)))
        for item, alias in zip(some["item"].to_pylist(), some["id"].to_pylist(), strict=True):
            files[item].add(alias)
    return frozenset(
        Row(item["id"], file, item["pixel_hash"], prepared) for item in items for file in files[item["id"]]
    )


def enforce(root: Path, source: Source, removals: Removals) -> int:
    """Let no image of a published copy answer that is listed, by a file's id or by its pixels; needs the lock.

    Returns how many did until now; `tidied` clears away what is left of them. Raises WorkFailed where no image would be
    left.
    """
    if not removals.rows:
        return 0
    searcher = Searcher.open(source)
    collection = searcher.collection
    ids = np.array(sorted(removals.ids), np.int64)
    hashes = removals.pixels.get(told(searcher.base.images.manifest.facts), frozenset())
    items = [np.empty(0, np.int64)]
    for table in (searcher.base.images.aliases(), searcher.growth.aliases()):
        items.append(table["item"].to_numpy()[np.isin(table["id"].to_numpy(), ids)])
    shown = collection.showing([pixel_hash.hex() for pixel_hash in sorted(hashes)])
    gone = np.unique(np.concatenate([collection.positions(np.concatenate([ids, *items])), shown]))
    gone = gone[gone >= 0]
    if not len(gone):
        return 0
    if len(gone) == collection.count:
        raise WorkFailed(
            f"all images of {source.directory} have been removed: an index of none cannot answer. "
            "`python -m aecore inspect --removed` lists them, `remove --withdraw ID` takes one back."
        )
    record(root, removals | Removals(rows_of(searcher, gone)))
    retire(source, searcher, gone)
    return len(gone)


def files_of(removals: Removals, ids: Iterable[int]) -> frozenset[int]:
    """Ids of all files of the removed images that these ids name. Raises UserError for one that names none."""
    asked = list(ids)
    for item_id in asked:
        if item_id not in removals.ids:
            raise UserError(
                f"id {item_id} was not removed: `python -m aecore inspect --removed` lists those that were."
            )
    return frozenset(row.id for row in removals.rows - removals.without(asked).rows)


def inspect_removed(as_json: bool = False, root: Path = Path()) -> None:
    """Print the images that were removed and are not withdrawn: the id, how many other files, and how prepared.

    As JSON: {"removed": [{"id": …, "ids": of all its files, "pixel_hash": …, "preparation": …}, …]}, ids are strings.
    """
    images = listed(root).images
    if as_json:
        told = [{"id": str(image), "ids": [str(row.id) for row in rows], "pixel_hash": rows[0].pixel_hash,
                 "preparation": rows[0].preparation} for image, rows in images.items()]  # fmt: skip
        tell({"removed": told})
        return
    print(f"{counted(len(images), 'removed image')}, to stay away until `remove --withdraw ID` ({places(root)[0]})")
    for image, rows in images.items():
        print(f"{image:>19}  files: {len(rows)}  prepared as {rows[0].preparation}")


def _tombstones(root: Path) -> frozenset[Row]:
    """Of the current copy the images that do not answer any more."""
    try:
        source = Source.find(root)
        if source.kind != "published" or not growth_folder(source.directory).is_dir():
            return frozenset()
        searcher = Searcher.open(source)
    except UserError as error:
        print(f"aecore: whether images had been removed cannot be told ({error})", file=sys.stderr)
        return frozenset()
    gone = searcher.collection.removed
    gone = gone[searcher.collection.positions(searcher.collection.ids(gone)) < 0]
    return rows_of(searcher, gone)
