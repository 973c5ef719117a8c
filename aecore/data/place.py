"""`data.path`: whether it is there, whether DVC can watch it, and what has become of it since `prepare` read it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from aecore import artifact, config
from aecore.data.entry import printable
from aecore.data.listing import Change, Listing, Stumble, readable, stumbles
from aecore.data.sources import SourceConfig

WRITTEN = (config.PREPARED, config.MODEL, config.EMBEDDINGS, config.INDEX, config.CLUSTERS, config.MAP, config.BASELINE,
           config.REPORTS, config.SERVING, config.STATE)  # fmt: skip
"""What the program writes: no place for images, since DVC lets nothing be both what a stage makes and what it reads."""
FETCHED = ("fashion_mnist", "avatars")
STUMBLES: dict[Stumble, tuple[str, str, str]] = {
    "name": ("name that is not UTF-8", "names that are not UTF-8", "DVC cannot write it down: rename it"),
    "ignore": ("file .dvcignore", "files .dvcignore", "DVC refuses it below what it watches: take it out"),
    "special": ("pipe, socket or device", "pipes, sockets or devices", "DVC would wait for it for ever: take it out"),
    "nowhere": ("link that leads nowhere", "links that lead nowhere", "DVC stops there: mend the link or remove it"),
    "closed": ("name that may not be read", "names that may not be read", "let yourself read it, or take it out"),
}
"""Why DVC cannot watch something -> what one is called, what several are, and the way out."""


def misplaced(place: Path) -> str | None:
    """Why images cannot lie there whatever is there, else None."""
    here = os.path.abspath(place)
    for written in WRITTEN:
        there = os.path.abspath(written)
        if os.path.commonpath([here, there]) in (here, there):
            how = "is" if here == there else "lies in" if os.path.commonpath([here, there]) == there else "holds"
            return f"data.path {place} {how} {written}, which the program writes: give images a folder of their own."
    return None


def not_there(place: Path, source: SourceConfig | None) -> str | None:
    """Why nothing can be read from that path, else None."""
    if place.exists():
        status = place.stat()
        if not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
            return f"data.path {place} is a pipe, socket or device: name a folder or an archive."
        return None if readable(place) else f"data.path {place} may not be read: let yourself read it."
    if place.is_symlink():
        return f"data.path {place} is a link that leads nowhere: mend it, or name another path."
    if Path(f"{place}.dvc").is_file():
        return f"data.path {place} is not there, but DVC tracks it: `dvc checkout` brings it, or `dvc pull`."
    if source is not None and (source.torchvision or source.source in FETCHED):
        return f"data.path {place} is not there: run `python -m aecore fetch`."
    return f"data.path {place} is not there: put the images there, or name another path."


def unwatchable(place: Path) -> Iterator[tuple[bool, str]]:
    """Sentences about what DVC cannot watch below `place`, and whether it stops there (else it only sees nothing)."""
    if not place.is_dir():
        return
    found = stumbles(place)
    links = found.pop("link", [])
    ignored = hidden_from_dvc(place, [name for why, names in found.items() if why != "name" for name in names])
    for why, names in found.items():
        if names := [name for name in names if name not in ignored]:
            one, several, remedy = STUMBLES[why]
            yield True, f"data.path {place} holds {_counted(names, one, several)}: {remedy}."
    if links:
        told = _counted(links, "link to a folder", "links to folders")
        yield False, (f"{place} holds {told}: `prepare` follows it, DVC does not, so only `aecore check` sees what "
                      "changes behind it.")  # fmt: skip


def hidden_from_dvc(place: Path, names: Sequence[str]) -> set[str]:
    """Those of `names` that a .dvcignore of the project hides; none where DVC cannot be asked."""
    asked = {f"{place}/{name}": name for name in names if "\n" not in name}
    if not asked:
        return set()
    command = [sys.executable, "-m", "dvc", "check-ignore", "--stdin"]
    try:
        done = subprocess.run(command, input="\n".join(asked), capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return set()
    return {asked[line] for line in done.stdout.splitlines() if line in asked}


def compared(files: Sequence[tuple[str, int]], place: Path) -> tuple[Change | None, list[str]]:
    """What has become of the files that `prepare` saw, and a sentence where something has."""
    if not (config.PREPARED / artifact.MANIFEST).is_file():
        return None, []
    try:
        seen = Listing.load(config.PREPARED)
    except (OSError, ValueError):
        return None, [f"{config.PREPARED} is damaged: nothing can be said of what has changed since it was made."]
    if seen is None:
        return None, []
    since = seen.until(Listing.of(files))
    if not any(since):
        return since, []
    told = [f"{number:,} {'file has' if number == 1 else 'files have'} {what}"
            for number, what in zip(since, ("come", "gone", "another size"), strict=True) if number]  # fmt: skip
    return since, [
        f"since `prepare` read {place}, {', '.join(told)}: `dvc repro` reads it anew; where that says that prepare "
        "didn't change, DVC took it for read while prepare was running: `dvc repro --force prepare`, then `dvc repro`."
    ]


def _counted(names: Sequence[str], one: str, several: str) -> str:
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return f"{len(names):,} {one if len(names) == 1 else several} ({', '.join(map(printable, names[:3]))}{more})"
