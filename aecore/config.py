"""The strict reader of `params.yaml`: an unknown, missing or contradictory key raises, naming the key and the way out.

Each stage's frozen dataclass lives beside its stage; this file turns one section of YAML into one of them.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

PARAMS = Path("params.yaml")
GRAPH = Path("dvc.yaml")
RECIPES = Path("recipes")

PREPARED = Path("data/prepared")
MODEL = Path("models/autoencoder")
EMBEDDINGS = Path("artifacts/embeddings")
INDEX = Path("artifacts/index")
CLUSTERS = Path("artifacts/clusters")
MAP = Path("artifacts/map")
BASELINE = Path("artifacts/baseline")
REPORTS = Path("reports")
FIGURES = REPORTS / "figures"
SERVING = Path("serving")
STATE = Path(".aecore")

SECTIONS = ("run", "data", "prepare", "baseline", "train", "embed", "index", "cluster", "map", "evaluate", "tracking")

T = TypeVar("T")


class UserError(ValueError):
    """What a person asked for is wrong: one sentence that says what, where and what to do. Exit status 2."""

    exit_status = 2


class WorkFailed(UserError):
    """The request was right and the work failed, in a way a person can mend. Exit status 1."""

    exit_status = 1


@dataclasses.dataclass(frozen=True)
class Runtime:
    """Section `run`: what every stage shares."""

    seed: int
    """Seed of every random choice."""
    threads: int
    """CPU threads; one and two threads round differently, so this is part of what determines an artefact."""
    device: Literal["auto", "cpu", "cuda"]
    """`auto` takes the GPU when there is one."""

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**31, "seed", self.seed, "0 to 2147483647")
        require(self.threads >= 1, "threads", self.threads, "1 or more")


def require(holds: bool, key: str, value: object, expected: str) -> None:
    """Raise UserError naming `key`, its `value` and what was `expected`, unless the condition `holds`."""
    if not holds:
        raise UserError(f"{key} is {value!r}; expected {expected}.")


def pick(choices: Mapping[str, T], name: str, what: str) -> T:
    """Return `choices[name]`; an unknown name lists the known ones."""
    if name not in choices:
        raise UserError(f"{what} {name!r} is not known; known: {', '.join(choices)}{_nearest(name, choices)}.")
    return choices[name]


def check_project(root: Path = Path()) -> None:
    """Raise UserError where the folder `root` is no project: nothing that a command could read is there.

    A published copy or a model alone is something: it answers queries without its parameters.
    """
    if not any((root / part).exists() for part in (PARAMS, GRAPH, SERVING, MODEL)):
        raise UserError(_elsewhere(root / PARAMS))


def _elsewhere(path: Path) -> str:
    """What to do where `params.yaml`, or what lies beside it, is not at `path`."""
    folders = path.absolute().parent.parents
    above = [str(folder) for folder in folders if (folder / PARAMS).is_file() and (folder / GRAPH).is_file()]
    such = f" (such as {above[0]})" if above else ""
    return f"{path} is not here: run this from the project's folder, the one that holds {PARAMS}{such}."


def load_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML 1.2 mapping, as DVC reads it (so `1e-3` is a number)."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if not path.is_file():
        raise UserError(_elsewhere(path))
    try:
        values = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not readable as YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} should hold sections, such as `train:`; it holds {type(values).__name__}.")
    return values


def section(cls: type[T], name: str, path: Path = PARAMS) -> T:
    """Read section `name` of `params.yaml` into the frozen dataclass `cls`, strictly."""
    values = load_yaml(path)
    for key in values:
        if key not in SECTIONS:
            raise UserError(f"{path}: section {key!r} is not known{_nearest(str(key), SECTIONS)}.")
    if name not in values:
        raise UserError(f"{path}: section {name!r} is missing.")
    return build(cls, values[name], f"{path}: {name}")


def build(cls: type[T], values: Any, where: str) -> T:
    """Make the dataclass `cls` from a mapping; every error begins with `where` and names the key."""
    if not isinstance(values, Mapping):
        raise UserError(f"{where} should hold keys and values; it holds {values!r}.")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise UserError(f"{where}.{key} is not a known key{_nearest(str(key), fields)}.")
    for key, field in fields.items():
        if key not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise UserError(f"{where}.{key} is missing.")
    typed = {key: _convert(value, hints[key], f"{where}.{key}") for key, value in values.items()}
    try:
        return cls(**typed)
    except UserError as error:
        raise type(error)(f"{where}.{error}") from error


def _convert(value: Any, hint: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        errors = []
        for argument in (a for a in arguments if a is not type(None)):
            try:
                return _convert(value, argument, where)
            except UserError as error:
                errors.append(error)
        raise errors[-1]
    if origin is Literal:
        if any(value == argument and type(value) is type(argument) for argument in arguments):
            return value
        known = [str(a) for a in arguments]
        raise UserError(f"{where} is {value!r}; choose one of {', '.join(known)}{_nearest(str(value), known)}.")
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_convert(item, arguments[0], f"{where}[{i}]") for i, item in enumerate(value))
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where)
    if origin is dict and isinstance(value, Mapping):
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    expected = "a list" if origin is tuple else "keys and values" if origin is dict else f"a {hint.__name__}"
    raise UserError(f"{where} is {value!r}; expected {re.sub(r'^a (int)$', 'a whole number', expected)}.")


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
