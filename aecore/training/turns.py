"""`Turns`: trainings that each want all cores take their steps one after the other.

Threads of a step meet at barriers, some of them inside oneDNN's kernels, where whoever waits keeps its core. Where two
steps share the cores, a thread is waited for by one that holds the core it needs, until the scheduler's next tick, some
hundred times a step. No setting of OpenMP reaches those barriers, and one after the other both steps take as long as
they should. It changes no result.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PATIENCE = 5.0
"""Seconds that a turn is waited for. Whoever has it may have been stopped: from then on none are taken."""
LOOK = 0.0002
"""Seconds between two looks whether it is our turn."""


class Turns:
    """A lock that a step holds: `with` waits for the turn, which costs microseconds where nobody else has it.

    There is a lock on being the next, too. Who waits for the turn has it, so who had the turn waits behind them.
    """

    def __init__(self, path: Path | None) -> None:
        """Take turns with all that name this `path`; with None, or where it cannot be written, with nobody."""
        self._turn: int | None = None
        self._next: int | None = None
        if path is not None:
            with suppress(OSError):
                self._turn = _opened(path)
                self._next = _opened(path.with_name(f"{path.name}.next"))

    @classmethod
    def of_all_cores(cls, device: torch.device, processes: int) -> Turns:
        """With the same user's other trainings on this machine, where this one alone has a thread for every core."""
        import torch

        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        shares = device.type == "cpu" and processes == 1 and torch.get_num_threads() >= cores > 1
        return cls(Path(tempfile.gettempdir()) / f"aecore-turns-{os.getuid()}" if shares else None)

    def __enter__(self) -> None:
        if self._turn is None or self._next is None:
            return
        until = time.monotonic() + PATIENCE
        if _taken(self._next, until) and _taken(self._turn, until):
            fcntl.flock(self._next, fcntl.LOCK_UN)
        else:
            self._close()

    def __exit__(self, *_: object) -> None:
        if self._turn is not None:
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        for descriptor in (self._turn, self._next):
            if descriptor is not None:
                os.close(descriptor)
        self._turn = self._next = None


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _taken(descriptor: int, until: float) -> bool:
    """Lock a file, or give up at that moment."""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                return False  # a file system without locks
            if time.monotonic() >= until:
                return False
            time.sleep(LOOK)
