"""Paths that a person gives: image files, folders of images and archives, and the streams of entries that they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aecore.data.entry import Source, printable
from aecore.data.given import ARCHIVE_SUFFIXES
from aecore.data.items import Found
from aecore.data.trees import archive, files, folder

if TYPE_CHECKING:
    import pyarrow as pa


def streams(
    paths: Sequence[Path], max_pixels: int, types: Mapping[str, pa.DataType] | None = None
) -> Iterator[tuple[str, Source]]:
    """What the paths hold, single files together; and what the names of the entries come after.

    `max_pixels` bounds an image, as in `Preparation`; `types` are those of attributes, as far as they are known.
    Raises UserError as the sources do, when their turn comes.
    """
    limit = 8 * max_pixels + 2**20  # 16-bit RGBA, uncompressed, and its header
    single = [path for path in paths if not path.is_dir() and not path.name.lower().endswith(ARCHIVE_SUFFIXES)]
    if single:
        yield "", files(single, limit)
    for path in paths:
        if path.is_dir():
            yield f"{path}/", folder(path, limit, batches=False, split_folders="auto", types=types)
        elif path not in single:
            yield f"{path}/", archive(path, limit, batches=False, split_folders="auto")


def refused(found: Found, prefix: str) -> list[tuple[str, str]]:
    """Path, after `prefix`, and reason of each file read that is no image.

    What lies in a folder or an archive and is none by its name is passed over; what was named itself is not.
    """
    places = found.failures if prefix else range(len(found.rejected))
    return [(printable(prefix) + found.rejected[i][0], found.rejected[i][2]) for i in places]
