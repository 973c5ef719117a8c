"""Sources of files: a folder tree, or zip and tar archives read without unpacking them.

Hidden files are passed over, and so is a README.md; a file whose suffix is not an image's is listed as rejected but not
held against the data. What folders mean is said in `aecore/data/layout.py`; a folder may carry a table of attributes
(`aecore/data/attributes.py`).
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, cast

from aecore.config import UserError
from aecore.data.attributes import is_table, read_attributes
from aecore.data.decode import SUFFIXES
from aecore.data.entry import Entry, Source, SplitFolders, Unreadable, rejected
from aecore.data.given import ARCHIVE_SUFFIXES
from aecore.data.layout import taken_for_splits, top_folders
from aecore.data.listing import hidden, size_of, walk

if TYPE_CHECKING:
    import pyarrow as pa

UNREAD_SUFFIXES = frozenset(
    (
        ".heic",
        ".heif",
        ".jxl",
        ".psd",
        ".xcf",
        ".svg",
        ".eps",
        ".raw",
        ".dng",
        ".cr2",
        ".cr3",
        ".nef",
        ".arw",
        ".orf",
        ".rw2",
        ".raf",
        ".icns",
        ".exr",
        ".hdr",
    )
)
"""Images by their name, in formats that are not read: rejected, and counted as such."""
COMPRESSIONS = {b"\x1f\x8b": gzip.GzipFile, b"BZh": bz2.BZ2File, b"\xfd7zXZ\0": lzma.LZMAFile}
"""How a compressed tar begins."""
ARCHIVE_ERRORS = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError)
READ_ERRORS = (Unreadable, OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
               EOFError)  # fmt: skip
"""What an entry's `read` may raise: the reason why that one entry is rejected."""


def folder(
    path: Path,
    limit: int,
    *,
    batches: bool,
    split_folders: SplitFolders,
    types: Mapping[str, pa.DataType] | None = None,
) -> Source:
    """Open a tree of images; its attributes are of `types`, where known. Raises UserError where there is none."""
    _require_there(path)
    if not path.is_dir():
        raise UserError(f"data.path {path} is a file; source: folder expects a folder (archives: source: archive).")
    listed = [(seen.name, seen.size) for seen in walk(path)]
    names = [name for name, _ in listed if not is_table(name)]
    if not names:
        raise UserError(f"{path} is an empty folder: put images there, or name another folder.")
    judged = (name for name in names if _judge(name, "") is None and ("/" in name or not batches))
    tops = top_folders(judged, batches=batches)
    if split_folders == "always":  # told before anything is read
        taken_for_splits(tops, split_folders)
    attributes = read_attributes(path, names, types)
    described = None if attributes is None else set(attributes.column(0).to_pylist())

    def entries() -> Iterator[Entry]:
        for name in names:
            batch = name.split("/", 1)[0] if batches and "/" in name else ""
            entry = _judge(name, batch)
            if entry is None and batches and not batch:
                entry = rejected(name, "", "it lies beside the batch folders, in none of them")
            if entry is None and described is not None and name not in described:
                entry = rejected(name, batch, "it has no row in the table of attributes", counts=_counts(name))
            yield entry or Entry(name, batch, partial(_read_file, path / name, limit), _counts(name))

    return Source(
        entries(), len(names), attributes=attributes, split_folders=split_folders, top_folders=tops, files=listed
    )


def files(paths: Sequence[Path], limit: int) -> Source:
    """Entries of single files, each called as it is given."""

    def entries() -> Iterator[Entry]:
        for path in paths:
            yield _judge(str(path), "") or Entry(str(path), "", partial(_read_file, path, limit))

    return Source(entries(), len(paths))


def archive(path: Path, limit: int, *, batches: bool, split_folders: SplitFolders) -> Source:
    """Open one archive or, with `batches`, a folder of archives, each a batch. Raises UserError."""
    _require_there(path)
    if batches:
        if not path.is_dir():
            raise UserError(f"data.path {path} is a file; with batches: true it is a folder that holds archives.")
        files = sorted(p for p in path.iterdir() if not hidden(p.name))
        if not files:
            raise UserError(f"data.path {path} is an empty folder: put archives there, or name another folder.")
    elif path.is_dir():
        raise UserError(f"data.path {path} is a folder; source: archive expects one archive, or with batches: true "
                        "a folder of them (source: folder reads a tree of images).")  # fmt: skip
    elif not path.is_file():
        raise UserError(f"{path} is neither a file nor a folder; source: archive expects a zip or tar file.")
    else:
        files = [path]
        if not zipfile.is_zipfile(path):
            try:
                with _open_tar(path) as raw, tarfile.open(fileobj=raw, mode="r|"):
                    pass
            except ARCHIVE_ERRORS as error:
                raise _damaged(path, error) from error

    def entries() -> Iterator[Entry]:
        for file in files:
            batch = file.name if batches else ""
            if batches and (not file.is_file() or not file.name.lower().endswith(ARCHIVE_SUFFIXES)):
                yield rejected(file.name, "", "not an archive (zip, tar, tar.gz, tar.xz, tar.bz2)", counts=False)
            elif zipfile.is_zipfile(file):
                yield from _zip_entries(file, batch, limit)
            else:
                yield from _tar_entries(file, batch, limit)

    listed = [(file.name if batches else "", size_of(file)) for file in files]
    return Source(entries(), None, packed=True, split_folders=split_folders, files=listed)


