"""Standard output belongs to a command's result: whatever else is printed meanwhile, by C code too, goes elsewhere."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

_result: list[TextIO] = []
"""Where a result goes while standard output is reserved for it; the innermost last."""


def tell(answer: Any) -> None:
    """Print a command's result, a JSON value (numbers finite, else ValueError), to standard output."""
    print(json.dumps(answer, indent=2, allow_nan=False), file=_result[-1] if _result else None, flush=True)


@contextlib.contextmanager
def reserved() -> Iterator[None]:
    """Keep standard output for `tell`: a program reads it. All else that the block prints goes to standard error."""
    with contextlib.ExitStack() as stack:
        stream = sys.stdout
        if stream is not None and _is_on_one(stream):
            copy = os.fdopen(_copy_of_standard_output(), "w", encoding=stream.encoding, errors=stream.errors)
            stream = stack.enter_context(copy)
        if stream is not None:
            _result.append(stream)
            stack.callback(_result.pop)
        with on_standard_error():
            yield


@contextlib.contextmanager
def on_standard_error() -> Iterator[None]:
    """Let all that the block prints, C code and other programs that it starts too, go to standard error."""
    stream = sys.stdout
    if stream is None:  # it is closed
        yield
        return
    kept = _copy_of_standard_output()
    try:
        _flush(stream)
        _point_to_standard_error()
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _flush(stream)  # somebody may have held it from before the block
        os.dup2(kept, 1)
        os.close(kept)


def end() -> None:
    """Let what is still printed while the program ends, its result told, go to standard error."""
    if sys.stdout is not None:
        with contextlib.suppress(OSError):  # of a reader that went away
            _flush(sys.stdout)
        _point_to_standard_error()


def _point_to_standard_error() -> None:
    if sys.stderr is not None:
        os.dup2(2, 1)
        return
    with open(os.devnull, "w") as nowhere:  # it was closed when the program began: 2 may be anything by now
        os.dup2(nowhere.fileno(), 1)


def _copy_of_standard_output() -> int:
    """A descriptor that is no standard one, also where one of those is closed."""
    return fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)


def _flush(stream: TextIO) -> None:
    """Write out what `stream` and C's own standard output hold back."""
    stream.flush()
    ctypes.CDLL(None).fflush(None)


def _is_on_one(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 1
    except (OSError, ValueError):  # a stream in memory
        return False
