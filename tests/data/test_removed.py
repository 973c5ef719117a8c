"""The list of removed images, and that `prepare` keeps to it."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aecore.artifact import read_manifest
from aecore.config import Runtime, UserError, build
from aecore.data import prepare as stage
from aecore.data.arrays import write_idx
from aecore.data.decode import Preparation, content_hash, content_id, decode
from aecore.data.prepare import PrepareConfig
from aecore.data.removed import Removals, Row, parsed, told
from aecore.data.sources import SourceConfig
from tests.data.test_prepare import VALUES, fill, picture, png, rows

HASH = "ab" * 32


def as_row(data: bytes, **changes: Any) -> Row:
    """Of a file that was removed while images were prepared as VALUES say, or with `changes`."""
    preparation = build(PrepareConfig, VALUES | changes, "prepare").preparation
    item_id = content_id(content_hash(data))
    return Row(item_id, item_id, content_hash(decode(data, preparation).pixels).hex(), told(preparation))


def other_file(number: int) -> bytes:
    """The same picture in another format."""
    file = io.BytesIO()
    picture(number).save(file, "BMP")
    return file.getvalue()


def run(path: Path, out: Path, *removed: Row, **changes: Any) -> stage.Summary:
    source = SourceConfig("folder", str(path), False, "auto")
    config = build(PrepareConfig, VALUES | changes, "prepare")
    return stage.prepare(source, config, Runtime(0, 2, "cpu"), out, Removals(frozenset(removed)))


def paths(out: Path) -> set[str]:
    return {row["path"] for table in ("items", "aliases", "rejected") for row in rows(out, table)}


def test_a_list_is_read_as_it_was_written(tmp_path: Path) -> None:
    ids = [random.Random(n).randrange(2**63) for n in range(40)]
    listed = [Row(ids[n % 5], ids[n], HASH if n % 3 else "", "3x64x48 pad") for n in range(40)]
    removals = Removals(frozenset(listed))
    removals.write(tmp_path / "new" / "removed.csv")
    again = Removals.read(tmp_path / "new" / "removed.csv")
    assert again == removals
    assert again.digest == removals.digest != Removals().digest
    lines = (tmp_path / "new" / "removed.csv").read_text().splitlines()
    (tmp_path / "turned.csv").write_text("\r\n".join([lines[0], *lines[:0:-1], "", ""]))
    assert Removals.read(tmp_path / "turned.csv").digest == removals.digest


def test_the_shipped_list_is_empty_and_so_is_a_missing_one(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2] / "data/removed.csv"
    assert Removals.read(shipped) == Removals.read(tmp_path / "nothing") == Removals()
    Removals().write(tmp_path / "empty")
    assert (tmp_path / "empty").read_bytes() == shipped.read_bytes()


@pytest.mark.parametrize("line", [
    "1,2,3",
    f"x,2,{HASH},1x6x6 crop",
    f"1,-2,{HASH},1x6x6 crop",
    f"1,{2**63},{HASH},1x6x6 crop",
    "1,2,abcd,1x6x6 crop",
    f"1,2,{HASH},1x6 crop",
    f"1,2,{HASH},1x6x6 cropped",
    f"1,2,{HASH},1x0x6 crop",
    f"1,2,{HASH},7x6x6 crop",
    "<<<<<<< HEAD",
])  # fmt: skip
def test_a_line_that_is_none_is_named(line: str, tmp_path: Path) -> None:
    file = tmp_path / "removed.csv"
    file.write_text(f"image,id,pixel_hash,preparation\n1,1,{HASH},1x6x6 crop\n{line}\n")
    with pytest.raises(UserError, match=r"removed\.csv, line 3 is not .*bring it back"):
        Removals.read(file)


@pytest.mark.parametrize("content", [b"", b"id\n1\n", b"\xff\xfe\x00", b"\0\0", b"x" * 200_000])
def test_a_table_that_is_none_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "removed.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"removed\.csv.*bring it back"):
        Removals.read(tmp_path / "removed.csv")


def test_withdrawing_one_file_withdraws_its_image_and_no_other() -> None:
    removals = Removals(frozenset(Row(image, image + n, HASH, "1x6x6 crop") for image in (10, 20, 30) for n in (0, 1)))
    assert {row.image for row in removals.together([21]).rows} == {10, 20, 30}  # they share their pixels
    apart = Removals(frozenset(row._replace(pixel_hash=f"{row.image:064x}") for row in removals.rows))
    assert {row.image for row in (apart - apart.together([21, 10])).rows} == {30}
    assert apart.together([5]) == Removals()
    bridged = apart | Removals(frozenset([Row(20, 31, "", "1x6x6 crop")]))
    assert {row.image for row in bridged.together([21]).rows} == {20, 30}


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_preparation_is_told_and_read(fit: Any) -> None:
    preparation = Preparation(64, 48, 3, fit, 99)
    assert parsed(told(preparation), 99) == preparation


def test_prepare_leaves_out_what_was_removed_and_says_so(tmp_path: Path) -> None:
    fill(tmp_path / "in" / "kept", range(20))
    fill(tmp_path / "in" / "anna", range(20, 22))
    summary = run(tmp_path / "in", tmp_path / "out", as_row(png(3)), as_row(png(20)), as_row(png(21)))
    assert "3 passed over since data/removed.csv names them" in str(summary)
    assert len(rows(tmp_path / "out")) == 19
    assert paths(tmp_path / "out").isdisjoint({"kept/003.png", "anna/020.png", "anna/021.png"})
    manifest = read_manifest(tmp_path / "out", "data")
    assert manifest.facts["removed"] == 3
    assert manifest.facts["labels"] is None  # a label that only they had is not told either
    assert manifest.digest != read_manifest(_again(tmp_path), "data").digest


def _again(tmp_path: Path) -> Path:
    """The same images, of which nobody removed any: they were taken out of the folder."""
    for name in ("kept/003.png", "anna/020.png", "anna/021.png"):
        (tmp_path / "in" / name).unlink()
    run(tmp_path / "in", tmp_path / "again")
    return tmp_path / "again"


@pytest.mark.parametrize("changes", [{}, {"size": 4}, {"channels": 3}, {"fit": "pad", "size": [5, 6]}])
def test_a_removed_picture_stays_away_as_another_file_and_at_another_size(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    """Neither its file nor another one with its pixels is found, however images are prepared now."""
    fill(tmp_path / "in", range(20))
    (tmp_path / "in" / "again.bmp").write_bytes(other_file(3))
    summary = run(tmp_path / "in", tmp_path / "both", as_row(png(3)), **changes)
    assert summary.removed == 2
    assert paths(tmp_path / "both").isdisjoint({"003.png", "again.bmp"})
    (tmp_path / "in" / "003.png").unlink()
    summary = run(tmp_path / "in", tmp_path / "other", as_row(png(3)), **changes)
    assert summary.removed == 1
    assert "again.bmp" not in paths(tmp_path / "other")


def test_files_of_equal_pixels_go_with_the_one_whose_id_is_listed(tmp_path: Path) -> None:
    """So they do where the decoder changed: the pixels' hash in the list is that of no picture any more."""
    fill(tmp_path / "in", range(20))
    (tmp_path / "in" / "again.bmp").write_bytes(other_file(3))
    (tmp_path / "in" / "0before.bmp").write_bytes(other_file(3) + b"\0")
    summary = run(tmp_path / "in", tmp_path / "out", as_row(png(3))._replace(pixel_hash=HASH))
    assert summary.removed == 3
    assert paths(tmp_path / "out") == {f"{n:03d}.png" for n in range(20)} - {"003.png"}