def _require_there(path: Path) -> None:
    if not path.exists():
        raise UserError(f"data.path {path} is not there: put the images there, or name another path.")


def _judge(name: str, batch: str) -> Entry | None:
    """Return the rejected entry of a file that is of no use by its name alone, else None."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return rejected(name, batch, "its name is not UTF-8: rename it")
    if is_table(PurePosixPath(name).name):
        return rejected(name, batch, "a table of attributes is read at the top of a folder alone", counts=False)
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in UNREAD_SUFFIXES:
        return rejected(name, batch, f"{suffix} is not a format that is read: convert it to PNG or JPEG")
    if suffix and suffix not in SUFFIXES:
        return rejected(name, batch, f"not an image by its suffix {suffix}", counts=False)
    return None


def _counts(name: str) -> bool:
    """Whether the name promises an image; a file without a suffix is tried, and may be a README."""
    return bool(PurePosixPath(name).suffix)


def _read_file(path: Path, limit: int) -> bytes:
    if not stat.S_ISREG(path.stat().st_mode):
        raise Unreadable("not a regular file")
    with path.open("rb") as file:
        _check_size(os.fstat(file.fileno()).st_size, limit)
        return file.read()


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise Unreadable(f"{size} bytes, more than an image of prepare.max_pixels can have")


def _zip_entries(file: Path, batch: str, limit: int) -> Iterator[Entry]:
    try:
        opened = zipfile.ZipFile(file)
    except ARCHIVE_ERRORS as error:
        raise _damaged(file, error) from error

    def read(member: zipfile.ZipInfo) -> bytes:
        _check_size(member.file_size, limit)
        return opened.read(member)

    # the archive stays open until the last `read` is gone, and closes itself then
    for member in sorted(opened.infolist(), key=lambda info: info.filename):
        if member.is_dir() or any(map(hidden, PurePosixPath(member.filename).parts)):
            continue
        name = _inside(member.filename, batch)
        yield _judge(name, batch) or Entry(name, batch, partial(read, member), _counts(name))


def _tar_entries(file: Path, batch: str, limit: int) -> Iterator[Entry]:
    """Read a tar from front to back, once: a compressed one cannot be read in any other order."""
    try:
        with _open_tar(file) as raw, tarfile.open(fileobj=raw, mode="r|") as opened:
            for member in opened:
                if not member.isfile() or any(map(hidden, PurePosixPath(member.name).parts)):
                    continue
                name = _inside(member.name, batch)
                entry = _judge(name, batch)
                if entry is None and member.size > limit:
                    entry = Entry(name, batch, partial(_refuse_size, member.size, limit), _counts(name))
                if entry is None:
                    content = opened.extractfile(member)
                    assert content is not None, "a regular file has content"
                    data = content.read()
                    if len(data) != member.size:
                        raise EOFError(f"{name} ends early")
                    entry = Entry(name, batch, partial(bytes, data), _counts(name), held=len(data))
                yield entry
            while raw.read(2**20):  # a compressed stream that was cut says so at its end
                pass
    except (*ARCHIVE_ERRORS, OSError) as error:
        raise _damaged(file, error) from error


def _open_tar(file: Path) -> IO[bytes]:
    with file.open("rb") as raw:
        start = raw.read(6)
        for magic, opener in COMPRESSIONS.items():
            if start.startswith(magic):
                return cast(IO[bytes], opener(file))
        raw.seek(-min(512, raw.seek(0, os.SEEK_END)), os.SEEK_END)
        if raw.read().strip(b"\0"):  # tarfile takes one that was cut between two files for a whole one
            raise EOFError("a whole tar ends in zeros")
    return file.open("rb")


def _refuse_size(size: int, limit: int) -> bytes:
    _check_size(size, limit)
    return b""


def _inside(name: str, batch: str) -> str:
    name = name.removeprefix("./").lstrip("/")
    return f"{batch}/{name}" if batch else name


def _damaged(file: Path, error: object) -> UserError:
    text = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{file} is not a zip or tar archive, or it is damaged ({text}): bring it again.")
