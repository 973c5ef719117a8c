"""What was removed stays removed: the list of it, and how a published copy is made to keep to it.

The list stands in the project, where `prepare` reads it, and beside the published copies, so that they have it where
they stand alone. What stands in either counts. It is written before a copy is changed: a kill between the two leaves
an image that is found until the next command that changes what is served, and never one that comes back.
"""

from __future__ import annotations

import functools
import operator
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from aecore import artifact, config
from aecore.config import UserError, WorkFailed
from aecore.counted import counted
from aecore.data.decode import content_id
from aecore.data.items import pixel_hash
from aecore.data.paths import entries_at
from aecore.data.reading import read_all
from aecore.data.removed import Removals, Row, parsed, told
from aecore.data.sources import SourceConfig
from aecore.output import tell
from aecore.search.growth import growth_folder
from aecore.search.searcher import Searcher, Source
from aecore.serve.segments import retire


class Ledger:
    """The list in all its places, which are the same from now on; whoever has one holds the lock."""

    def __init__(self, root: Path) -> None:
        """Read it. Raises UserError where a place of it cannot be read: nobody comes back for that.

        A folder that was served by a program without such a list has images that do not answer: they are listed.
        """
        self.root, self.places = root, places(root)
        there = {path: Removals.read(path) for path in self.places}
        self.removals = functools.reduce(operator.or_, there.values())
        if not self.places[-1].is_file():
            self.removals |= Removals(frozenset(_tombstones(root)))
            self.removals.write(self.places[-1])
        for path, found in there.items():
            if found != self.removals:
                self.removals.write(path)
                if path.is_file() and path != self.places[-1] and found.rows:
                    missing = counted(len((self.removals - found).rows), "line")
                    print(f"aecore: {path} lacked {missing} of what was removed and not withdrawn by `remove "
                          "--withdraw`: written there again", file=sys.stderr)  # fmt: skip

    def add(self, rows: Iterable[Row]) -> None:
        """Write more rows, on the disk before this returns."""
        self._become(self.removals | Removals(frozenset(rows)))

    def drop(self, rows: Removals) -> None:
        """Take rows out, on the disk before this returns."""
        self._become(self.removals - rows)

    def enforce(self, source: Source) -> int:
        """Let no image of a published copy answer that is listed, by a file's id or by its pixels.

        Returns how many did until now; `tidied` clears away what is left of them. Raises WorkFailed where no image
        would be left.
        """
        if not self.removals.rows:
            return 0
        searcher = Searcher.open(source)
        collection, aliases = searcher.collection, searcher.aliases()
        starts = collection.starts.tolist()
        rows = [self.removals.among(segment.images, aliases) for segment in collection.segments]
        gone = collection.answering(np.concatenate([start + some for start, some in zip(starts, rows, strict=False)]))
        if not len(gone):
            return 0
        if len(gone) == collection.count:
            raise WorkFailed(
                f"all images of {source.directory} have been removed: an index of none cannot answer. "
                "`python -m aecore inspect --removed` lists them, `remove --withdraw ID` takes one back."
            )
        self.add(rows_of(searcher, gone))  # files of theirs that were not known to be
        retire(source, searcher, gone)
        return len(gone)

    def _become(self, removals: Removals) -> None:
        if removals != self.removals:
            for path in self.places:
                removals.write(path)
            self.removals = removals


def places(root: Path) -> list[Path]:
    """Where the list stands: in the project, if this is one, and beside the published copies."""
    project = [root / config.REMOVED] if (root / config.PARAMS).is_file() else []
    return [*project, root / config.SERVING / config.REMOVED.name]


def listed(root: Path) -> Removals:
    """What stands in any place of the list. Raises UserError where one cannot be read."""
    found = Removals()
    for path in places(root):
        found |= Removals.read(path)
    return found


def position(searcher: Searcher, item_id: int) -> int:
    """Position of the image that has this id, or a file with this id. Raises UserError where there is none."""
    aliases = searcher.aliases()
    items = aliases["item"].to_numpy()[aliases["id"].to_numpy() == item_id]
    found = searcher.collection.positions(items)
    return int(found.max()) if (found >= 0).any() else searcher.collection.position(item_id)


def rows_of(searcher: Searcher, positions: np.ndarray) -> set[Row]:
    """Of images at `positions` the rows of the list: one for each file that has their pixels."""
    items = searcher.collection.items(positions, ["id", "pixel_hash"])
    prepared = told(searcher.base.images.manifest.facts)
    files: dict[int, set[int]] = {item["id"]: {item["id"]} for item in items}
    aliases = searcher.aliases()
    some = aliases.filter(np.isin(aliases["item"].to_numpy(), list(files)))
    for item, alias in zip(some["item"].to_pylist(), some["id"].to_pylist(), strict=True):
        files[item].add(alias)
    return {Row(item["id"], file, item["pixel_hash"], prepared) for item in items for file in files[item["id"]]}


