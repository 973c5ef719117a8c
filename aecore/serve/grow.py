"""`add` and `remove`: the published copy grows and forgets without a rebuild.

`add --json` prints one object, stable for other programs (ids are strings):

    {"source": as in `query`, "added": images that are new, "known": files that were there already,
     "duplicates": files with the pixels of an image that is there, "rejected": [{"path": …, "reason": …}, …],
     "images": how many answer now}

`remove --json`: {"source": …, "removed": number, "images": number}.

Every BATCH images are a step of its own: they are there for good before the next ones are read. A kill between steps
or inside one loses the step under way at most, and the same command carries on: what is there is passed over.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from aecore import artifact, config
from aecore.config import Runtime, UserError
from aecore.data.entry import Source as Stream
from aecore.data.entry import printable
from aecore.data.images import Images
from aecore.data.items import Found, Kept, deduplicate, make_tables
from aecore.data.paths import refused, streams
from aecore.data.reading import read_all
from aecore.embedding import Encoder
from aecore.names import legible
from aecore.search import drift
from aecore.search.collection import parse_id
from aecore.search.growth import growth_folder
from aecore.search.metric import IndexConfig
from aecore.search.searcher import Searcher, Source
from aecore.serve.lock import locked
from aecore.serve.segments import append, retire, tidied

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
        searcher = Searcher.open(source, encoder.manifest)
        try:
            for prefix, stream in opened:
                with tqdm(total=stream.total, desc="add", unit=" images", mininterval=0.5, disable=None) as bar:
                    while _step(source, searcher, encoder, prefix, stream, runtime.threads, bar, outcome):
                        del searcher  # what it holds cannot be tidied away
                        searcher = tidied(source, encoder.manifest)
        except BaseException:
            if outcome.added:
                print(f"aecore add: {outcome.added:,} images were added before this, for good", file=sys.stderr)
            raise
    if not (outcome.added or outcome.known or outcome.duplicates):
        reason = f" ({outcome.rejected[0][0]}: {outcome.rejected[0][1]})" if outcome.rejected else ""
        raise UserError(f"no file of {', '.join(map(str, given))} is an image that can be read{reason}.")
    for name, reason in outcome.rejected[:SHOWN]:
        print(f"aecore add: passed over {legible(name)}: {legible(reason)}", file=sys.stderr)
    if len(outcome.rejected) > SHOWN:
        print(f"aecore add: and {len(outcome.rejected) - SHOWN:,} more; --json names them all", file=sys.stderr)
    if as_json:
        told = {"source": searcher.told(), **dataclasses.asdict(outcome), "images": searcher.count}
        told["rejected"] = [{"path": path, "reason": reason} for path, reason in outcome.rejected]
        print(json.dumps(told, indent=2))
        return
    passed = {"there already": outcome.known, "with the pixels of another": outcome.duplicates,
              "rejected": len(outcome.rejected)}  # fmt: skip
    rest = ", ".join(f"{count:,} {why}" for why, count in passed.items() if count)
    found = drift.measure(searcher, section, with_recall=False)
    for reason in found.reasons(len(searcher.base.removed) / searcher.base.size):
        print(f"aecore add: a rebuild pays (`dvc repro`, `publish`): {reason}", file=sys.stderr)
    print(f"added {outcome.added:,} images{f' ({rest})' if rest else ''}; {searcher.count:,} answer now")


def remove(ids: Sequence[str | int], where: str | None = None, as_json: bool = False, root: Path = Path()) -> None:
    """Let the images with these ids, and those that meet the condition `where`, not be found any more.

    Raises UserError where nothing is published, for an unknown id (then nothing is removed), for a condition that is
    none or that nothing meets, and where no image would be left; WorkFailed as `add`.
    """
    if not ids and where is None:
        raise UserError("there is nothing to remove: give ids, or --where CONDITION.")
    with locked(_served(root).directory.parent):
        source = _served(root)
        print(f"aecore remove: from {source}", file=sys.stderr)
        searcher = Searcher.open(source)
        collection = searcher.collection
        positions = [collection.position(parse_id(item_id)) for item_id in ids]
        if where is not None:
            met = searcher.matching(where)
            if not len(met):
                raise UserError(f"no image meets --where {where!r}; nothing was removed.")
            positions += met.tolist()
        gone = np.unique(positions)
        if len(gone) == searcher.count:
            raise UserError("these are all the images there are: an index of none cannot answer; nothing was removed.")
        retire(source, searcher, gone)
        del searcher, collection  # what they hold cannot be tidied away
        searcher = tidied(source)
    if as_json:
        print(json.dumps({"source": searcher.told(), "removed": len(gone), "images": searcher.count}, indent=2))
    else:
        print(f"removed {len(gone):,} images; {searcher.count:,} answer now")


def _served(root: Path) -> Source:
    source = Source.find(root)
    if source.kind != "published":
        raise UserError(
            "nothing is published: run `python -m aecore publish` first (the workspace grows by `dvc repro`)."
        )
    return source


def _step(
    source: Source,
    searcher: Searcher,
    encoder: Encoder,
    prefix: str,
    stream: Stream,
    threads: int,
    bar: tqdm[Any],
    outcome: Outcome,
) -> bool:
    """Add the next BATCH entries of the stream as a segment; False where there were none left."""
    collection = searcher.collection
    artifact.make_directory(growth_folder(source.directory))
    with tempfile.TemporaryFile(dir=growth_folder(source.directory)) as pixels:
        known = lambda item_id: bool(collection.positions(np.array([item_id]))[0] >= 0)  # noqa: E731
        entries = islice(stream.entries, BATCH)
        found = read_all(entries, encoder.preparation, threads, pixels, bar, known)
        pixels.flush()
        outcome.known += found.known
        outcome.rejected += refused(found, prefix)
        if not found.files and not found.rejected:
            return False
        kept = deduplicate(found)
        new = kept.items[~collection.shows([_hex(found, place) for place in kept.items.tolist()])]
        outcome.duplicates += len(found.paths) - len(new)
        if len(new):
            items = _items(found, dataclasses.replace(kept, items=new), stream, prefix, searcher)
            append(source, searcher, items, _blocks(pixels, new, encoder))
            outcome.added += len(new)
    return True


def _items(found: Found, kept: Kept, stream: Stream, prefix: str, searcher: Searcher) -> pa.Table:
    """The table of the kept items, with the base's columns."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = make_tables(found, kept, [ADDED] * len(kept.items), [len(kept.items)], stream)[0]["items"]
    names = searcher.base.images.label_names or []
    labels = [_label(path, names, stream.packed) if prefix else None for path in table["path"].to_pylist()]
    columns = {
        "path": pc.binary_join_element_wise(pa.scalar(printable(prefix)), table["path"], ""),
        "label": pa.array([names.index(label) if label in names else None for label in labels], pa.int32()),
        "label_name": pa.array(labels, pa.string()),
    }
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column)
    schema = searcher.base.images.schema
    return pa.table(
        {
            field.name: table[field.name].cast(field.type)
            if field.name in table.column_names
            else pa.nulls(len(table), field.type)
            for field in schema
        }
    )


def _label(path: str, names: Sequence[str], packed: bool) -> str | None:
    """The first folder on the path that is a label already; else the first folder of a tree, none of an archive."""
    folders = PurePosixPath(path).parts[:-1]
    known = [name for name in folders if name in names]
    return known[0] if known else folders[0] if folders and not packed else None


def _blocks(pixels: IO[bytes], places: np.ndarray, encoder: Encoder) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images at `places` of the file, uint8 (n, C, H, W), and their codes, a batch at a time."""
    each = math.prod(encoder.shape)
    waiting: deque[np.ndarray] = deque()

    def read() -> Iterator[np.ndarray]:
        for start in range(0, len(places), encoder.batch_size):
            some = places[start : start + encoder.batch_size].tolist()
            content = b"".join(os.pread(pixels.fileno(), each, place * each) for place in some)
            waiting.append(np.frombuffer(content, np.uint8).reshape(len(some), *encoder.shape))
            yield waiting[-1]

    for codes in encoder.encode_stream(read()):
        yield waiting.popleft(), codes


def _hex(found: Found, place: int) -> str:
    return found.pixel_hash[32 * place : 32 * place + 32].hex()
