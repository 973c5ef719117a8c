"""What was added to a published copy goes with the next one, encoded anew by that one's model.

Where both prepare images in the same way, the pixels that were kept are encoded; else the file is read again, if it is
where it was and has its id still. What the new copy has already, and what was removed, is left out.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from aecore import artifact
from aecore.config import Runtime, UserError
from aecore.data.entry import Entry
from aecore.data.given import ARCHIVE_SUFFIXES
from aecore.data.images import Images
from aecore.data.items import deduplicate, pixel_hash
from aecore.data.reading import read_all
from aecore.data.removed import Removals, told
from aecore.data.trees import archive, files
from aecore.embedding import Encoder
from aecore.search.growth import Growth, segment_path
from aecore.search.searcher import Source
from aecore.search.vector_index import NONE
from aecore.serve.growing import Growing, streamed

BATCH = 16_384
"""Images carried over in one step."""


def carry(root: Path, old: Path, new: Source, removals: Removals, runtime: Runtime) -> tuple[int, list[str]]:
    """Add to the copy `new` what had been added to the copy `old` and is not in it; needs the lock.

    Returns how many images that were, and the paths of those that it cannot have. Every BATCH images are a step of its
    own, and what is there is passed over, so that it carries on after a kill. Relative paths are looked up in `root`.
    Raises UserError where what `old` grew by cannot be read.
    """
    growth = Growth.read(old, artifact.read_manifest(old / "index", "index"))
    if not growth.segments:
        return 0, []
    copy = Growing(new, Encoder.load(new.path("model"), runtime.device))
    behind: list[str] = []
    for images, rows in _added(old, growth):
        ids = images.ids()[rows]
        rows = rows[copy.lacks(ids) & ~np.isin(ids, list(removals.ids))]
        if told(images.manifest.facts) == told(copy.encoder.preparation):
            _from_pixels(images, rows, copy)
        else:
            behind += _from_files(root, images, rows, copy, removals, runtime.threads)
    return copy.added, behind


def added_ids(copy: Path) -> np.ndarray:
    """Ids of the images that were added to a copy and answer there, int64. Raises as `carry`."""
    growth = Growth.read(copy, artifact.read_manifest(copy / "index", "index"))
    return np.concatenate([np.empty(0, np.int64), *(images.ids()[rows] for images, rows in _added(copy, growth))])


def _added(copy: Path, growth: Growth) -> Iterator[tuple[Images, np.ndarray]]:
    """The images of each segment that was added, and the rows that answer, int64 ascending."""
    for name in growth.segments:
        images = Images.open(segment_path(copy, name) / "data")
        yield images, np.setdiff1d(np.arange(images.count), growth.removed.get(name, NONE))


def _from_pixels(images: Images, rows: np.ndarray, copy: Growing) -> None:
    """Carry over the images at `rows` of a segment by the pixels that it keeps."""
    import pyarrow as pa

    for start in range(0, len(rows), BATCH):
        some = rows[start : start + BATCH]
        copy.add(pa.concat_tables(images.tables(some)), partial(_rows, images, some))


def _rows(images: Images, rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    return images.rows(rows[places])


def _from_files(
    root: Path, images: Images, rows: np.ndarray, copy: Growing, removals: Removals, threads: int
) -> list[str]:
    """Carry over the images at `rows` of a segment from their files; returns the paths of those that are lost."""
    import pyarrow as pa

    if not len(rows):
        return []
    table, preparation = pa.concat_tables(images.tables(rows)), copy.encoder.preparation
    paths, left = table["path"].to_pylist(), {item_id: row for row, item_id in enumerate(table["id"].to_pylist())}
    with tqdm(total=len(paths), desc="carry over", unit=" images", mininterval=0.5, disable=None) as bar:
        for entries in _opened(root, paths, preparation.max_pixels):
            while some := list(islice(entries, BATCH)):
                with tempfile.TemporaryFile(dir=copy.source.directory.parent) as pixels:
                    found = read_all(some, preparation, threads, pixels, bar, lambda name: name not in left, removals)
                    pixels.flush()
                    kept = deduplicate(found)
                    old = np.array([left[item_id] for item_id in kept.ids.tolist()], np.int64)  # rows of the table
                    hashes = pa.array([pixel_hash(found, place) for place in kept.items.tolist()], pa.string())
                    items = table.take(old[kept.items])
                    items = items.set_column(items.column_names.index("pixel_hash"), "pixel_hash", hashes)
                    stands = pa.array(kept.ids[kept.item_of[kept.aliases]])
                    aliases = table.take(old[kept.aliases]).append_column("item", stands)
                    copy.add(items, streamed(pixels, kept.items, preparation.shape), aliases)
                    for item_id in [*found.removed, *kept.ids.tolist()]:
                        left.pop(item_id, None)
    return [paths[row] for row in left.values()]


def _opened(root: Path, paths: list[str], max_pixels: int) -> Iterator[Iterator[Entry]]:
    """The files at these paths, as far as they are there, and the members of each archive that are named so."""
    single, packed = list[Path](), dict[Path, set[str]]()
    for path in paths:
        inside = next((folder for folder in Path(path).parents if _is_archive(root / folder)), None)
        if inside is not None:
            packed.setdefault(root / inside, set()).add(path.removeprefix(f"{inside}/"))
        elif (root / path).is_file():
            single.append(root / path)
    limit = 8 * max_pixels + 2**20  # 16-bit RGBA, uncompressed, and its header
    yield files(single, limit).entries
    for file, members in packed.items():
        yield _members(file, members, limit)


def _members(file: Path, names: set[str], limit: int) -> Iterator[Entry]:
    """The members of an archive that have these names, up to where it is damaged."""
    with contextlib.suppress(UserError):
        yield from (
            entry for entry in archive(file, limit, batches=False, split_folders="never").entries if entry.path in names
        )


def _is_archive(path: Path) -> bool:
    return path.name.lower().endswith(ARCHIVE_SUFFIXES) and path.is_file()
