"""Artefacts: directories that are whole or not there, that say what they hold and what they were made from.

`manifest.json` carries the kind, the schema version, the sha256 of every file, their joint digest, and the digests of
the artefacts it was made from. That chain (data -> model -> embeddings -> index) is checked whenever one artefact is
loaded beside another.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aecore.config import SERVING, UserError, WorkFailed

MANIFEST = "manifest.json"
LOCK = ".lock"
"""In the folder of what is served: held while that is changed."""
SCHEMA = 1
PUBLISH = "`python -m aecore publish`"
SMALL = 16 * 2**20
"""Files up to this many bytes are hashed whenever their artefact is opened; larger ones by `verify(deep=True)`."""

STAGE_OF = {"data": "prepare", "model": "train", "embeddings": "embed", "index": "index",
            "clusters": "cluster", "map": "map", "baseline": "baseline", "published": "publish",
            "growth": "publish"}  # fmt: skip
"""Which command makes each kind: the way out that every chain error names."""


@dataclass(frozen=True)
class Manifest:
    """What an artefact says of itself."""

    kind: str
    digest: str
    """sha256 over the kind, the facts and the files' sha256: equal content, equal digest."""
    sources: dict[str, str] = field(default_factory=dict)
    """Kind -> digest of each artefact that it was made from."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Small values that a reader wants without opening the files (counts, shapes, recall)."""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name -> {"size": bytes, "sha256": hex}."""
    schema: int = SCHEMA
    path: Path | None = field(default=None, compare=False)
    """Where it was read."""


@contextlib.contextmanager
def writing(
    path: Path, kind: str, sources: Mapping[str, Manifest] | None = None, facts: dict[str, Any] | None = None
) -> Iterator[Path]:
    """Yield a temporary sibling of `path` to fill (see `replacing`); its manifest is written after the block.

    `facts` may be filled by the caller while the block runs.
    """
    with replacing(path) as temporary:
        yield temporary
        files = {
            name: {"size": (temporary / name).stat().st_size, "sha256": sha256_file(temporary / name)}
            for name in sorted(str(p.relative_to(temporary)) for p in temporary.rglob("*") if p.is_file())
        }
        manifest = {
            "kind": kind,
            "schema": SCHEMA,
            "digest": _digest(kind, facts or {}, files),
            "sources": {name: source.digest for name, source in sorted((sources or {}).items())},
            "facts": facts or {},
            "files": files,
        }
        write_json(temporary / MANIFEST, manifest)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of the directory `path` to fill; on success it is fsynced and renamed to `path`.

    On any error the sibling is removed and `path` is untouched, so a reader never meets half a directory.
    """
    path = Path(path)
    make_directory(path.parent)
    clear_stale(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            fsync(file)
        fsync(temporary)
        replace_directory(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def read_manifest(path: Path, kind: str) -> Manifest:
    """Open the artefact at `path`: it must be there, of this `kind` and schema, with every file at its size.

    Small files are hashed too. Raises UserError (nothing there) or WorkFailed (damaged), naming the command to run.
    """
    manifest = load_manifest(path, kind)
    verify(path, manifest, deep=False)
    return manifest


def load_manifest(path: Path, kind: str) -> Manifest:
    """The manifest of the artefact at `path`, whatever became of its files. Raises as `read_manifest` does."""
    path = Path(path)
    again = f"run {way_out(path, kind)}"
    if not (path / MANIFEST).is_file():
        raise UserError(f"there is no {kind} at {path}: {again} first.")
    try:
        manifest = Manifest(**json.loads((path / MANIFEST).read_text()), path=path)
    except (ValueError, TypeError) as error:
        raise WorkFailed(f"{path / MANIFEST} is damaged ({error}): {again}.") from error
    if manifest.kind != kind:
        raise UserError(f"{path} holds {manifest.kind}, where {kind} was expected.")
    if manifest.schema != SCHEMA:
        raise WorkFailed(f"{path} has schema {manifest.schema}, this program reads {SCHEMA}: {again}.")
    if manifest.digest != _digest(manifest.kind, manifest.facts, manifest.files):
        raise WorkFailed(f"{path / MANIFEST} does not match its own digest: {again}.")
    return manifest


def verify(path: Path, manifest: Manifest, *, deep: bool) -> None:
    """Compare every file with the manifest: its size, and its sha256 where it is small or `deep` is asked."""
    again = f"run {way_out(path, manifest.kind)} again"
    for name, entry in manifest.files.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != entry["size"]:
            raise WorkFailed(f"{file} is missing or cut short: {again}.")
        if (deep or entry["size"] <= SMALL) and sha256_file(file) != entry["sha256"]:
            raise WorkFailed(f"{file} differs from what its manifest says: {again}.")


def way_out(path: Path, kind: str) -> str:
    """The command that makes anew an artefact of this `kind` at `path`: of what is served always `publish`."""
    return PUBLISH if _is_served(path) else f"`python -m aecore {STAGE_OF.get(kind, kind)}` (or `dvc repro`)"


def check_chain(*manifests: Manifest) -> None:
    """Raise WorkFailed unless every manifest was made from the others given here (where it names their kind)."""
    by_kind = {manifest.kind: manifest for manifest in manifests}
    for manifest in manifests:
        for kind, digest in manifest.sources.items():
            if kind in by_kind and by_kind[kind].digest != digest:
                again = f"`dvc repro` (or `python -m aecore {STAGE_OF.get(manifest.kind)}` and what follows it)"
                raise WorkFailed(
                    f"the {manifest.kind} was made from {kind} {digest[:12]}, but the {kind} here is "
                    f"{by_kind[kind].digest[:12]}: run {PUBLISH if _is_served(manifest.path) else again}."
                )


def replace_directory(new: Path, path: Path) -> None:
    """Rename directory `new` to `path`, replacing what is there; a reader sees the old one, none or the new one."""
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)  # of a killed process that had our pid
        os.rename(path, old)
    try:
        os.rename(new, path)
    except OSError:
        if old.exists():
            os.rename(old, path)
        raise
    fsync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def make_directory(path: Path) -> None:
    """Make a directory, and those above it, unless it is there; they are on the disk before this returns."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        fsync(folder.parent)


def point(link: Path, name: str) -> None:
    """Let the symbolic link lead to the directory `name` beside it, in one rename that is on the disk afterwards."""
    temporary = link.with_name(f".{link.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(name, target_is_directory=True)
    os.replace(temporary, link)
    fsync(link.parent)


def clear_stale(path: Path) -> None:
    """Clear away what killed writers of `path` left, and put back an artefact that one was about to replace."""
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*.*"):
        pid, _, suffix = stale.name.removeprefix(f".{path.name}.").partition(".")
        if suffix in ("tmp", "old") and pid.isdecimal() and not _alive(int(pid)):
            if suffix == "old" and not path.exists():
                os.rename(stale, path)
            elif stale.is_dir():
                shutil.rmtree(stale, ignore_errors=True)
            else:
                stale.unlink(missing_ok=True)


def write_json(path: Path, values: Any) -> None:
    """Write sorted, indented JSON through a temporary sibling."""
    write_text(path, json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 through a temporary sibling: a reader sees the old file or the new one, which is on the disk then."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        fsync(temporary)
        os.replace(temporary, path)
        fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(values: Any) -> str:
    """Hex sha256 of a value's canonical JSON: the key of whatever is determined by it."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _is_served(path: Path | None) -> bool:
    """Whether an artefact belongs to a published copy."""
    folders = () if path is None else path.parents
    return any(folder.name == SERVING.name and (folder / LOCK).is_file() for folder in folders)


def _digest(kind: str, facts: dict[str, Any], files: dict[str, dict[str, Any]]) -> str:
    return sha256_json({"kind": kind, "facts": facts, "files": {name: f["sha256"] for name, f in files.items()}})


def fsync(path: Path) -> None:
    """Have a file or directory on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