def rows_elsewhere(root: Path, searcher: Searcher, positions: np.ndarray) -> set[Row]:
    """Rows that tell images by their pixels as the copies that are kept, and the workspace, prepare images.

    Only of those whose files are where they were; empty where all prepare them as `searcher`'s copy does.
    """
    found = set[Row]()
    serving = searcher.source.directory.parent
    facts = [artifact.load_manifest(path, "data").facts
             for path in (*serving.glob("*/data"), root / config.PREPARED) if (path / artifact.MANIFEST).is_file()
             and not path.parent.is_symlink()]  # fmt: skip
    others = {told(some): some["max_pixels"] for some in facts}
    others.pop(told(searcher.base.images.manifest.facts), None)
    if not others:
        return found
    items = searcher.collection.items(positions, ["id", "path", "split"])
    wanted = {item["id"] for item in items}
    raw = _raw(root)
    paths = [item["path"] if item["split"] == "added" else f"{raw}/{item['path']}" for item in items]
    for table, above in ((searcher.base.images.aliases(), f"{raw}/"), (searcher.growth.aliases(), "")):
        files = table.filter(np.isin(table["item"].to_numpy(), [item["id"] for item in items]))
        wanted |= set(files["id"].to_pylist())
        paths += [f"{above}{path}" for path in files["path"].to_pylist()]
    for preparation, max_pixels in others.items():
        for entries in entries_at(root, paths, max_pixels):
            with tempfile.TemporaryFile() as pixels, tqdm(disable=True) as bar:
                read = read_all(entries, parsed(preparation, max_pixels), 1, pixels, bar, lambda x: x not in wanted)
            for place in range(len(read.paths)):
                item_id = content_id(bytes(read.sha256[32 * place : 32 * place + 32]))
                found.add(Row(item_id, item_id, pixel_hash(read, place), preparation))
    return found


def inspect_removed(as_json: bool = False, root: Path = Path()) -> None:
    """Print the images that were removed and are not withdrawn: the id, how many files, and how they were prepared.

    As JSON: {"removed": [{"id": …, "ids": of all its files, "pixels": [{"preparation": …, "hash": …}, …]}, …]}; ids
    are strings.
    """
    images = listed(root).images
    if as_json:
        tell({"removed": [
            {"id": str(image), "ids": sorted({str(row.id) for row in rows}),
             "pixels": [{"preparation": preparation, "hash": pixels}
                        for preparation, pixels in sorted({(row.preparation, row.pixel_hash) for row in rows})]}
            for image, rows in images.items()
        ]})  # fmt: skip
        return
    print(f"{counted(len(images), 'removed image')}, to stay away until `remove --withdraw ID` ({places(root)[0]})")
    for image, rows in images.items():
        prepared = ", ".join(sorted({row.preparation for row in rows}))
        print(f"{image:>19}  {counted(len({row.id for row in rows}), 'file')}, prepared as {prepared}")


def _raw(root: Path) -> str:
    """`data.path`; empty where this is no project, or none in order."""
    try:
        return config.section(SourceConfig, "data", root / config.PARAMS).path
    except UserError:
        return ""


def _tombstones(root: Path) -> set[Row]:
    """Of all copies the images that do not answer any more, unless they, or their pixels, were added again since."""
    found, again = set[Row](), set[Row]()
    current = (root / config.SERVING / "current").resolve().name
    for copy in sorted((root / config.SERVING).glob("*")):
        if growth_folder(copy).is_dir():
            try:
                searcher = Searcher.open(Source("published", copy))
                rows = rows_of(searcher, searcher.collection.removed)
            except UserError as error:
                print(f"aecore: whether images had been removed from {copy} cannot be told ({error})", file=sys.stderr)
                continue
            found |= rows - _added_again(rows, searcher)
            again = _added_again(found, searcher) if copy.name == current else again
    return found - again


def _added_again(rows: set[Row], searcher: Searcher) -> set[Row]:
    """Those rows whose image answers from a segment that was added: somebody wanted it back."""
    prepared = told(searcher.base.images.manifest.facts)
    listed = sorted(rows)
    ids = searcher.collection.positions(np.array([row.id for row in listed], np.int64)) >= searcher.base.size
    hashes = sorted({row.pixel_hash for row in listed if row.preparation == prepared})
    shown = searcher.collection.showing(hashes) >= searcher.base.size
    pixels = {name for name, answers in zip(hashes, shown.tolist(), strict=True) if answers}
    return {row for row, answers in zip(listed, ids.tolist(), strict=True)
            if answers or (row.preparation == prepared and row.pixel_hash in pixels)}  # fmt: skip
