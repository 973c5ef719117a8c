from __future__ import annotations

import csv
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from aecore.artifact import read_manifest
from aecore.config import Runtime, UserError, WorkFailed, build
from aecore.data.attributes import FILES, read_attributes
from aecore.data.images import ATTRIBUTE, Images
from aecore.data.prepare import PrepareConfig, prepare
from aecore.data.sources import SourceConfig
from aecore.search.filters import matching

COUNT = 40
NAMES = [f"{number % 2}/é {number:02d}.png" for number in range(COUNT)]
TABLE: dict[str, list[Any]] = {
    "file": NAMES,
    "smiling": [number % 3 == 0 for number in range(COUNT)],
    "hair": [("black", "", "grey, short")[number % 3] for number in range(COUNT)],
    "age": list(range(COUNT)),
}


def write_csv(folder: Path, table: dict[str, list[Any]] = TABLE) -> None:
    with (folder / "attributes.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(table)
        rows.writerows(zip(*table.values(), strict=True))


def write_parquet(folder: Path, table: dict[str, list[Any]] = TABLE) -> None:
    pq.write_table(pa.table(table), folder / "attributes.parquet")


def fill(folder: Path) -> Path:
    for number, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (6, 6), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def run(source: Path, out: Path, batches: bool = False, max_rejected: float = 0) -> Images:
    values = {"size": 6, "channels": 1, "fit": "crop", "split": {"train": 0.6, "validation": 0.2, "test": 0.2},
              "max_rejected": max_rejected, "max_pixels": 10_000}  # fmt: skip
    prepare(SourceConfig("folder", str(source), batches, "auto"), build(PrepareConfig, values, "prepare"),
            Runtime(0, 1, "cpu"), out)  # fmt: skip
    return Images.open(out)


@pytest.mark.parametrize("write", [write_csv, write_parquet])
@pytest.mark.parametrize("batches", [False, True])
def test_every_image_keeps_its_attributes(write: Any, batches: bool, tmp_path: Path) -> None:
    source = fill(tmp_path / "in")
    write(source)
    images = run(source, tmp_path / "out", batches)
    found = images.attributes()
    assert list(found) == ["smiling", "hair", "age"]
    places = [NAMES.index(path) for path in images.items["path"].to_pylist()]
    assert sorted(places) == list(range(COUNT))
    assert places != sorted(places)
    assert found["smiling"].dtype == np.bool_
    assert found["smiling"].tolist() == [TABLE["smiling"][place] for place in places]
    assert found["hair"].tolist() == [TABLE["hair"][place] for place in places]
    assert found["age"].tolist() == [str(place) for place in places]
    assert images.manifest.facts["rejected"] == 0
    schema = pq.read_schema(tmp_path / "out" / "items.parquet")
    assert schema.names[-3:] == ["attribute.smiling", "attribute.hair", "attribute.age"]


def test_csv_and_parquet_give_the_same_bytes(tmp_path: Path) -> None:
    source = fill(tmp_path / "in")
    write_csv(source)
    run(source, tmp_path / "csv")
    (source / "attributes.csv").unlink()
    write_parquet(source)
    run(source, tmp_path / "parquet")
    assert (tmp_path / "csv/items.parquet").read_bytes() == (tmp_path / "parquet/items.parquet").read_bytes()


def test_the_table_is_part_of_what_was_prepared(tmp_path: Path) -> None:
    source = fill(tmp_path / "in")
    run(source, tmp_path / "none")
    write_csv(source)
    run(source, tmp_path / "some")
    assert Images.open(tmp_path / "none").attributes() == {}
    digests = {read_manifest(tmp_path / name, "data").digest for name in ("none", "some")}
    assert len(digests) == 2
    assert (tmp_path / "none/images-00000.npy").read_bytes() == (tmp_path / "some/images-00000.npy").read_bytes()


def test_a_duplicate_keeps_what_is_said_of_the_item(tmp_path: Path) -> None:
    source = fill(tmp_path / "in")
    with Image.open(source / NAMES[0]) as picture:
        picture.save(source / "0/copy.bmp")
    write_csv(source, {"file": [*NAMES, "0/copy.bmp"], "original": [True] * COUNT + [False]})
    images = run(source, tmp_path / "out")
    shown = dict(zip(images.items["path"].to_pylist(), images.attributes()["original"].tolist(), strict=True))
    assert len(shown) == COUNT
    assert ("0/copy.bmp" in shown) == (not all(shown.values()))
    assert shown.get("0/copy.bmp") in (None, False)


def test_an_image_that_the_table_lacks_is_rejected(tmp_path: Path) -> None:
    source = fill(tmp_path / "in")
    write_csv(source, {name: column[2:] for name, column in TABLE.items()})
    (source / "notes.txt").write_text("not an image, so it needs no row")
    with pytest.raises(WorkFailed, match=r"2 of 40 images.*é 00\.png: it has no row in the table of attributes"):
        run(source, tmp_path / "out")
    assert run(source, tmp_path / "out", max_rejected=0.1).count == COUNT - 2


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["true", "False", "TRUE"], [True, False, True]),
        (["1", "0", "0"], [True, False, False]),
        (["1", "0", "2"], ["1", "0", "2"]),
        (["1", "true", "false"], ["1", "true", "false"]),
        (["yes", "", "no"], ["yes", "", "no"]),
        (["", "", ""], ["", "", ""]),
        (["NA", "null", "nan"], ["NA", "null", "nan"]),
        (["001", "1e3", "-1"], ["001", "1e3", "-1"]),
    ],
)
def test_what_is_a_truth_and_what_is_text(values: list[str], expected: list[Any], tmp_path: Path) -> None:
    write_csv(tmp_path, {"file": ["a", "b", "c"], "x": values})
    table = read_attributes(tmp_path, "abc")
    assert table is not None
    assert table["x"].to_pylist() == expected


