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
"""Seconds that a step is waited for: whoever holds the turn may have been stopped."""
LOOK = 0.0002
"""Seconds between two looks whether it is our turn."""
HAND_OVER = 0.0005
"""Seconds that the turn is left to others, where there were any lately."""
LATELY = 50
"""Steps."""


class Turns:
    """A lock on a file that a step holds: `with` waits for the turn, which costs microseconds where nobody has it."""

    def __init__(self, path: Path | None) -> None:
        """Take turns with all that name this `path`; with None, or where it cannot be written, with nobody."""
        self._file: int | None = None
        self._others = 0  # steps until we forget that there were others
        if path is not None:
            with suppress(OSError):
                self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    @classmethod
    def of_all_cores(cls, device: torch.device, processes: int) -> Turns:
        """With the same user's other trainings on this machine, where this one alone has a thread for every core."""
        import torch

        shares = device.type == "cpu" and processes == 1 and torch.get_num_threads() >= len(os.sched_getaffinity(0)) > 1
        return cls(Path(tempfile.gettempdir()) / f"aecore-turns-{os.getuid()}" if shares else None)

    def __enter__(self) -> None:
        if self._file is None:
            return
        if self._others:
            time.sleep(HAND_OVER)
            self._others -= 1
        until = time.monotonic() + PATIENCE
        while not self._taken() and time.monotonic() < until:
            self._others = LATELY
            time.sleep(LOOK)

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)

    def _taken(self) -> bool:
        assert self._file is not None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
