"""Where Prefect keeps its state, and whose name DVC is told, for a user without a home or without a name.

As `aecore.environment` does it for the stages; flows import nothing of the program, so it stands here for Prefect.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

INSTEAD = Path(".aecore/home")
"""In the project's folder."""


def homeless(environment: Mapping[str, str], instead: Path) -> dict[str, str]:
    """What is to be set where the user has no name, or the home cannot be written; empty for everybody else.

    From a home that can be read the user's settings, Prefect's profiles among them, go on being read.
    """
    entry = None
    with contextlib.suppress(KeyError):  # a container's user may have none
        entry = pwd.getpwuid(os.getuid())
    found = {}
    if entry is None and not {"LOGNAME", "USER", "LNAME", "USERNAME"} & environment.keys():
        found["USER"] = str(os.getuid())
    home = environment.get("HOME") or (entry.pw_dir if entry else "")
    if home and _writable(Path(home)):
        return found
    if not (home and os.access(home, os.R_OK | os.X_OK)):
        found["HOME"] = str(instead)
    prefect = instead / ".prefect"
    if "PREFECT_HOME" in environment:
        return found
    found["PREFECT_HOME"] = str(prefect)
    if home and os.access(profiles := Path(home, ".prefect/profiles.toml"), os.R_OK):
        found["PREFECT_PROFILES_PATH"] = str(profiles)
    # Prefect pastes its home into a database's URL, where a question mark ends the path.
    found["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = (
        f"sqlite+aiosqlite:///file:{quote(f'{prefect}/prefect.db')}?uri=true"
    )
    return {name: value for name, value in found.items() if name == "HOME" or name not in environment}


def _writable(folder: Path) -> bool:
    """Whether a file can be written there, the folder being made where it is missing."""
    there = next((above for above in (folder, *folder.parents) if os.path.lexists(above)), folder)
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
