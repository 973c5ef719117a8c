"""What a folder of images says of each of them: the table `attributes.csv` or `attributes.parquet` at its top.

The first column is a file's path below the folder, every other one an attribute of it. An attribute whose values are
true and false (or 1 and 0) is one that an image has or has not; of any other the values are kept as text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aecore.config import UserError

if TYPE_CHECKING:
    import pyarrow as pa

FILES = ("attributes.csv", "attributes.parquet")
TRUTHS = ({"true": True, "false": False}, {"1": True, "0": False})
"""How a column writes that an image has an attribute or has not, in any case."""


def read_attributes(
    folder: Path, names: Iterable[str], types: Mapping[str, pa.DataType] | None = None
) -> pa.Table | None:
    """Return the table of `folder`, whose files are `names`; None where it has none.

    Its first column is the path, string and unique, the others are bool or string, as `types` has them where it does;
    there are no nulls. Raises UserError where the table is malformed: unreadable, no attribute, two columns or rows of
    one name, a file that is not there, a value that its type has not.
    """
    tables = [folder / name for name in FILES if (folder / name).is_file()]
    if not tables:
        return None
    if len(tables) > 1:
        raise UserError(f"data.path {folder} holds both {FILES[0]} and {FILES[1]}: remove one of them.")
    import pyarrow as pa

    file = tables[0]
    try:
        table = _read_csv(file) if file.suffix == ".csv" else _read_parquet(file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file} is not readable as a table ({' '.join(str(error).split())}): mend it.") from error
    _check_columns(file, table.column_names)
    _check_paths(file, table.column(0).to_pylist(), set(names))
    known = types or {}
    typed = [_typed(file, table, place, known.get(name)) for place, name in enumerate(table.column_names) if place]
    return pa.Table.from_arrays([table.column(0), *typed], names=table.column_names).combine_chunks()


def _read_csv(file: Path) -> pa.Table:
    """Read every column as text; an empty cell is empty text."""
    import pyarrow as pa
    from pyarrow import csv

    with csv.open_csv(file) as head:
        names = head.schema.names
    as_text = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    return csv.read_csv(file, convert_options=as_text)


def _read_parquet(file: Path) -> pa.Table:
    """Read every column as text; a null is empty text."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as opened:
        table = opened.read()
    columns = [pc.fill_null(pc.cast(column, pa.string()), "") for column in table.columns]
    return pa.Table.from_arrays(columns, names=table.column_names)


def _check_columns(file: Path, names: list[str]) -> None:
    if len(names) < 2:
        raise UserError(f"{file} has {len(names)} column; expected the path of a file, then an attribute or more.")
    if "" in names[1:]:
        raise UserError(f"{file}: column {names.index('', 1) + 1} has no name; name the attribute in the first line.")
    twice = _repeated(names[1:])
    if twice is not None:
        raise UserError(f"{file} has two columns {twice!r}: rename or remove one of them.")


def _check_paths(file: Path, paths: list[str], there: set[str]) -> None:
    unknown = next((path for path in paths if path not in there), None)
    if unknown is not None:
        raise UserError(f"{file} names {unknown!r}, which is not below {file.parent}: its first column holds paths "
                        "relative to that folder, with forward slashes.")  # fmt: skip
    twice = _repeated(paths)
    if twice is not None:
        raise UserError(f"{file} has two rows for {twice!r}: remove one of them.")


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
