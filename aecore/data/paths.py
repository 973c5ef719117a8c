"""Paths that a person gives: image files, folders of images and archives, and the streams of entries that they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from aecore.data.entry import Source
from aecore.data.trees import ARCHIVE_SUFFIXES, archive, files, folder


def streams(paths: Sequence[Path], max_pixels: int) -> Iterator[tuple[str, Source]]:
    """What the paths hold, single files together; and what the names of the entries come after.

    `max_pixels` bounds an image, as in `Preparation`. Raises UserError as the sources do, when their turn comes.
    """
    limit = 8 * max_pixels + 2**20  # 16-bit RGBA, uncompressed, and its header
    single = [path for path in paths if not path.is_dir() and not path.name.lower().endswith(ARCHIVE_SUFFIXES)]
    if single:
        yield "", files(single, limit)
    for path in paths:
        if path.is_dir():
            yield f"{path}/", folder(path, limit, batches=False)
        elif path not in single:
            yield f"{path}/", archive(path, limit, batches=False)