def test_a_removed_file_that_is_damaged_now_is_no_failure(tmp_path: Path) -> None:
    fill(tmp_path / "in", range(20))
    (tmp_path / "in" / "x.png").write_bytes(b"broken")
    broken = content_id(content_hash(b"broken"))
    summary = run(tmp_path / "in", tmp_path / "out", Row(broken, broken, "", "1x6x6 crop"), max_rejected=0)
    assert (summary.removed, summary.rejected) == (1, 0)


def test_where_all_were_removed_the_way_out_is_told(tmp_path: Path) -> None:
    fill(tmp_path / "in", range(2))
    with pytest.raises(UserError, match=r"no image in .*2 were removed: `python -m aecore inspect --removed`"):
        run(tmp_path / "in", tmp_path / "out", as_row(png(0)), as_row(png(1)))


def test_an_image_given_as_an_array_stays_away(tmp_path: Path) -> None:
    source = tmp_path / "idx"
    source.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (30, 6, 6), np.uint8)
    write_idx(source / "images-idx3-ubyte.gz", images)
    write_idx(source / "labels-idx1-ubyte.gz", np.arange(30, dtype=np.uint8) % 10)
    item_id = content_id(content_hash(images[7]))
    config = build(PrepareConfig, VALUES, "prepare")
    row = Row(item_id, item_id, "", "1x6x6 crop")
    summary = stage.prepare(SourceConfig("fashion_mnist_10k", str(source), False, "auto"), config, Runtime(0, 1, "cpu"),
                            tmp_path / "out", Removals(frozenset([row])))  # fmt: skip
    assert summary.removed == 1
    assert "images-idx3-ubyte.gz#7" not in paths(tmp_path / "out")
    assert len(rows(tmp_path / "out")) == 29
