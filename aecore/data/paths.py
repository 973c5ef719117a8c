"""Paths that a person gives: image files, folders of images and archives, and the streams of entries that they are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aecore.config import UserError
from aecore.data.decode import most_bytes
from aecore.data.entry import Entry, Source, printable
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
    limit = most_bytes(max_pixels)
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


def entries_at(root: Path, paths: Iterable[str], max_pixels: int) -> Iterator[Iterator[Entry]]:
    """What lies at paths as images were once given: files, together, and of each archive the members named so.

    Relative ones are looked up in `root`; what is not there any more, or lies in an archive damaged by now, is not
    among them. `max_pixels` as in `streams`.
    """
    single, packed = list[Path](), dict[Path, set[str]]()
    for path in paths:
        inside = next((folder for folder in Path(path).parents if _is_archive(root / folder)), None)
        if inside is not None:
            packed.setdefault(root / inside, set()).add(path.removeprefix(f"{inside}/"))
        elif (root / path).is_file():
            single.append(root / path)
    limit = most_bytes(max_pixels)
    yield files(single, limit).entries
    for file, members in packed.items():
        yield _members(file, members, limit)


def _members(file: Path, names: set[str], limit: int) -> Iterator[Entry]:
    """The members of an archive that have these names, up to where it is damaged."""
    with contextlib.suppress(UserError):
        opened = archive(file, limit, batches=False, split_folders="never")
        yield from (entry for entry in opened.entries if entry.path in names)


def _is_archive(path: Path) -> bool:
    return path.name.lower().endswith(ARCHIVE_SUFFIXES) and path.is_file()