def test_columns_of_parquet(tmp_path: Path) -> None:
    columns = {"f": ["a", "b"], "f2": [1.5, 2.0], "w": [None, "x"], "d": pa.array(["p", "q"]).dictionary_encode()}
    write_parquet(tmp_path, columns)
    table = read_attributes(tmp_path, "ab")
    assert table is not None
    assert {name: table[name].to_pylist() for name in table.column_names[1:]} == {
        "f2": ["1.5", "2"], "w": ["", "x"], "d": ["p", "q"]}  # fmt: skip


def test_an_attribute_may_be_called_as_the_first_column(tmp_path: Path) -> None:
    (tmp_path / "attributes.csv").write_text("\ufeffpath,path\na,left\n", encoding="utf-8")
    table = read_attributes(tmp_path, "a")
    assert table is not None
    assert [column.to_pylist() for column in table.columns] == [["a"], ["left"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not readable as a table"),
        (b"file,x\na,1,2\n", "not readable as a table"),
        (b"file,x\na,\xff\n", "not readable as a table .*not in UTF-8"),
        (b"file\na\n", "1 column; expected the path of a file, then an attribute"),
        (b"file,x,\na,1,2\n", "column 3 has no name"),
        (b"file,x,x\na,1,2\n", "two columns 'x'"),
        (b"file,x\na,1\nb,2\na,3\n", "two rows for 'a'"),
        (b"file,x\na,1\nc,2\n", "names 'c', which is not below .*relative to that folder"),
        (b"file,x\na,1\nB,2\n", r"names 'B', which is not below .* \(did you mean 'b'\?\)"),
        (b"file,x\na,1\n/b,2\n", "names '/b', which is not below"),
        (b"file,x\na,1\n../b,2\n", "names '../b', which is not below"),
        (b"file,x\na,1\n./a,2\n", "two rows for 'a'"),
        (b"file;x\na;1,5\n", "has semicolons between its columns; expected commas"),
        (b"file\tx\na\t1\n", "has tabs between its columns"),
        ("file,x\na,1\n".encode("utf-16"), "it is UTF-16.*save it in UTF-8"),
        ("file,x\na,1\n".encode("utf-16-be"), "it is UTF-16"),
        (b"file,x\xe9\na,1\n", "it is not in UTF-8"),
        (b"file,x\na,1\n" + b"b,2\n" * 9000 + b"b,\xe9\n", "it is not in UTF-8"),
        (b"file,x,x \na,1,2\n", "two columns 'x'"),
        (b"file, \na,1\n", "column 2 has no name"),
        (b"file,x\na,true\nb,\n", "x of b is empty; expected true or false"),
        (b"file,x\na,\nb,0\n", "x of a is empty; expected 1 or 0"),
    ],
)
def test_a_malformed_table_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "attributes.csv").write_bytes(content)
    with pytest.raises(UserError, match=rf"attributes\.csv.*{message}"):
        read_attributes(tmp_path, "ab")


