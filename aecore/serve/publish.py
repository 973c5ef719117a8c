"""`publish` and `rollback`: what is served is a whole, verified copy, and `serving/current` switches to it atomically.

    serving/<id>/           data/ model/ embeddings/ index/ and, where there are, clusters/; a manifest; id: from the
                            digests of them all
    serving/current         symbolic link to the copy that is served
    serving/history.jsonl   append-only: {"action": "publish" | "rollback", "id", "previous", "time"}, written just
                            before the switch it announces, so that it never lacks one
    serving/grown/<id>/     what was added to a copy and removed from it since (see `aecore.search.growth`)
    serving/removed.csv     what was removed, from whichever copy (see `aecore.data.removed`)
    serving/.lock           held, by the kernel, while one process changes what is served

A kill at any time leaves `current` at the old copy or at the new one. Files are hard links where the file system
allows: DVC replaces the workspace's files, it never writes into them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from aecore import artifact, config
from aecore.artifact import Manifest
from aecore.config import Runtime, UserError, WorkFailed
from aecore.counted import counted
from aecore.data.removed import Removals
from aecore.embedding import Encoder
from aecore.names import legible
from aecore.search.growth import Growth, growth_folder, sweep, verify
from aecore.search.searcher import EXTRAS, PARTS, Searcher, Source
from aecore.serve.carry import added, carry
from aecore.serve.forget import Ledger
from aecore.serve.lock import locked
from aecore.serve.mend import lost, mend

SHOWN = 10
"""Images that stay behind are named, up to so many."""
KEEP = 3
"""Copies kept: the current one and those that were current last."""
GOLDEN = 8
"""Images encoded again by a copy's own model before it is served."""
TOLERANCE = 1e-3
"""Of a code's length, between stored and new code: another device or TF32 stays below, another model is far above."""


def publish(root: Path = Path(), leave_behind: bool = False) -> None:
    """Verify the workspace's artefacts byte by byte, copy them to `serving/<id>`, test the copy and serve it.

    What had been added to the copy before goes with it, what was removed stays away. Prints what is served now. Raises
    UserError where an artefact is missing, WorkFailed where one is damaged, where they were not made from each other,
    where the copy does not find its own images, where images that had been added cannot be had in the new copy (unless
    they may be left behind), and while another process publishes; `current` is then what it was.
    """
    runtime = config.section(Runtime, "run", root / config.PARAMS)
    serving = root / config.SERVING
    with locked(serving):
        workspace = Source("workspace", root)
        parts = {kind: artifact.read_manifest(workspace.path(kind), kind) for kind in PARTS}
        artifact.check_chain(*parts.values())
        parts |= _extras(workspace, parts)
        name, previous = copy_id(parts), _current(serving)
        copy = serving / name
        _remove_orphans(serving)
        ledger = Ledger(root)
        whole = _is_whole(copy)
        if not whole:
            _copy(workspace, copy, parts, runtime.device)
        mended = mend(copy, parts["index"], ledger.removals)
        published = Source("published", copy)
        carried = 0
        if previous is not None and previous != name:
            carried = _carry_over(root, previous, published, ledger.removals, runtime, leave_behind)
        gone = ledger.enforce(published)
        sweep(copy)
        if whole and not mended and not gone and name == previous:
            print(f"{copy} is published and current already: nothing to do")
            return
        if name != previous:
            _switch(serving, "publish", name, previous)
        old = _remove_old(serving)
        added, removed = Growth.read(copy, parts["index"]).counts
    print(f"published {copy} ({counted(parts['data'].facts['count'] + added - removed, 'image')})", end="")
    print(f", in place of {previous}" if previous and previous != name else "", end="")
    print(f"; {counted(carried, 'image')} added before and carried over" if carried else "", end="")
    print(f"; {counted(gone, 'removed image')} kept away" if gone else "", end="")
    print(f"; removed {', '.join(old)}: the last {KEEP} are kept" if old else f"; the last {KEEP} are kept")


def _carry_over(
    root: Path, previous: str, new: Source, removals: Removals, runtime: Runtime, leave_behind: bool
) -> int:
    """Add to the new copy what had been added to the one before; returns how many images.

    What cannot be had there is listed. Raises WorkFailed then, unless it may be left behind.
    """
    old = new.directory.parent / previous
    if not growth_folder(old).is_dir():
        return 0
    source, carried, behind = Source("published", old), 0, list[str]()
    try:
        index = artifact.read_manifest(source.path("index"), "index")
        try:
            verify(old, index)
        except UserError:
            if not leave_behind:
                behind = lost(old, index)
                raise
            mend(old, index, removals)
        carried, behind = carry(root, source, new, removals, runtime)
    except UserError as error:
        some = f" ({', '.join(behind[:SHOWN])}{' …' if len(behind) > SHOWN else ''})" if behind else ""
        told = f"what was added to {old}{some} cannot all be carried over ({str(error).partition(': run ')[0]})"
        if not leave_behind:
            raise WorkFailed(
                f"{told}: bring {growth_folder(old)} back from elsewhere, or run {artifact.PUBLISH} with "
                "--leave-behind. Nothing was switched."
            ) from error
        print(f"aecore publish: {told}: it stays behind", file=sys.stderr)
    if behind := sorted(behind):
        named = new.directory.parent / f"behind-{previous}.txt"
        artifact.write_text(named, "".join(f"{legible(path)}\n" for path in behind))
        more = f", and {len(behind) - SHOWN:,} more ({named} has them all)" if len(behind) > SHOWN else f" ({named})"
        told = (
            f"{counted(len(behind), 'image')} added to {previous} cannot be encoded for {new.directory.name}, "
            "which prepares images in another way, since their files are not where they were, or have changed: "
            f"{', '.join(behind[:SHOWN])}{more}"
        )
        if not leave_behind:
            raise WorkFailed(
                f"{told}. Bring them back, or run {artifact.PUBLISH} with --leave-behind. Nothing was switched."
            )
        print(f"aecore publish: {told}. They stay behind.", file=sys.stderr)
    return carried


