"""Files that a person names. What is none is refused before it is opened: a pipe would be waited for without end."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path

from aecore.config import UserError
from aecore.data.entry import printable

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")


def check_files(paths: Sequence[str | Path], many: str = "") -> None:
    """Raise UserError unless each path is a file, and no archive.

    `many` tells what takes a folder or an archive, whose name stands there as `{}`.
    """
    for path in map(Path, paths):
        name = printable(str(path))
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise UserError(f"{name} cannot be opened: {error.strerror}.") from error
        if stat.S_ISDIR(mode):
            raise UserError(f"{name} is a folder, where an image file is expected{many.format(name)}.")
        if not stat.S_ISREG(mode):
            raise UserError(f"{name} is {_odd(mode)}, where an image file is expected: save it as a file first.")
        if name.lower().endswith(ARCHIVE_SUFFIXES):
            raise UserError(f"{name} is an archive, where an image file is expected{many.format(name)}.")


def check_sources(paths: Sequence[Path]) -> None:
    """Raise UserError unless each path is a file or a folder."""
    for path in paths:
        if path.exists() and not (path.is_file() or path.is_dir()):
            kind = _odd(path.stat().st_mode)
            raise UserError(f"{printable(str(path))} is {kind}, where a file, folder or archive is expected.")


def _odd(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"
