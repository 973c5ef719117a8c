from __future__ import annotations

import csv
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
from aecore.data.images import Images
from aecore.data.prepare import PrepareConfig, prepare
from aecore.data.sources import SourceConfig

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
        (b"file,x\na,\xff\n", "not readable as a table"),
        (b"file\na\n", "1 column; expected the path of a file, then an attribute"),
        (b"file,x,\na,1,2\n", "column 3 has no name"),
        (b"file,x,x\na,1,2\n", "two columns 'x'"),
        (b"file,x\na,1\nb,2\na,3\n", "two rows for 'a'"),
        (b"file,x\na,1\n./b,2\n", "names './b', which is not below .*relative to that folder"),
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
    for name in FILES:
        (source / name).touch()
    with pytest.raises(UserError, match=r"holds both attributes\.csv and attributes\.parquet"):
        run(source, tmp_path / "out")