def rollback(root: Path = Path()) -> None:
    """Serve the copy that was current before this one was published; again goes back further, never to one left so.

    What was removed meanwhile stays away. Raises UserError where none came before, WorkFailed where it is gone or
    damaged; `current` is then what it was.
    """
    serving = root / config.SERVING
    if not serving.is_dir():
        raise UserError(f"nothing is published at {serving}: run `python -m aecore publish`.")
    with locked(serving):
        now = _current(serving)
        if now is None:
            raise UserError(f"nothing is published at {serving}: run `python -m aecore publish`.")
        line = _line(serving, now)
        if len(line) < 2:
            raise UserError(
                f"{serving / now} is the first copy that was not rolled back from: there is nothing further to go back "
                "to; `python -m aecore publish` serves the workspace's artefacts."
            )
        before = line[-2]
        if not (serving / before).is_dir():
            raise WorkFailed(
                f"{serving / before}, which was current before {now}, was removed (the last {KEEP} are kept): "
                "bring its artefacts back with git and DVC, then `python -m aecore publish`."
            )
        try:
            _verify(serving / before)
        except UserError as error:
            raise WorkFailed(f"{error} (It mends what the workspace holds: bring the artefacts of {before} back there "
                             "with git and DVC first.)") from error  # fmt: skip
        source = Source("published", serving / before)
        gone = Ledger(root).enforce(source)
        sweep(source.directory)
        _tell_left(serving / now, source)
        _switch(serving, "rollback", before, now)
    print(f"rolled back from {now} to {serving / before}", end="")
    print(f"; {counted(gone, 'removed image')} kept away" if gone else "")


def _tell_left(copy: Path, other: Source) -> None:
    """Say on standard error how many images that were added to a copy another one does not have."""
    with contextlib.suppress(UserError):  # it is damaged: that is why it is left
        ids = added(Searcher.open(Source("published", copy)))[0]["id"].to_numpy()
        if left := int((~Searcher.open(other).holds(ids)).sum()):
            print(f"aecore rollback: {counted(left, 'image')} added to {copy.name}, not in {other.directory}: add "
                  "them again", file=sys.stderr)  # fmt: skip


def copy_id(parts: dict[str, Manifest]) -> str:
    """Name of the copy of these artefacts: 12 hexadecimal digits that their digests determine."""
    return artifact.sha256_json({kind: part.digest for kind, part in parts.items()})[:12]


def _extras(workspace: Source, parts: dict[str, Manifest]) -> dict[str, Manifest]:
    """Those of EXTRAS that are there and were made from these artefacts; says which one was made from others."""
    found = {}
    for kind in EXTRAS:
        if (workspace.path(kind) / artifact.MANIFEST).is_file():
            manifest = artifact.read_manifest(workspace.path(kind), kind)
            if all(parts[name].digest == digest for name, digest in manifest.sources.items()):
                found[kind] = manifest
            else:
                print(f"aecore publish: the {kind} were not made from these artefacts and stay behind: "
                      f"`python -m aecore {artifact.STAGE_OF[kind]}` makes them anew", file=sys.stderr)  # fmt: skip
    return found


def _copy(workspace: Source, path: Path, parts: dict[str, Manifest], device: str) -> None:
    for kind, manifest in parts.items():
        artifact.verify(workspace.path(kind), manifest, deep=True)
    facts = {"count": parts["data"].facts["count"]}
    with artifact.writing(path, "published", parts, facts) as directory:
        for kind in parts:
            for name in (*parts[kind].files, artifact.MANIFEST):
                _link(workspace.path(kind) / name, directory / kind / name)
        check_golden(Source("published", directory), device)


