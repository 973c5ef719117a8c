"""`add` and `remove`: the published copy grows and forgets without a rebuild.

`add --json` prints one object, stable for other programs (ids are strings):

    {"source": as in `query`, "added": images that are new, "known": files that were there already,
     "duplicates": files with the pixels of an image that is there, "removed": files of images that were removed,
     "rejected": [{"path": …, "reason": …}, …], "images": how many answer now}

`remove --json`: {"source": …, "removed": number, "images": number}; with `--withdraw`: {"source": …, "withdrawn":
removals that ended, "back": of them images that answer again, "images": number}.

Every BATCH images are a step of its own: they are there for good before the next ones are read. A kill between steps
or inside one loses the step under way at most, and the same command carries on: what is there is passed over.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from aecore import artifact, config
from aecore.config import Runtime, UserError
from aecore.counted import counted
from aecore.data.entry import Source as Stream
from aecore.data.entry import printable
from aecore.data.images import Images
from aecore.data.items import Found, Kept, deduplicate, make_tables
from aecore.data.layout import named_like_splits
from aecore.data.paths import refused, streams
from aecore.data.reading import read_all
from aecore.data.removed import Removals
from aecore.embedding import Encoder
from aecore.names import legible
from aecore.output import tell
from aecore.search import drift
from aecore.search.collection import parse_id
from aecore.search.growth import growth_folder
from aecore.search.metric import IndexConfig
from aecore.search.searcher import Searcher, Source
from aecore.serve import forget
from aecore.serve.forget import Ledger
from aecore.serve.growing import Growing, streamed
from aecore.serve.lock import locked
from aecore.serve.segments import restore, retire, tidied

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 16_384
"""Files read in one step."""
SHOWN = 10
"""Files that were passed over are named, up to so many."""
ADDED = "added"
"""Split of an image that was added."""


@dataclasses.dataclass
class Outcome:
    """What `add` did."""

    added: int = 0
    known: int = 0
    duplicates: int = 0
    removed: int = 0
    """Files of images that were removed, and are not added until that is withdrawn."""
    rejected: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    """Path and reason of the files that were named, or promised to be images."""


def add(paths: Sequence[str | Path], as_json: bool = False, root: Path = Path()) -> None:
    """Encode the images at `paths` (files, folders, archives) with the published model and let them be found.

    Raises UserError where nothing is published, a path is missing, or no file is an image; WorkFailed for artefacts
    that do not belong together, and while another process changes what is served.
    """
    given = [Path(path) for path in paths]
    for path in given:
        if not path.exists():
            raise UserError(f"{path} is not there; nothing was added.")
    runtime = config.section(Runtime, "run", root / config.PARAMS)
    section = config.section(IndexConfig, "index", root / config.PARAMS)
    outcome = Outcome()
    with locked(_served(root).directory.parent):
        source = _served(root)
        print(f"aecore add: to {source}", file=sys.stderr)
        encoder = Encoder.load(source.path("model"), runtime.device)
        types = Images.open(source.path("data")).attribute_types()
        opened = list(streams(given, encoder.preparation.max_pixels, types))
        named = {name for _, stream in opened if stream.attributes for name in stream.attributes.column_names[1:]}
        if unknown := sorted(named - set(types)):
            print(
                f"aecore add: the published images have no attribute {legible(', '.join(unknown))}: left out",
                file=sys.stderr,
            )
        ledger = Ledger(root)
        ledger.enforce(source)
        copy = Growing(source, encoder)
        try:
            for prefix, stream in opened:
                with tqdm(total=stream.total, desc="add", unit=" images", mininterval=0.5, disable=None) as bar:
                    while _step(copy, prefix, stream, ledger.removals, runtime.threads, bar, outcome):
                        pass
        except BaseException:
            if outcome.added:
                print(f"aecore add: {counted(outcome.added, 'image')} added before this, for good", file=sys.stderr)
            raise
        searcher = copy.searcher
    if not (outcome.added or outcome.known or outcome.duplicates or outcome.removed):
        reason = f" ({outcome.rejected[0][0]}: {outcome.rejected[0][1]})" if outcome.rejected else ""
        raise UserError(f"no file of {', '.join(map(str, given))} is an image that can be read{reason}.")
    for name, reason in outcome.rejected[:SHOWN]:
        print(f"aecore add: passed over {legible(name)}: {legible(reason)}", file=sys.stderr)
    if len(outcome.rejected) > SHOWN:
        print(f"aecore add: and {len(outcome.rejected) - SHOWN:,} more; --json names them all", file=sys.stderr)
    if as_json:
        told = {"source": searcher.told(), **dataclasses.asdict(outcome), "images": searcher.count}
        told["rejected"] = [{"path": path, "reason": reason} for path, reason in outcome.rejected]
        tell(told)
        return
    passed = {"there already": outcome.known, "with the pixels of another": outcome.duplicates,
              "removed before": outcome.removed, "rejected": len(outcome.rejected)}  # fmt: skip
    rest = ", ".join(f"{count:,} {why}" for why, count in passed.items() if count)
    found = drift.measure(searcher, section, with_recall=False)
    for reason in found.reasons(len(searcher.base.removed) / searcher.base.size):
        print(f"aecore add: a rebuild pays (`dvc repro`, `publish`): {reason}", file=sys.stderr)
    print(f"added {counted(outcome.added, 'image')}{f' ({rest})' if rest else ''}; {searcher.count:,} answer now")


def remove(ids: Sequence[str | int], where: str | None = None, as_json: bool = False, root: Path = Path()) -> None:
    """Let the images with these ids, and those that meet the condition `where`, not be found any more.

    It holds for everything that is published from now on, until `withdraw`. Raises UserError where nothing is
    published, for an unknown id (then nothing is removed), for a condition that is none or that nothing meets, and
    where no image would be left; WorkFailed as `add`.
    """
    if not ids and where is None:
        raise UserError("there is nothing to remove: give ids, or --where CONDITION.")
    with locked(_served(root).directory.parent):
        source, ledger = _served(root), Ledger(root)
        print(f"aecore remove: from {source}", file=sys.stderr)
        before = ledger.removals.ids
        done = ledger.enforce(source)  # what a kill left undone
        searcher = Searcher.open(source)
        asked = [parse_id(item_id) for item_id in ids]
        positions = [forget.position(searcher, item_id) for item_id in asked if item_id not in before]
        if where is not None:
            met = searcher.matching(where)
            if not len(met):
                raise UserError(f"no image meets --where {where!r}; nothing was removed.")
            positions += met.tolist()
        gone = np.unique(np.array(positions, np.int64))
        if len(gone) == searcher.count:
            raise UserError("these are all the images there are: an index of none cannot answer; nothing was removed.")
        if len(gone):
            ledger.add(forget.rows_of(searcher, gone) | forget.rows_elsewhere(root, searcher, gone))
            retire(source, searcher, gone)
        del searcher  # what it holds cannot be tidied away
        searcher = tidied(source)
    if as_json:
        tell({"source": searcher.told(), "removed": done + len(gone), "images": searcher.count})
    else:
        print(f"removed {counted(done + len(gone), 'image')}; {searcher.count:,} answer now")


def withdraw(ids: Sequence[str | int], as_json: bool = False, root: Path = Path()) -> None:
    """End the removal of the images that have these ids, or files with these ids, and let them be found again.

    Raises UserError for an id that was not removed (then nothing is withdrawn), WorkFailed as `add`.
    """
    with locked(_served(root).directory.parent):
        source, ledger = _served(root), Ledger(root)
        asked = [parse_id(item_id) for item_id in ids]
        for item_id in asked:
            if item_id not in ledger.removals.ids:
                raise UserError(f"id {item_id} was not removed: `python -m aecore inspect --removed` lists what was.")
        ended, back = ledger.removals.together(asked), 0
        for copy in source.directory.parent.iterdir():
            if (copy / artifact.MANIFEST).is_file() and not copy.is_symlink() and growth_folder(copy).is_dir():
                back_here = _restored(Source("published", copy), ended.ids)
                back = back_here if copy == source.directory else back
        ledger.drop(ended)
        ledger.enforce(source)  # what a kill left undone
        searcher = tidied(source)
    withdrawn = len(ended.images)
    if back < withdrawn:
        print("aecore remove: the others are not in this copy any more: `python -m aecore add FILE` brings one back "
              "now, the next `dvc repro` and `publish` those that lie in data.path", file=sys.stderr)  # fmt: skip
    if as_json:
        tell({"source": searcher.told(), "withdrawn": withdrawn, "back": back, "images": searcher.count})
    else:
        print(f"withdrew {counted(withdrawn, 'removal')}; {back:,} found again; {searcher.count:,} answer now")


def _restored(copy: Source, files: frozenset[int]) -> int:
    """How many images of a published copy answer again; a damaged one is left as it is."""
    try:
        return restore(copy, Searcher.open(copy), np.array(sorted(files), np.int64))
    except UserError as error:
        print(f"aecore remove: {copy} stays as it is: {error}", file=sys.stderr)
        return 0


def _served(root: Path) -> Source:
    source = Source.find(root)
    if source.kind != "published":
        raise UserError(
            "nothing is published: run `python -m aecore publish` first (the workspace grows by `dvc repro`)."
        )
    return source


def _step(copy: Growing, prefix: str, stream: Stream, removals: Removals, threads: int, bar: tqdm[Any],
          outcome: Outcome) -> bool:  # fmt: skip
    """Add the next BATCH entries of the stream as a segment; False where there were none left."""
    preparation = copy.encoder.preparation
    artifact.make_directory(growth_folder(copy.source.directory))
    with tempfile.TemporaryFile(dir=growth_folder(copy.source.directory)) as pixels:
        known = lambda item_id: bool(copy.searcher.collection.positions(np.array([item_id]))[0] >= 0)  # noqa: E731
        found = read_all(islice(stream.entries, BATCH), preparation, threads, pixels, bar, known, removals)
        pixels.flush()
        outcome.known += found.known
        outcome.removed += len(found.removed)
        outcome.rejected += refused(found, prefix)
        if not (found.files or found.rejected or found.removed):
            return False
        kept, before = deduplicate(found), copy.added
        gone = len(found.paths) - len(kept.items) - len(kept.aliases)  # by the pixels of one that was removed
        outcome.removed += gone
        try:
            items, aliases = _tables(found, kept, stream, prefix, copy.searcher)
            copy.add(items, streamed(pixels, kept.items, preparation.shape), aliases)
        finally:
            outcome.added += copy.added - before
        outcome.duplicates += len(found.paths) - gone - (copy.added - before)
    return True


def _tables(found: Found, kept: Kept, stream: Stream, prefix: str, searcher: Searcher) -> tuple[pa.Table, pa.Table]:
    """The tables of the kept items and of their aliases; labels are those of the base, as far as it has them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    tables = make_tables(found, kept, [ADDED] * len(kept.items), [len(kept.items)], stream)[0]
    for name in ("items", "aliases"):
        paths = pc.binary_join_element_wise(pa.scalar(printable(prefix)), tables[name]["path"], "")
        tables[name] = tables[name].set_column(tables[name].column_names.index("path"), "path", paths)
    items, names = tables["items"], searcher.base.images.label_names or []
    paths = [path.removeprefix(printable(prefix)) for path in items["path"].to_pylist()]
    below = searcher.base.images.split_folders != "never" and named_like_splits(stream.top_folders or ())
    labels = [_label(path, names, stream.packed, below) if prefix else None for path in paths]
    items = items.set_column(items.column_names.index("label_name"), "label_name", pa.array(labels, pa.string()))
    return items, tables["aliases"]


def _label(path: str, names: Sequence[str], packed: bool, below: bool) -> str | None:
    """The first folder on the path that is a label already; else the first folder of a tree, none of an archive.

    With `below`, the top folder is a split's and no label.
    """
    folders = PurePosixPath(path).parts[:-1][below:]
    known = [name for name in folders if name in names]
    return known[0] if known else folders[0] if folders and not packed else None
