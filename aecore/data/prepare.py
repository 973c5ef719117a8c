"""The stage `prepare`: from a source to `data/prepared/`, uint8 shards of one shape and the table of what they show.

Pixels stream to one unsorted file as they are decoded; once all is known they are gathered, row by row, into shards
sorted by id inside each batch. Only the table of metadata (about 1 KB an image, tables included) is held in memory.
"""

from __future__ import annotations

import errno
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from aecore.artifact import writing
from aecore.config import PREPARED, REMOVED, Runtime, UserError, WorkFailed, require, section
from aecore.counted import counted
from aecore.data.decode import Fit, Preparation, most_bytes
from aecore.data.items import SPLITS, Found, Kept, deduplicate, lay_out, make_tables, write_shards, write_tables
from aecore.data.listing import Listing
from aecore.data.reading import read_all
from aecore.data.removed import Removals
from aecore.data.sources import SourceConfig, open_source


@dataclass(frozen=True)
class Split:
    """Shares of the images; they sum to 1."""

    train: float
    validation: float
    test: float

    def __post_init__(self) -> None:
        for name in SPLITS:
            require(0 < getattr(self, name) < 1, name, getattr(self, name), "a share between 0 and 1")
        total = self.train + self.validation + self.test
        require(math.isclose(total, 1, abs_tol=1e-9), "train + validation + test", total, "1")


@dataclass(frozen=True)
class PrepareConfig:
    """Section `prepare`."""

    size: int | tuple[int, ...]
    """Side of the square that every image becomes, or [height, width]."""
    channels: Literal[1, 3]
    """1 (grey) or 3 (RGB)."""
    fit: Fit
    """`crop` the largest centred part, `pad` with black, or `stretch`."""
    split: Split
    """By the pixels' hash, so an image keeps its side when others come; official splits win where a source has one."""
    max_rejected: float
    """Share of the images that may be unusable before the stage fails."""
    max_pixels: int
    """Larger images are refused from their header."""

    def __post_init__(self) -> None:
        sides = (self.size,) if isinstance(self.size, int) else self.size
        require(len(sides) <= 2 and all(1 <= side <= 4096 for side in sides) and sides != (), "size", self.size,
                "one side or [height, width], each from 1 to 4096")  # fmt: skip
        require(0 <= self.max_rejected <= 1, "max_rejected", self.max_rejected, "a share from 0 to 1")
        require(self.max_pixels >= 1, "max_pixels", self.max_pixels, "1 or more")

    @property
    def preparation(self) -> Preparation:
        """What `decode` needs to know."""
        height, width = (self.size, self.size) if isinstance(self.size, int) else (self.size[0], self.size[-1])
        return Preparation(height, width, self.channels, self.fit, self.max_pixels)


@dataclass(frozen=True)
class Summary:
    """What `prepare` made."""

    splits: dict[str, int]
    aliases: int
    """Files that are no item, for one has their prepared pixels."""
    repeated: int
    """Of these, files that are another's byte for byte: the others were different files before they were prepared."""
    rejected: int
    removed: int
    directory: Path
    layout: str
    """What folders named after splits were taken for, empty where there are none."""

    def __str__(self) -> str:
        counts = ", ".join(f"{self.splits[name]:,} {name}" for name in SPLITS)
        listed = f" (listed in {self.directory / 'rejected.parquet'})" if self.rejected else ""
        alike = self.aliases - self.repeated
        same = f", {counted(alike, 'more file')} with the same pixels once prepared" if alike else ""
        removed = f", {self.removed:,} passed over since {REMOVED} names them" if self.removed else ""
        return (
            f"prepared {counted(sum(self.splits.values()), 'image')} in {self.directory}: {counts}; "
            f"{counted(self.repeated, 'duplicate')}{same}, {self.rejected:,} rejected{listed}{removed}"
        )


def main() -> None:
    """Run the stage as `params.yaml` says and print one line; on standard error, what folders were taken for."""
    source, config, runtime = section(SourceConfig, "data"), section(PrepareConfig, "prepare"), section(Runtime, "run")
    summary = prepare(source, config, runtime, removed=Removals.read(REMOVED))
    if summary.layout:
        print(f"aecore prepare: {summary.layout}", file=sys.stderr)
    print(summary)


def prepare(
    source: SourceConfig,
    config: PrepareConfig,
    runtime: Runtime,
    directory: Path = PREPARED,
    removed: Removals | None = None,
) -> Summary:
    """Write the artefact `data` at `directory`, without the images that were `removed`.

    Raises UserError, or WorkFailed where the data are not good enough.
    """
    try:
        return _prepare(source, config, runtime, directory, removed or Removals())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise WorkFailed(f"the disk that holds {directory.absolute().parent} is full: make room (the prepared images "
                         "are written twice before they are whole) and run `prepare` again.") from error  # fmt: skip