def check_golden(copy: Source, device: str) -> None:
    """Encode a few test images with the copy's own model: they must have their stored codes and find themselves.

    Raises WorkFailed naming the first image that does not.
    """
    encoder = Encoder.load(copy.path("model"), device)
    searcher = Searcher.open(copy, encoder.manifest)
    collection, tests = searcher.collection, searcher.base.images.positions("test")
    positions = tests if len(tests) else np.arange(searcher.count)
    positions = positions[np.unique(np.linspace(0, len(positions) - 1, GOLDEN).astype(np.int64))]
    ids = collection.ids(positions)
    stored, new = collection.vectors(positions), encoder.encode(collection.pixels(positions))
    error = np.linalg.norm(new - stored, axis=1) / np.maximum(np.linalg.norm(stored, axis=1), 1e-12)
    for i in np.flatnonzero(~(error <= TOLERANCE)):
        raise WorkFailed(
            f"image {ids[i]} gets a code from the model that is off its stored one by {error[i]:.1e} of its length "
            f"(at most {TOLERANCE:.0e} is rounding): run `python -m aecore embed` and `index`, then publish again."
        )
    found = searcher.search(stored, 10)
    itself = (found.ids == ids[:, None]) & (found.distance == found.distance[:, :1])  # or tied with the first
    for i in np.flatnonzero(~itself.any(axis=1)):
        raise WorkFailed(
            f"image {ids[i]} does not find itself, but {found.ids[i, 0]} at {found.distance[i, 0]:.3g}: "
            "run `python -m aecore index`, then publish again."
        )


def _link(source: Path, target: Path) -> None:
    """Give `target` the content of `source`: a hard link, or a copy where file systems differ."""
    target.parent.mkdir(parents=True, exist_ok=True)
    real = source.resolve()  # DVC may have linked it from its cache
    try:
        os.link(real, target)
    except OSError:
        shutil.copyfile(real, target)


def _verify(path: Path) -> None:
    _verify_published(path)
    verify(path, artifact.read_manifest(path / "index", "index"))


def _verify_published(path: Path) -> None:
    manifest = artifact.read_manifest(path, "published")
    artifact.verify(path, manifest, deep=True)
    parts = {kind: artifact.read_manifest(path / kind, kind) for kind in PARTS}
    artifact.check_chain(*parts.values())


def _is_whole(path: Path) -> bool:
    if not path.is_dir():
        return False
    try:
        _verify_published(path)
    except UserError:
        return False
    return True


def _current(serving: Path) -> str | None:
    """Name of the current copy, even where it is gone; None where nothing was published."""
    current = serving / "current"
    return current.readlink().name if current.is_symlink() else None


def _switch(serving: Path, action: str, name: str, previous: str | None) -> None:
    """Announce and make `name` current, in one rename."""
    entry = {
        "action": action,
        "id": name,
        "previous": previous,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    history = serving / "history.jsonl"
    cut_short = history.is_file() and not history.read_bytes().endswith(b"\n")  # by a crash while it was written
    with history.open("a") as file:
        file.write("\n" * cut_short + json.dumps(entry) + "\n")
        file.flush()
        os.fsync(file.fileno())
    artifact.point(serving / "current", name)


def _history(serving: Path) -> list[dict[str, Any]]:
    """Entries, oldest first; a line that a crash cut short is left out."""
    entries = []
    path = serving / "history.jsonl"
    for line in path.read_text().splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            entries.append(json.loads(line))
    return entries


def _line(serving: Path, now: str) -> list[str]:
    """Copies that one rollback after another walks back through, each once; the current one comes last.

    A publication puts its copy at the end, a rollback takes the end away. An entry whose switch a kill prevented
    does not count: what was current next tells.
    """
    line: list[str] = []
    before: list[str] = []
    for entry in _history(serving):
        name, before = entry["id"], _settled(line, before, entry["previous"])
        back = entry["action"] == "rollback" and name in before
        line = before[: before.index(name) + 1] if back else _ending(before, name)
    return _settled(line, before, now)


def _settled(line: list[str], before: list[str], current: str | None) -> list[str]:
    """Return `line`, or the one `before` it where that ends with `current`: then the last switch never happened."""
    for known in (line, before):
        if known[-1:] == ([current] if current else []):
            return known
    return _ending(line, current) if current else []  # somebody switched by hand


def _ending(line: list[str], name: str) -> list[str]:
    return [*(other for other in line if other != name), name]


def _remove_old(serving: Path) -> list[str]:
    """Remove all copies but the KEEP that were current last; returns their names."""
    copies = {path.name for path in serving.iterdir() if path.is_dir() and _is_id(path.name)}
    latest = list(dict.fromkeys(e["id"] for e in reversed(_history(serving)) if e["id"] in copies))
    removed = sorted(copies - set(latest[:KEEP]) - {_current(serving)})
    for name in removed:
        os.rename(serving / name, serving / f".{name}.old")
        shutil.rmtree(growth_folder(serving / name), ignore_errors=True)
        shutil.rmtree(serving / f".{name}.old")
    return removed


def _remove_orphans(serving: Path) -> None:
    """Remove what copies grew by that are gone: the same copy published once more begins anew."""
    for path in (serving / "grown").glob("*"):
        if _is_id(path.name) and not (serving / path.name).is_dir() and path.name != _current(serving):
            print(f"aecore publish: removed what had been added to {path.name}, which is gone", file=sys.stderr)
            shutil.rmtree(path)


def _is_id(name: str) -> bool:
    return bool(re.fullmatch(r"[0-9a-f]{12}", name))
