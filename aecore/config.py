"""The strict reader of `params.yaml`: an unknown, missing or contradictory key raises, naming the key and the way out.

Each stage's frozen dataclass lives beside its stage; this file turns one section of YAML into one of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
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
REMOVED = Path("data/removed.csv")
"""The images that somebody asked to be forgotten (see `aecore.data.removed`)."""
STATE = Path(".aecore")

SECTIONS = ("run", "data", "prepare", "train", "embed", "index", "cluster", "map", "evaluate", "tracking")

T = TypeVar("T")


class UserError(ValueError):
    """What a person asked for is wrong: one sentence that says what, where and what to do. Exit status 2."""

    exit_status = 2
    details: tuple[str, ...] = ()
    """More sentences, each for a line of its own."""


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


_GATHERED: ContextVar[list[str] | None] = ContextVar("_GATHERED", default=None)


def refuse(sentence: str) -> None:
    """Raise UserError with this sentence; inside `gathering` it is put beside the others there instead."""
    gathered = _GATHERED.get()
    if gathered is None:
        raise UserError(sentence)
    gathered.append(sentence)


@contextlib.contextmanager
def gathering() -> Iterator[list[str]]:
    """Yield a list that takes, while the block runs, what `refuse` and `require` would raise: all of it, once each."""
    gathered: list[str] = []
    token = _GATHERED.set(gathered)
    try:
        yield gathered
    except UserError as error:
        gathered.append(str(error))
    finally:
        _GATHERED.reset(token)
        gathered[:] = dict.fromkeys(gathered)


def require(holds: bool, key: str, value: object, expected: str) -> None:
    """Refuse: name `key`, its `value` and what was `expected`, unless the condition `holds`."""
    if not holds:
        refuse(f"{key} is {value!r}; expected {expected}.")


def pick(choices: Mapping[str, T], name: str, what: str) -> T:
    """Return `choices[name]`; an unknown name lists the known ones."""
    if name not in choices:
        raise UserError(unknown(name, choices, what))
    return choices[name]


def unknown(name: str, known: Iterable[str], what: str) -> str:
    """The sentence that says that `name` is none of the `known`, which it lists, and which is nearest."""
    known = list(known)
    return f"{what} {name!r} is not known; known: {', '.join(known)}{did_you_mean(name, known)}."


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
            raise UserError(f"{path}: section {str(key)!r} is not known{did_you_mean(key, SECTIONS)}.")
    if name not in values:
        raise UserError(f"{path}: section {name!r} is missing.")
    return build(cls, values[name], f"{path}: {name}")


def build(cls: type[T], values: Any, where: str) -> T:
    """Make the dataclass `cls` from a mapping; every error begins with `where` and names the key."""
    faults: list[str] = []
    made = read(cls, values, where, faults)
    if made is None or faults:
        raise UserError(faults[0])
    return made


def read(cls: type[T], values: Any, where: str, faults: list[str]) -> T | None:
    """Make the dataclass `cls` from a mapping, adding all that is wrong with it to `faults`, a sentence each.

    A misspelled key is read as the missing one that it is nearest to, so that its value is looked at too. What the
    class refuses of its values is known once every key is there with a value of its type. None where it cannot be made.
    """
    if not isinstance(values, Mapping):
        faults.append(f"{where} should hold keys and values; it holds {values!r}.")
        return None
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    needed = [key for key, field in fields.items()
              if field.default is field.default_factory is dataclasses.MISSING]  # fmt: skip
    given, missing = spelled(values, fields, needed)
    for key in values:
        if key not in fields:
            faults.append(f"{where}.{key} is not a known key{did_you_mean(key, fields)}.")
    wrong = [f"{where}.{key} is missing." for key in missing]
    typed = {key: _convert(values[as_], hints[key], f"{where}.{as_}", wrong) for key, as_ in given.items()}
    if not wrong:
        with gathering() as refused:
            made = cls(**typed)
        wrong += [f"{where}.{sentence}" for sentence in refused]
    faults += wrong
    return None if wrong else made


def spelled(values: Mapping[Any, Any], known: Iterable[str], needed: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """Known key -> the key of `values` that it stands under, misspelled perhaps; and those `needed` that are missing.

    A key that is not known counts as the needed one nearest to it, where that is missing otherwise.
    """
    known, needed = list(known), list(needed)
    given = {key: key for key in values if key in known}
    for key in values:
        nearest = _nearest(key, known)
        if key not in known and nearest is not None and nearest in needed and nearest not in given:
            given[nearest] = key
    return given, [key for key in needed if key not in given]


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Which of the `known` was meant, to be put before the full stop; empty where none is near."""
    close = _nearest(name, known)
    return f" (did you mean {close!r}?)" if close else ""


def _convert(value: Any, hint: Any, where: str, faults: list[str]) -> Any:
    """Return the value as of its type, or add to `faults` why it is none of it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        wrong: list[str] = []
        for argument in (a for a in arguments if a is not type(None)):
            wrong = []
            made = _convert(value, argument, where, wrong)
            if not wrong:
                return made
        faults += wrong
        return None
    if origin is Literal:
        if any(value == argument and type(value) is type(argument) for argument in arguments):
            return value
        known = [str(a) for a in arguments]
        faults.append(f"{where} is {value!r}; choose one of {', '.join(known)}{did_you_mean(value, known)}.")
        return None
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_convert(item, arguments[0], f"{where}[{i}]", faults) for i, item in enumerate(value))
    if dataclasses.is_dataclass(hint):
        return read(typing.cast(type, hint), value, where, faults)
    if origin is dict and isinstance(value, Mapping):
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    expected = "a list" if origin is tuple else "keys and values" if origin is dict else f"a {hint.__name__}"
    faults.append(f"{where} is {value!r}; expected {re.sub(r'^a (int)$', 'a whole number', expected)}.")
    return None


def _nearest(name: object, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(str(name), list(known), n=1)), None)