def test_a_malformed_parquet_is_named(tmp_path: Path) -> None:
    file = tmp_path / "attributes.parquet"
    write_parquet(tmp_path, {"file": ["a"], "x": [[1, 2]]})
    whole = file.read_bytes()
    for content in (whole, whole[:-20], b"", b"text"):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"attributes\.parquet is not readable as a table"):
            read_attributes(tmp_path, "a")


def test_two_tables_are_refused(tmp_path: Path) -> None:
    source = fill(tmp_path / "in")
    for first, second in (FILES, ("Attributes.CSV", "attributes.csv"), ("ATTRIBUTES.Parquet", "attributes.csv")):
        for name in (first, second):
            (source / name).touch()
        with pytest.raises(UserError, match=rf"holds {first} and {second}, each a table of attributes: keep one"):
            run(source, tmp_path / "out")
        for name in (first, second):
            (source / name).unlink()


@pytest.mark.parametrize("name", ["Attributes.CSV", "ATTRIBUTES.csv", "Attributes.Parquet"])
def test_a_table_is_found_by_its_name_in_any_case(name: str, tmp_path: Path) -> None:
    source = fill(tmp_path / "in")
    (write_csv if name.lower().endswith("csv") else write_parquet)(source)
    (source / f"attributes.{name[11:].lower()}").rename(source / name)
    images = run(source, tmp_path / "out")
    assert list(images.attributes()) == ["smiling", "hair", "age"]
    assert images.manifest.facts["rejected"] == 0  # it is no file that was passed over


def test_a_table_that_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "attributes.csv").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"attributes\.csv is no regular file"):
        read_attributes(tmp_path, "a")


@pytest.mark.parametrize(
    ("first", "second"),
    [("Smiling", "smiling"), ("Straße", "STRASSE"), ("É", "é"), ("é", "e\u0301"), ("É", "e\u0301"),
     ("\u0130", "i\u0307"), ("ς", "Σ"), ('q"X', 'q"x'), ("a.B", "A.b"), ("Smiling ", "smiling"),
     ("two\nlines", "Two\nlines")],
)  # fmt: skip
@pytest.mark.parametrize("write", [write_csv, write_parquet])
def test_columns_that_are_one_to_sql_are_refused(first: str, second: str, write: Any, tmp_path: Path) -> None:
    write(tmp_path, {"file": ["a", "b"], first: ["yes", "no"], "age": ["1", "2"], second: ["000", "001"]})
    named = rf"(?=.*{re.escape(ascii(first.strip()))})(?=.*{re.escape(ascii(second))})"
    with pytest.raises(UserError, match=rf"attributes\.(csv|parquet) has columns {named}.*Rename or remove one"):
        read_attributes(tmp_path, "ab")


@pytest.mark.parametrize("write", [write_csv, write_parquet])
def test_every_other_name_is_a_column_that_a_condition_can_name(write: Any, tmp_path: Path) -> None:
    named = [
        "Label",
        "id",
        "cluster",
        "ıd",
        "a",
        "a.b",
        'q"x',
        "it's",
        "attribute.x",
        "x y",
        "two\nlines",
        "İ",
        "i",
        "$x^$",
    ]
    source = fill(tmp_path / "in")
    columns = {name: [f"{place}-{number % 4}" for number in range(COUNT)] for place, name in enumerate(named)}
    write(source, {"file": NAMES} | columns)
    items = run(source, tmp_path / "out").described
    shown = items["path"].to_pylist()
    for place, name in enumerate(named):
        quoted = ATTRIBUTE + name.replace('"', '""')
        found = matching(items, f"\"{quoted}\" = '{place}-3'")
        assert sorted(shown[row] for row in found) == sorted(NAMES[3::4]), name
    assert len(matching(items, "label = 1")) == COUNT // 2  # the built-in column is untouched


