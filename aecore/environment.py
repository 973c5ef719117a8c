"""What libraries read from the environment when they are first imported, set before that. What the user set wins.

How threads wait for one another, and where caches go where there is no home to keep them in.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from aecore.config import STATE

WAITING = {"GOMP_SPINCOUNT": "10000"}
"""A thread that waits for the others looks for a moment whether they are done, and then sleeps.

OpenMP's own default looks for milliseconds, and on cores that another process wants too that is just the time in which
the thread waited for would have worked. How threads wait changes no result. Their number does, and is left alone.
"""

HOME = STATE / "home"
"""In the project's folder: stands in for a home that cannot be used."""


def settle(environment: MutableMapping[str, str] = os.environ) -> None:
    """Complete the environment of this process and of those it starts; imports nothing and makes no folder."""
    if "OMP_WAIT_POLICY" not in environment:
        for name, value in WAITING.items():
            environment.setdefault(name, value)
    environment.update(homeless(environment, Path.cwd() / HOME))


def homeless(environment: Mapping[str, str], instead: Path) -> dict[str, str]:
    """What is to be set where the user has no name, or the home cannot be written; empty for everybody else.

    From a home that can be read the user's settings go on being read: only what is written moves to `instead`.
    """
    entry = None
    with contextlib.suppress(KeyError):  # a container's user may have none
        entry = pwd.getpwuid(os.getuid())
    found = {}
    if entry is None and not {"LOGNAME", "USER", "LNAME", "USERNAME"} & environment.keys():
        found["USER"] = str(os.getuid())
    home = environment.get("HOME") or (entry.pw_dir if entry else "")
    if _writable(Path(home)) and home:
        return found
    if not (home and os.access(home, os.R_OK | os.X_OK)):
        return found | {"HOME": str(instead)}
    places = {"XDG_CACHE_HOME": ".cache", "MPLCONFIGDIR": ".config/matplotlib", "TRITON_HOME": "."}
    return found | {name: str(instead / place) for name, place in places.items() if name not in environment}


def _writable(folder: Path) -> bool:
    """Whether a file can be written there, the folder being made where it is missing."""
    there = next((above for above in (folder, *folder.parents) if os.path.lexists(above)), folder)
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
