"""The lock that whoever changes what is served holds."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from aecore import artifact
from aecore.config import WorkFailed


@contextlib.contextmanager
def locked(serving: Path) -> Iterator[None]:
    """Hold `serving/.lock`; remove what a killed process left half-made. Raises WorkFailed naming a living holder."""
    artifact.make_directory(serving)
    with (serving / artifact.LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise WorkFailed(f"process {lock.read().strip()} is changing {serving}: wait for it.") from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        for stale in serving.glob(".*.*"):
            if stale.is_symlink() or not stale.is_dir():
                continue
            name, _, rest = stale.name.removeprefix(".").partition(".")
            if rest.endswith(".old") and not (serving / name).exists():  # it was about to be replaced
                os.rename(stale, serving / name)
            elif rest == "old" or rest.endswith((".tmp", ".old")):
                shutil.rmtree(stale)
        yield
