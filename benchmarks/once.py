"""Work that is done once: again only where its code, its parameters or what it reads has changed.

That is what DVC does for the pipeline. The comparison is no part of that: a second dvc.yaml would be, for `dvc status`
and `dvc repro --all-pipelines`, and to a DVC project of its own `__pycache__` would be code.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from aecore import artifact

PROJECT = Path(__file__).resolve().parent.parent


def key(stages: Sequence[str], values: dict[str, Any], files: Iterable[Path]) -> str:
    """Digest of all that decides what `stages` make: their code and parameters, as dvc.yaml names them, and `files`.

    `values` are the sections of their params.yaml.
    """
    declared = _declared(PROJECT / "dvc.yaml")
    code = {dep for stage in stages for dep in declared[stage]["deps"] if dep.startswith("aecore/")}
    names = {name for stage in stages for name in declared[stage]["params"]}
    return artifact.sha256_json(
        {
            "code": {name: artifact.sha256_file(PROJECT / name) for name in code},
            "parameters": {name: _at(values, name) for name in names},
            "files": [artifact.sha256_file(path) for path in files],
        }
    )


def is_done(made: Path, key: str) -> bool:
    """Whether `made` is there and was made from what has this key."""
    return made.exists() and _stamp(made).is_file() and _stamp(made).read_text() == key


@contextlib.contextmanager
def doing(made: Path, key: str) -> Iterator[None]:
    """Note, once the block has made it, what `made` was made from: a kill in between leaves it undone."""
    _stamp(made).unlink(missing_ok=True)
    yield
    artifact.write_text(_stamp(made), key)


@functools.cache
def _declared(path: Path) -> dict[str, Any]:
    stages: dict[str, Any] = YAML(typ="safe", pure=True).load(path.read_text())["stages"]
    return stages


def _stamp(made: Path) -> Path:
    return made.with_name(f"{made.name}.key")


def _at(values: Any, name: str) -> Any:
    for part in name.split("."):
        values = values[part]
    return values