def _prepare(
    source: SourceConfig, config: PrepareConfig, runtime: Runtime, directory: Path, removed: Removals
) -> Summary:
    preparation = config.preparation
    stream = open_source(source, limit=most_bytes(config.max_pixels))
    facts: dict[str, Any] = {}
    with writing(directory, "data", facts=facts) as temporary:
        if stream.files:
            facts["listing"] = Listing.of(stream.files).save(temporary)
        unsorted = temporary / "unsorted"
        bar = tqdm(total=stream.total, desc="prepare", unit=" images", mininterval=0.5, disable=None)
        with unsorted.open("wb") as pixels, bar:
            found = read_all(stream.entries, preparation, runtime.threads, pixels, bar, removed=removed)
        _check_found(found, config, source)
        layout = lay_out(found, stream)
        kept = deduplicate(found)
        split = _assign_splits(found, kept, config.split)
        counts = {name: int((split == i).sum()) for i, name in enumerate(SPLITS)}
        _check_splits(found, kept, counts, config.split, source)
        shards = write_shards(temporary, unsorted, kept, preparation.shape)
        unsorted.unlink()
        tables, labels = make_tables(found, kept, [SPLITS[i] for i in split.tolist()], shards, stream)
        write_tables(temporary, tables)
        aliases = len(kept.aliases)
        gone = len(found.removed) + len(found.paths) - len(kept.items) - aliases
        facts |= {
            "count": len(kept.items), "channels": preparation.channels, "height": preparation.height,
            "width": preparation.width, "fit": preparation.fit, "max_pixels": preparation.max_pixels,
            "shards": shards, "splits": counts, "labels": labels, "aliases": aliases, "rejected": len(found.rejected),
            "removed": gone, "removals": removed.digest, "split_folders": source.split_folders,
        }  # fmt: skip
    repeated = len(found.paths) - len(np.unique(kept.ids))
    return Summary(counts, aliases, repeated, len(found.rejected), gone, directory, layout)


def _check_found(found: Found, config: PrepareConfig, source: SourceConfig) -> None:
    if not found.files:
        first = f"; the first, {found.rejected[0][0]}: {found.rejected[0][2]}" if found.rejected else ""
        gone = f"; {len(found.removed):,} were removed: `python -m aecore inspect --removed`" if found.removed else ""
        raise UserError(
            f"there is no image in data.path {source.path} ({counted(len(found.rejected), 'other file')}{first}{gone})."
        )
    share = len(found.failures) / found.files
    if share > config.max_rejected or not found.paths:
        few = "; ".join(f"{path}: {reason}" for path, _, reason in (found.rejected[i] for i in found.failures[:5]))
        more = f"; and {len(found.failures) - 5} more" if len(found.failures) > 5 else ""
        raise WorkFailed(
            f"{len(found.failures):,} of {counted(found.files, 'image')} in {source.path} cannot be used ({share:.1%}; "
            f"prepare.max_rejected allows {config.max_rejected:.1%}): {few}{more}. Mend or remove them"
            + (", or raise prepare.max_rejected." if found.paths else ".")
        )


def _assign_splits(found: Found, kept: Kept, split: Split) -> np.ndarray:
    """Return the place in SPLITS of each item (count,).

    Without an official split, by the pixels' hash alone. With one it stays; validation, where it is not official too,
    is carved from the official training images in the proportion of the shares.
    """
    uniform = kept.hashes[kept.items, 0] / 2.0**64
    by_hash = (uniform >= split.train).astype(np.int64) + (uniform >= split.train + split.validation)
    official = kept.official[kept.items]
    from_train = np.zeros(len(kept.items), dtype=np.int64)
    if 2 not in found.official:
        from_train = (uniform >= split.train / (split.train + split.validation)).astype(np.int64)
    return np.select([official == 0, official == 1], [by_hash, from_train], official.astype(np.int64) - 1)


def _check_splits(found: Found, kept: Kept, counts: dict[str, int], split: Split, source: SourceConfig) -> None:
    if all(counts.values()):
        return
    got = ", ".join(str(counts[name]) for name in SPLITS)
    if any(found.official):
        raise WorkFailed(
            f"training, validation and test need at least one image each and got {got}: the split that {source.path} "
            "comes in leaves one empty (an image that is in two of its parts counts for validation or test). Add images"
            + (", or set data.split_folders: never." if found.named else ".")
        )
    enough = math.ceil(5 / min(split.train, split.validation, split.test))
    raise WorkFailed(
        f"{counted(len(kept.items), 'distinct image')} among {len(found.paths):,} in {source.path} will not do: "
        f"training, validation and test need at least one each and got {got}. "
        f"Three are the least, about {enough} are safe with these shares: add images, or change prepare.split."
    )
