"""`Removals`: the images that somebody asked to be forgotten, in a table that a person can read.

    image,id,pixel_hash,preparation
    812…,812…,9f3a…,1x28x28 crop

`image` is the id under which it was removed, `id` that of one of its files (those with the same pixels are the same
image), `pixel_hash` the sha256 of its pixels as they were prepared then, `preparation` how: channels x height x width
and the fit. No path stands in it. The list lies at `data/removed.csv`, where `prepare` reads it, and at
`serving/removed.csv`, so that a published copy that stands alone has it too.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast, get_args

import numpy as np

from aecore.artifact import make_directory, sha256_json, write_text
from aecore.config import UserError
from aecore.data.decode import Fit, Preparation

if TYPE_CHECKING:
    import pyarrow as pa

    from aecore.data.images import Images

HEAD = ("image", "id", "pixel_hash", "preparation")


class Row(NamedTuple):
    """One file of a removed image."""

    image: int
    id: int
    pixel_hash: str
    """Hexadecimal; empty where it is not known."""
    preparation: str
    """As `told` writes it."""


@dataclass(frozen=True)
class Removals:
    """A list of removed images: the rows of one or several tables."""

    rows: frozenset[Row] = frozenset()

    @classmethod
    def read(cls, path: Path) -> Removals:
        """Read the table at `path`; empty where there is none. Raises UserError naming the line that is not of it."""
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            return cls()
        except (IsADirectoryError, NotADirectoryError) as error:
            raise UserError(f"{path} is no file: {_MEND}.") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 text ({error.reason}): {_MEND}.") from error
        rows, lines = set(), csv.reader(io.StringIO(text))
        try:
            if tuple(next(lines, ())) != HEAD:
                raise UserError(f"{path} should begin with the line {','.join(HEAD)}: {_MEND}.")
            for cells in lines:
                if cells:
                    rows.add(_row(cells, f"{path}, line {lines.line_num}"))
        except csv.Error as error:
            raise UserError(f"{path}, line {lines.line_num} cannot be read ({error}): {_MEND}.") from error
        return cls(frozenset(rows))

    def write(self, path: Path) -> None:
        """Write the table, sorted, so that equal lists are equal files; it is on the disk before this returns."""
        file = io.StringIO()
        table = csv.writer(file, lineterminator="\n")
        table.writerow(HEAD)
        table.writerows(sorted(self.rows))
        make_directory(path.parent)
        write_text(path, file.getvalue())

    def __or__(self, other: Removals) -> Removals:
        """What stands in either."""
        return Removals(self.rows | other.rows)

    @cached_property
    def digest(self) -> str:
        """sha256 of the list, whatever the order of its lines."""
        return sha256_json(sorted(self.rows))

    @cached_property
    def ids(self) -> frozenset[int]:
        """Ids of all files."""
        return frozenset(row.id for row in self.rows)

    @cached_property
    def images(self) -> dict[int, list[Row]]:
        """The rows of each removed image, by its smallest id: all that share a file, an image or pixels are one."""
        group: dict[object, list[Row]] = {}
        for row in sorted(self.rows):
            keys = [row.id, ("image", row.image), *([(row.preparation, row.pixel_hash)] if row.pixel_hash else [])]
            joined = {id(rows): rows for key in keys if (rows := group.get(key)) is not None}
            together = [*(other for rows in joined.values() for other in rows), row]
            for other in together:
                group[other.id] = group["image", other.image] = together
                if other.pixel_hash:
                    group[other.preparation, other.pixel_hash] = together
        found = {min(row.image for row in rows): sorted(rows) for rows in group.values()}
        return dict(sorted(found.items()))

    def together(self, ids: Iterable[int]) -> Removals:
        """The rows of the images that have a file with one of these `ids`."""
        asked = set(ids)
        rows = (rows for rows in self.images.values() if any(row.id in asked for row in rows))
        return Removals(frozenset(row for some in rows for row in some))

    def __sub__(self, other: Removals) -> Removals:
        """What stands here and not in the other."""
        return Removals(self.rows - other.rows)

    def among(self, images: Images, aliases: pa.Table) -> np.ndarray:
        """Rows of prepared images that are listed, by the id of one of their files or by their pixels; int64 ascending.

        `aliases` has the `id` of each other file and that of the `item` whose pixels it has.
        """
        if not self.rows:
            return np.empty(0, np.int64)
        ids = np.array(sorted(self.ids), np.int64)
        items = aliases["item"].to_numpy()[np.isin(aliases["id"].to_numpy(), ids)]
        named = np.flatnonzero(np.isin(images.ids(), np.concatenate([ids, items])))
        hashes = [pixel_hash.hex() for pixel_hash in sorted(self.pixels.get(told(images.manifest.facts), ()))]
        shown = [row for _, row in images.with_pixels(hashes)] if hashes else []
        return np.union1d(named, np.array(shown, np.int64))

    @cached_property
    def pixels(self) -> dict[str, frozenset[bytes]]:
        """Pixel hashes by preparation."""
        found: dict[str, set[bytes]] = {}
        for row in self.rows:
            if row.pixel_hash:
                found.setdefault(row.preparation, set()).add(bytes.fromhex(row.pixel_hash))
        return {preparation: frozenset(hashes) for preparation, hashes in found.items()}

    def others(self, preparation: Preparation) -> list[tuple[Preparation, frozenset[bytes]]]:
        """The pixel hashes of every other preparation than this one, whose bound `max_pixels` is kept."""
        return [
            (parsed(name, preparation.max_pixels), hashes)
            for name, hashes in self.pixels.items()
            if name != told(preparation)
        ]


def told(preparation: Preparation | dict[str, Any]) -> str:
    """A preparation, or the facts of prepared images, as it stands in the table: `3x64x64 crop`."""
    facts = dataclasses.asdict(preparation) if isinstance(preparation, Preparation) else preparation
    return f"{facts['channels']}x{facts['height']}x{facts['width']} {facts['fit']}"


def parsed(text: str, max_pixels: int) -> Preparation:
    """What `told` wrote. Raises ValueError."""
    shape, _, fit = text.partition(" ")
    channels, height, width = map(int, shape.split("x"))
    if channels not in (1, 3) or not (1 <= height <= 4096 and 1 <= width <= 4096):
        raise ValueError(f"{shape!r} is no shape of an image")
    if fit not in get_args(Fit):
        raise ValueError(f"{fit!r} is none of {', '.join(get_args(Fit))}")
    return Preparation(height, width, channels, cast(Fit, fit), max_pixels)


_MEND = "bring it back (`git checkout` has data/removed.csv), since who was to be forgotten stands there"


def _row(cells: list[str], where: str) -> Row:
    try:
        image, item_id, pixel_hash, preparation = cells
        row = Row(int(image), int(item_id), pixel_hash, preparation)
        if not (0 <= row.image < 2**63 and 0 <= row.id < 2**63):
            raise ValueError("an id is a number of 63 bits")
        if pixel_hash and len(bytes.fromhex(pixel_hash)) != 32:
            raise ValueError("a pixel hash has 64 hexadecimal digits")
        parsed(preparation, 1)
    except ValueError as error:
        raise UserError(f"{where} is not {','.join(HEAD)} ({error}): {_MEND}.") from error
    return row
