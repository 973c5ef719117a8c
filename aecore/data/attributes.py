"""What a folder of images says of each of them: the table `attributes.csv` or `attributes.parquet` at its top.

The first column is a file's path below the folder, every other one an attribute of it. An attribute whose values are
true and false (or 1 and 0) is one that an image has or has not; of any other the values are kept as text.

Conditions name them, and SQL takes names that differ in case alone for one: two such columns are refused. Spaces around
a name are no part of it. A path means the file of this very name; else the one whose name differs in how Unicode writes
accents alone (as macOS's do), in `./` before it or in backslashes.
"""

from __future__ import annotations

import csv as text_csv
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aecore.config import UserError
from aecore.data.images import folded

if TYPE_CHECKING:
    import pyarrow as pa

FILES = ("attributes.csv", "attributes.parquet")
"""Names of a table, in any case."""
TRUTHS = ({"true": True, "false": False}, {"1": True, "0": False})
"""How a column writes that an image has an attribute or has not, in any case."""
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
"""What other programs put between columns."""
BLOCK_BYTES = 2**30
"""The largest part of a CSV that is read at a time; no cell may be larger."""


def is_table(name: str) -> bool:
    """Whether a file at the top of a folder is called like its table of attributes."""
    return name.lower() in FILES


def read_attributes(
    folder: Path, names: Iterable[str], types: Mapping[str, pa.DataType] | None = None
) -> pa.Table | None:
    """Return the table of `folder`, whose files are `names`; None where it has none.

    Its first column is the path as it is among `names`, string and unique, the others are bool or string; there are no
    nulls. What is known of `types` is called and typed as there. Raises UserError where the table is malformed:
    unreadable, no attribute, columns that differ in case alone, two rows of one file, a file that is not there or that
    two names are meant for, a value that its type has not; and where there are two tables.
    """
    tables = sorted(path for path in folder.iterdir() if is_table(path.name) and not path.is_dir())
    if not tables:
        return None
    if len(tables) > 1:
        named = " and ".join(table.name for table in tables)
        raise UserError(f"{folder} holds {named}, each a table of attributes: keep one of them.")
    import pyarrow as pa

    file = tables[0]
    if not file.is_file():
        raise UserError(f"{file} is no regular file: put the table of attributes there, or remove it.")
    try:
        table = _read_csv(file) if file.suffix.lower() == ".csv" else _read_parquet(file)
    except (pa.ArrowException, OSError, UnicodeDecodeError, text_csv.Error) as error:
        reason = f"{' '.join(str(error).split())}): mend it"
        if isinstance(error, UnicodeDecodeError) or "invalid UTF8" in reason:
            reason = "it is not in UTF-8): save it so"
        raise UserError(f"{file} is not readable as a table ({reason}.") from error
    known = types or {}
    columns = _names(file, table.column_names, known)
    table = table.rename_columns(columns)
    paths = _on_disk(file, table.column(0).to_pylist(), list(names))
    typed = [_typed(file, table, place, known.get(name)) for place, name in enumerate(columns) if place]
    return pa.Table.from_arrays([pa.array(paths, pa.string()), *typed], names=columns).combine_chunks()


def _read_csv(file: Path) -> pa.Table:
    """Read every column as text; an empty cell is empty text."""
    import pyarrow as pa
    from pyarrow import csv

    names, records = _head(file)
    numbers = [str(place) for place in range(len(names))]  # names may repeat
    table = csv.read_csv(
        file,
        csv.ReadOptions(
            column_names=numbers,
            skip_rows_after_names=records,
            block_size=min(max(file.stat().st_size, 1), BLOCK_BYTES),  # all at once: a cell may be long
        ),
        csv.ParseOptions(newlines_in_values=True),
        csv.ConvertOptions(column_types=dict.fromkeys(numbers, pa.string()), strings_can_be_null=False),
    )
    return table.rename_columns(names)


def _head(file: Path) -> tuple[list[str], int]:
    """The names in the first record that has any, and how many records it ends."""
    with file.open("rb") as raw:
        start = raw.read(4096)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start:
        raise UserError(f"{file} is not readable as a table (it is UTF-16, or no text at all): save it in UTF-8.")
    with file.open(encoding="utf-8-sig", newline="") as text:
        records = 0
        for names in text_csv.reader(text):
            records += 1
            if names:
                break
        else:
            raise UserError(f"{file} is not readable as a table (it is empty): mend it.")
    for separator, called in SEPARATORS.items():
        if len(names) == 1 and separator in names[0]:
            raise UserError(f"{file} has {called} between its columns; expected commas: save it as CSV with commas.")
    return names, records


