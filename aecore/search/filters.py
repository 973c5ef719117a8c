"""Filters: which images an SQL condition over the images' table lets through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from aecore.config import UserError
from aecore.data.images import folded

if TYPE_CHECKING:
    import pyarrow as pa

POSITION = "_position"
SHUT: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "python_enable_replacements": False,
    "lock_configuration": True,
}
"""A condition may come from elsewhere: it sees this table and nothing else, no file and no variable."""


def matching(items: pa.Table, where: str, more: Sequence[str] = ()) -> np.ndarray:
    """Positions, int64 ascending, of the rows of `items` for which the condition `where` is true.

    Any expression of DuckDB's SQL over the table's columns: `label = 3`, `split = 'test' and width > 100`,
    `path like '%/cats/%'`, `"attribute.smiling"`. A null is not true. Raises UserError for what is none, with the
    columns there are, and `more` that the caller would have added, had the condition named them.
    """
    import duckdb
    import pyarrow as pa

    twins = _twins(items.column_names)
    items = items.drop_columns(twins)
    numbered = items.append_column(POSITION, pa.array(np.arange(len(items), dtype=np.int64)))
    try:
        with duckdb.connect(config=SHUT) as database:
            found = database.from_arrow(numbered).filter(where).project(POSITION).fetchnumpy()[POSITION]
    except duckdb.Error as error:
        reason = str(error).splitlines()[0].rstrip("!.")
        columns = ", ".join(dict.fromkeys([*items.column_names, *more]))
        raise UserError(
            f"--where {where!r} is no condition over the images: {reason}. Columns: {columns}."
            + (f" No condition can tell {', '.join(twins)} apart: rename them, then `prepare` again." if twins else "")
        ) from error
    return np.sort(np.asarray(found, dtype=np.int64))


def _twins(names: list[str]) -> list[str]:
    """Names that differ in case alone, which are one to SQL: a condition would take the first for any of them."""
    count = Counter(map(folded, names))
    return [name for name in names if count[folded(name)] > 1]