def test_spaces_around_a_name_are_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "attributes.csv").write_text("file, smiling , hair\na, true, dark brown\n")
    table = read_attributes(tmp_path, "a")
    assert table is not None
    assert table.to_pydict() == {"file": ["a"], "smiling": [True], "hair": [" dark brown"]}


@pytest.mark.parametrize("rows", [1, 24, 30_000])
def test_lines_break_inside_quotes_at_any_size(rows: int, tmp_path: Path) -> None:
    names = [f"a/{number}.png" for number in range(rows)]
    said = [f'first "line", {number}\nsecond\r\n\r\nthird' for number in range(rows)]
    write_csv(tmp_path, {"file": names, "two\nlines": said, "even": [number % 2 == 0 for number in range(rows)]})
    table = read_attributes(tmp_path, names)
    assert table is not None
    assert table.column_names == ["file", "two\nlines", "even"]
    assert table["two\nlines"].to_pylist() == said
    assert table["even"].to_pylist() == [number % 2 == 0 for number in range(rows)]


def test_a_cell_may_be_as_large_as_it_likes(tmp_path: Path) -> None:
    large = "line\n" * 2**20
    write_csv(tmp_path, {"file": ["a", "b", "c"], "x": ["1", large, "3"]})
    table = read_attributes(tmp_path, "abc")
    assert table is not None
    assert table["x"].to_pylist() == ["1", large, "3"]


@pytest.mark.parametrize("text", ["\n\nfile,x\na,1\n", "file,x\r\n\r\na,1\r\n", "file,x\ra,1\r", "file,x\na,1"])
def test_empty_lines_and_the_ends_of_lines_are_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "attributes.csv").write_bytes(text.encode("utf-8-sig"))
    table = read_attributes(tmp_path, "a")
    assert table is not None
    assert table.to_pydict() == {"file": ["a"], "x": [True]}


def test_paths_are_those_on_the_disk_however_they_are_written(tmp_path: Path) -> None:
    composed, apart = "caf\u00e9/\u00e9.png", "cafe\u0301/e\u0301.png"
    there = [apart, "a/b.png", "a/c.png", "back\\slash.png", "d.png", "E\u0301.png", "\u00c9.png"]
    written = [composed, "./a/b.png", "a\\c.png", "back\\slash.png", ".//./d.png", "./\u00c9.png", "E\u0301.png"]
    meant = [apart, "a/b.png", "a/c.png", "back\\slash.png", "d.png", "\u00c9.png", "E\u0301.png"]
    write_csv(tmp_path, {"file": written, "x": written})
    table = read_attributes(tmp_path, there)
    assert table is not None
    assert [column.to_pylist() for column in table.columns] == [meant, written]


def test_a_path_that_two_files_could_be_is_refused_naming_both(tmp_path: Path) -> None:
    there = ["\u1e69.png", "s\u0323\u0307.png"]
    write_csv(tmp_path, {"file": ["\u1e63\u0307.png"], "x": ["1"]})  # a third way to write it
    with pytest.raises(UserError, match=r"'s\\u0323\\u0307\.png' and '\\u1e69\.png' both look like it"):
        read_attributes(tmp_path, there)
    write_csv(tmp_path, {"file": ["\u1e69.png", "\u1e63\u0307.png"], "x": ["1", "0"]})
    with pytest.raises(UserError, match="two rows for"):
        read_attributes(tmp_path, there[:1])


def test_names_are_composed_on_paper_and_apart_on_the_disk(tmp_path: Path) -> None:
    source = fill(tmp_path / "in")
    for name in NAMES:  # as macOS writes them
        (source / name).rename(source / unicodedata.normalize("NFD", name))
    write_csv(source)
    images = run(source, tmp_path / "out")
    assert images.count == COUNT
    assert set(images.items["path"].to_pylist()) == {unicodedata.normalize("NFD", name) for name in NAMES}
    places = [NAMES.index(unicodedata.normalize("NFC", path)) for path in images.items["path"].to_pylist()]
    assert images.attributes()["age"].tolist() == [str(place) for place in places]