def _read_parquet(file: Path) -> pa.Table:
    """Read every column as text; a null is empty text."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as opened:
        table = opened.read()
    columns = [pc.fill_null(pc.cast(column, pa.string()), "") for column in table.columns]
    return pa.Table.from_arrays(columns, names=table.column_names)


def _names(file: Path, columns: Sequence[str], known: Collection[str]) -> list[str]:
    """The columns' names without spaces around them, and as they are among the `known`, where only the case differs."""
    if len(columns) < 2:
        raise UserError(f"{file} has {len(columns)} column; expected the path of a file, then an attribute or more.")
    names = [name.strip() for name in columns[1:]]
    if "" in names:
        raise UserError(f"{file}: column {names.index('') + 2} has no name; name the attribute in the first line.")
    twice = _repeated(names)
    if twice is not None:
        raise UserError(f"{file} has two columns {twice!r}: rename or remove one of them.")
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(folded(name), name)
        if other != name:
            raise UserError(f"{file} has columns {other!a} and {name!a}, which are one to SQL: they differ in case, or "
                            "in how Unicode writes a letter, alone. Rename or remove one of them.")  # fmt: skip
    spelled = Counter(map(folded, known))
    called = {folded(name): name for name in known if spelled[folded(name)] == 1}
    return [columns[0], *(name if name in known else called.get(folded(name), name) for name in names)]


def _on_disk(file: Path, paths: list[str], names: Sequence[str]) -> list[str]:
    """Of each path the one among `names` that it means."""
    there = set(names)
    meant = paths if there.issuperset(paths) else _meant(file, paths, there)
    twice = _repeated(meant)
    if twice is not None:
        raise UserError(f"{file} has two rows for {twice!r}: remove one of them.")
    return meant


def _meant(file: Path, paths: list[str], there: set[str]) -> list[str]:
    alike: dict[str, list[str]] = {}
    for name in sorted(there):
        alike.setdefault(_composed(name), []).append(name)
    meant = []
    for path in paths:
        plain = _plain(path)
        found = [name for name in (path, plain) if name in there][:1] or alike.get(_composed(plain), [])
        if not found:
            near = next((name for name in sorted(there) if folded(name) == folded(plain)), None)
            hint = f" (did you mean {near!r}?)" if near else ""
            raise UserError(f"{file} names {path!r}, which is not below {file.parent}{hint}: its first column holds "
                            "paths relative to that folder.")  # fmt: skip
        if len(found) > 1:
            raise UserError(f"{file} names {path!r}, and {found[0]!a} and {found[1]!a} both look like it: rename "
                            "one of them, or write its name in the table as it is on the disk.")  # fmt: skip
        meant += found
    return meant


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _plain(path: str) -> str:
    """A path with forward slashes and without what leads nowhere."""
    parts = path.replace("\\", "/").split("/")
    return "/".join(part for place, part in enumerate(parts) if part != "." and (part or not place))


def _repeated(values: list[str]) -> str | None:
    return next((value for value, count in Counter(values).items() if count > 1), None)


def _typed(file: Path, table: pa.Table, place: int, known: pa.DataType | None) -> Any:
    """Return a column as of its known type; else as bool where it holds truths only, or as the text that it is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = table.column(place)
    if known == pa.string():
        return column
    written = {value: value.strip().lower() for value in pc.unique(column).to_pylist()}
    for truths in TRUTHS:
        if not written or not set(written.values()) <= {*truths, ""} or set(written.values()) == {""}:
            continue
        if "" in written.values():
            empty = next(value for value, meant in written.items() if not meant)
            path = table.column(0)[pc.index(column, empty).as_py()]
            raise UserError(f"{file}: {table.column_names[place]} of {path} is empty; expected {' or '.join(truths)}.")
        return pa.chunked_array([[truths[written[value]] for value in column.to_pylist()]], pa.bool_())
    if known == pa.bool_() and written:
        raise UserError(f"{file}: {table.column_names[place]} is an attribute that an image has or has not, here it is "
                        f"{next(iter(written))!r}, too; expected true and false, or 1 and 0.")  # fmt: skip
    return column
