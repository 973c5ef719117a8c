from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from aecore.artifact import read_manifest, verify
from aecore.config import Runtime, UserError, WorkFailed, build
from aecore.data import items, prepare, reading
from aecore.data.arrays import write_idx
from aecore.data.decode import content_hash, content_id
from aecore.data.images import Images
from aecore.data.listing import Listing
from aecore.data.prepare import PrepareConfig, Split, main
from aecore.data.sources import SourceConfig

SHARES = Split(0.6, 0.2, 0.2)
VALUES: dict[str, Any] = {
    "size": 6, "channels": 1, "fit": "crop", "split": {"train": 0.6, "validation": 0.2, "test": 0.2},
    "max_rejected": 0.1, "max_pixels": 10_000,
}  # fmt: skip


def picture(number: int, side: int = 6) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (side, side), dtype=np.uint8))


def png(number: int) -> bytes:
    file = io.BytesIO()
    picture(number).save(file, "PNG")
    return file.getvalue()


def fill(folder: Path, numbers: range) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"{number:03d}.png").write_bytes(png(number))
    return folder


def run(
    path: Path, out: Path, source: str = "folder", batches: bool = False, threads: int = 2, **changes: Any
) -> prepare.Summary:
    config = build(PrepareConfig, VALUES | changes, "prepare")
    return prepare.prepare(SourceConfig(source, str(path), batches, "auto"), config, Runtime(0, threads, "cpu"), out)


def rows(out: Path, table: str = "items") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(out / f"{table}.parquet").to_pylist()
    return found


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0}, "size is 0"),
        ({"size": [6, 6, 6]}, "size is"),
        ({"size": []}, "size is"),
        ({"size": 2.5}, "size is 2.5"),
        ({"size": True}, "size is True"),
        ({"channels": 2}, "channels is 2; choose one of 1, 3"),
        ({"fit": "croop"}, "did you mean 'crop'"),
        ({"split": {"train": 0.7, "validation": 0.2, "test": 0.2}}, r"train \+ validation \+ test is .*expected 1"),
        ({"split": {"train": 1, "validation": 0, "test": 0}}, r"split\.train is 1"),
        ({"split": {"train": 0.6, "validation": 0.4}}, "split.test is missing"),
        ({"max_rejected": 1.5}, "max_rejected is 1.5"),
        ({"max_pixels": 0}, "max_pixels is 0"),
        ({"maxpixels": 1}, "did you mean 'max_pixels'"),
    ],
)
def test_configuration_is_strict(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(PrepareConfig, VALUES | changes, "params.yaml: prepare")


def test_the_table_describes_every_image(tmp_path: Path) -> None:
    source = tmp_path / "in"
    fill(source / "b", range(20))
    fill(source / "a", range(20, 40))
    summary = run(source, tmp_path / "out")
    images = Images.open(tmp_path / "out")
    table = rows(tmp_path / "out")
    assert images.count == len(table) == 40
    assert [row["id"] for row in table] == sorted(row["id"] for row in table)
    pixels = images.rows(np.arange(40))
    for row, shown in zip(table, pixels, strict=True):
        data = (source / row["path"]).read_bytes()
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
        assert row["id"] == content_id(bytes.fromhex(row["sha256"])) == int(row["sha256"][:16], 16) >> 1
        np.testing.assert_array_equal(shown[0], np.asarray(Image.open(io.BytesIO(data))))
        assert row["pixel_hash"] == content_hash(shown).hex()
        assert row["label_name"] == row["path"][0]
        assert row["label"] == "ab".index(row["label_name"])
        assert (row["width"], row["height"], row["batch"]) == (6, 6, "")
        uniform = int(row["pixel_hash"][:16], 16) / 2**64
        assert row["split"] == ("train" if uniform < 0.6 else "validation" if uniform < 0.8 else "test")
    facts = images.manifest.facts
    assert {name: facts[name] for name in ("count", "channels", "height", "width", "fit", "shards")} == {
        "count": 40, "channels": 1, "height": 6, "width": 6, "fit": "crop", "shards": [40]}  # fmt: skip
    assert facts["labels"] == ["a", "b"]
    assert facts["splits"] == summary.splits
    assert sum(summary.splits.values()) == 40
    assert str(summary).startswith("prepared 40 images")
    verify(tmp_path / "out", images.manifest, deep=True)
    assert pq.read_schema(tmp_path / "out" / "items.parquet").remove_metadata() == pa.schema(
        {"id": pa.int64(), "path": pa.string(), "batch": pa.string(), "sha256": pa.string(), "pixel_hash": pa.string(),
         "label": pa.int32(), "label_name": pa.string(), "split": pa.string(), "width": pa.int32(),
         "height": pa.int32(), "shard": pa.int32(), "row": pa.int32()})  # fmt: skip


def test_two_runs_and_other_threads_give_the_same_bytes(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", range(150))
    (source / "bad.png").write_bytes(b"")
    for name, threads in (("one", 1), ("two", 2), ("three", 5)):
        run(source, tmp_path / name, threads=threads)
    assert files(tmp_path / "one") == files(tmp_path / "two") == files(tmp_path / "three")


def test_growing_gives_the_same_bytes_as_starting_over_and_leaves_shards_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items, "SHARD_BYTES", 128 + 36 * 16)
    source = tmp_path / "in"
    fill(source / "b1", range(40))
    run(source, tmp_path / "grown", batches=True)
    before = files(tmp_path / "grown")
    old = {row["pixel_hash"]: row for row in rows(tmp_path / "grown")}
    fill(source / "b2", range(35, 60))  # five of them again
    run(source, tmp_path / "grown", batches=True)
    run(source, tmp_path / "fresh", batches=True)
    after = files(tmp_path / "grown")
    assert after == files(tmp_path / "fresh")
    assert read_manifest(tmp_path / "grown", "data").facts["shards"] == [16, 16, 8, 16, 4]
    for shard in ("images-00000.npy", "images-00001.npy", "images-00002.npy"):
        assert before[shard] == after[shard]
    assert rows(tmp_path / "grown")[:40] == list(old.values())
    for batch in ("b1", "b2"):
        ids = [row["id"] for row in rows(tmp_path / "grown") if row["batch"] == batch]
        assert ids == sorted(ids)
    assert [row["batch"] for row in rows(tmp_path / "grown", "aliases")] == ["b2"] * 5


def test_split_is_stable_under_growth(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", range(60))
    run(source, tmp_path / "out")
    before = {row["id"]: row["split"] for row in rows(tmp_path / "out")}
    fill(source, range(60, 120))
    run(source, tmp_path / "out")
    after = {row["id"]: row["split"] for row in rows(tmp_path / "out")}
    assert {key: after[key] for key in before} == before


def test_duplicates_are_aliases_of_the_smallest_id(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", range(40))
    picture(0).save(source / "same.bmp")
    (source / "copy.png").write_bytes(png(1))
    run(source, tmp_path / "out")
    assert Images.open(tmp_path / "out").count == 40
    by_path = {row["path"]: row for row in rows(tmp_path / "out") + rows(tmp_path / "out", "aliases")}
    aliases = {row["path"]: row for row in rows(tmp_path / "out", "aliases")}
    assert len(aliases) == 2
    pair = sorted(("000.png", "same.bmp"), key=lambda name: by_path[name]["id"])
    assert aliases[pair[1]]["item"] == by_path[pair[0]]["id"]
    assert aliases["copy.png"]["item"] == aliases["copy.png"]["id"] == by_path["001.png"]["id"]
    assert read_manifest(tmp_path / "out", "data").facts["aliases"] == 2


def test_the_same_file_again_is_told_from_another_that_becomes_the_same(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", range(40))
    alone = str(run(source, tmp_path / "out"))
    assert alone.endswith("; 0 duplicates, 0 rejected")
    (source / "copy.png").write_bytes(png(1))
    assert str(run(source, tmp_path / "out")).endswith("; 1 duplicate, 0 rejected")
    for name, colour in (("red", (255, 0, 0)), ("grey", (76, 76, 76)), ("blue", (0, 0, 255))):
        Image.new("RGB", (6, 6), colour).save(source / f"{name}.png")
    (source / "red again.png").write_bytes((source / "red.png").read_bytes())
    grey = run(source, tmp_path / "out")  # red and grey are as light as each other, blue is not
    assert (grey.aliases, grey.repeated) == (3, 2)
    assert str(grey).endswith("; 2 duplicates, 1 more file with the same pixels once prepared, 0 rejected")
    colour = run(source, tmp_path / "out", channels=3)
    assert (colour.aliases, colour.repeated) == (2, 2)
    assert str(colour).startswith(f"prepared 43 images in {tmp_path / 'out'}: ")


def fashion(folder: Path, train: np.ndarray, test: np.ndarray) -> Path:
    folder.mkdir()
    for part, images in (("train", train), ("t10k", test)):
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", np.arange(len(images), dtype=np.uint8) % 10)
    return folder


def test_official_splits_are_kept_and_validation_is_carved_from_training(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (260, 6, 6), dtype=np.uint8)
    images[7] = images[205]  # straddles the official split
    run(fashion(tmp_path / "in", images[:200], images[200:]), tmp_path / "out", source="fashion_mnist")
    table = rows(tmp_path / "out")
    assert len(table) == 259
    twins = {content_id(content_hash(images[7]))}
    for row in table:
        uniform = int(row["pixel_hash"][:16], 16) / 2**64
        if row["id"] in twins or row["path"].startswith("t10k"):
            assert row["split"] == "test"
        else:
            assert row["split"] == ("train" if uniform < 0.75 else "validation")
        assert row["label"] == int(row["path"].rsplit("#", 1)[1]) % 10
    counts = read_manifest(tmp_path / "out", "data").facts["splits"]
    assert counts["test"] == 60
    assert 30 <= counts["validation"] <= 70
    assert table[0]["label_name"] in ("T-shirt/top", "Trouser") or table[0]["label"] > 1


def test_zip_tar_and_folder_give_the_same_shards(tmp_path: Path) -> None:
    source = tmp_path / "in"
    fill(source / "a", range(20))
    fill(source / "b", range(20, 40))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive, tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        for path in sorted(source.rglob("*.png"), reverse=True):
            archive.write(path, f"x/{path.relative_to(source)}")
            tar.add(path, path.relative_to(source))
    run(source, tmp_path / "folder")
    run(tmp_path / "x.zip", tmp_path / "zip", source="archive")
    run(tmp_path / "x.tar.gz", tmp_path / "tar", source="archive")
    of_the_source = ("listing.npy", "manifest.json")
    same = [{name: content for name, content in files(tmp_path / made).items() if name not in of_the_source}
            for made in ("folder", "tar")]  # fmt: skip
    assert same[0] == same[1]
    assert files(tmp_path / "folder")["images-00000.npy"] == files(tmp_path / "zip")["images-00000.npy"]
    assert [row["label_name"] for row in rows(tmp_path / "folder")] == [r["label_name"] for r in rows(tmp_path / "zip")]


def test_the_listing_is_taken_before_the_first_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, read = fill(tmp_path / "in", range(40)), prepare.read_all

    def late(*arguments: Any, **named: Any) -> Any:
        fill(source, range(40, 43))
        (source / "000.png").unlink()
        return read(*arguments, **named)

    monkeypatch.setattr(prepare, "read_all", late)
    run(source, tmp_path / "out", max_rejected=0.5)
    seen = Listing.load(tmp_path / "out")
    assert seen is not None
    now = [(path.name, path.stat().st_size) for path in source.iterdir()]
    assert seen.until(Listing.of(now)) == (3, 1, 0)
    facts = read_manifest(tmp_path / "out", "data").facts["listing"]
    assert (facts["files"], len(facts["digest"])) == (40, 64)


def test_links_in_a_circle_are_rejected_and_the_rest_is_read(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", range(40))
    (source / "self.png").symlink_to("self.png")
    (source / "up").symlink_to("..")
    run(source, tmp_path / "out")
    assert [(row["path"], "symbolic links" in row["reason"]) for row in rows(tmp_path / "out", "rejected")] == [
        ("self.png", True)]  # fmt: skip


def test_rejected_files_are_listed_with_their_reason(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", range(40))
    (source / "empty.png").touch()
    (source / "cut.png").write_bytes(png(1)[:-30])
    (source / "fake.jpg").write_text("hello")
    (source / "notes.txt").write_text("hello")
    (source / "README").write_text("hello")
    summary = run(source, tmp_path / "out")
    listed = {row["path"]: row["reason"] for row in rows(tmp_path / "out", "rejected")}
    assert list(listed) == ["README", "cut.png", "empty.png", "fake.jpg", "notes.txt"]
    assert listed["empty.png"] == "the file is empty"
    assert "not an image" in listed["fake.jpg"]
    assert summary.rejected == 5
    assert "rejected.parquet" in str(summary)
    with pytest.raises(WorkFailed, match=r"^3 of 43 images.*7\.0%.*max_rejected.*cut\.png: .*fake\.jpg: "):
        run(source, tmp_path / "out", max_rejected=0.05)
    assert Images.open(tmp_path / "out").count == 40  # the earlier artefact is untouched


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda folder: None, UserError, "empty folder"),
        (lambda folder: (folder / "a.txt").write_text("x"), UserError, "no image in .*1 other file;.*a.txt"),
        (lambda folder: (folder / "README").write_text("x"), UserError, "no image in"),
        (lambda folder: (folder / "a.png").write_text("x"), WorkFailed, "1 of 1 image in"),
        (lambda folder: fill(folder, range(1)), WorkFailed, "1 distinct image.*among 1 in"),
        (lambda folder: [(folder / f"{i}.png").write_bytes(png(0)) for i in range(9)], WorkFailed,
         "1 distinct image.*among 9.*25 are safe"),
    ],
)  # fmt: skip
def test_data_that_are_not_enough(make: Any, error: type[UserError], message: str, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    make(source)
    with pytest.raises(error, match=message) as caught:
        run(source, tmp_path / "out")
    assert type(caught.value) is error
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("where", ["pixels", "shard", "table"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = fill(tmp_path / "in", range(40))
    run(source, tmp_path / "out" / "prepared")
    before = files(tmp_path / "out" / "prepared")

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    target = {"pixels": (reading, "_record"), "shard": (np.lib.format, "write_array_header_1_0"),
              "table": (pq, "ParquetWriter")}[where]  # fmt: skip
    monkeypatch.setattr(*target, full)
    with pytest.raises(WorkFailed, match=r"disk that holds .*/out is full"):
        run(source, tmp_path / "out" / "prepared")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["prepared"]
    assert files(tmp_path / "out" / "prepared") == before


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = fill(tmp_path / "in", range(200))

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(reading, "_record", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_height_and_width_and_colour(tmp_path: Path) -> None:
    run(fill(tmp_path / "in", range(40)), tmp_path / "out", size=[4, 8], channels=3, fit="pad")
    assert Images.open(tmp_path / "out").shape == (3, 4, 8)


def test_few_chunks_are_in_flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the decoding, what was read ahead stays bounded."""
    source = fill(tmp_path / "in", range(400))
    opened, recorded, most = [0], [0], [0]
    entries, record = prepare.open_source, reading._record

    def counted(config: SourceConfig, limit: int) -> Any:
        stream = entries(config, limit)

        def count() -> Any:
            for entry in stream.entries:
                opened[0] += 1
                most[0] = max(most[0], opened[0] - recorded[0])
                yield entry

        return dataclasses.replace(stream, entries=count())

    def counted_record(*args: Any) -> None:
        recorded[0] += 1
        record(*args)

    monkeypatch.setattr(prepare, "open_source", counted)
    monkeypatch.setattr(reading, "_record", counted_record)
    run(source, tmp_path / "out")
    assert recorded[0] == 400
    assert most[0] <= (2 * 2 + 1) * reading.CHUNK


@pytest.mark.parametrize("most", [1, 20_000, 2**30])
def test_few_bytes_are_in_flight(most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a tar's reader runs ahead is bounded by bytes, not by entries alone; the result is the same."""
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for number in range(200):
            info, content = tarfile.TarInfo(f"{number:03d}.png"), png(number) + bytes(2_000)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    run(tmp_path / "x.tar", tmp_path / "expected", "archive")
    monkeypatch.setattr(reading, "IN_FLIGHT", most)
    held, reached = [0], [0]
    entries, record = prepare.open_source, reading._record

    def counted(config: SourceConfig, limit: int) -> Any:
        stream = entries(config, limit)

        def count() -> Any:
            for entry in stream.entries:
                assert entry.held == len(entry.read())
                held[0] += entry.held + 36
                reached[0] = max(reached[0], held[0])
                yield entry

        return dataclasses.replace(stream, entries=count())

    def counted_record(found: Any, entry: Any, *rest: Any) -> None:
        held[0] -= entry.held + 36
        record(found, entry, *rest)

    monkeypatch.setattr(prepare, "open_source", counted)
    monkeypatch.setattr(reading, "_record", counted_record)
    run(tmp_path / "x.tar", tmp_path / "out", "archive")
    assert files(tmp_path / "out") == files(tmp_path / "expected")
    one = len(png(0)) + 2_100
    bound = max(most, one) + most // 5 + one  # what waits, and the chunk that is being read
    assert reached[0] <= min(bound, 5 * reading.CHUNK * one)
    assert reached[0] > min(most, 100_000)  # and it does read ahead


def test_names_that_are_not_utf8_reach_the_tables(tmp_path: Path) -> None:
    source = fill(tmp_path / "in" / "good", range(40)).parent
    fill(Path(os.fsdecode(os.fsencode(source) + b"/caf\xe9")), range(2))
    run(source, tmp_path / "out", batches=True, max_rejected=0.5)
    table = rows(tmp_path / "out", "rejected")
    assert [(row["batch"], row["path"]) for row in table] == [
        ("caf\\xe9", "caf\\xe9/000.png"), ("caf\\xe9", "caf\\xe9/001.png")]  # fmt: skip

    archives = tmp_path / "archives"
    archives.mkdir()
    for name in (b"good.zip", b"caf\xe9.zip", b"caf\xe9.txt"):
        with zipfile.ZipFile(os.fsdecode(os.fsencode(archives) + b"/" + name), "w") as archive:
            for number in range(40) if name == b"good.zip" else range(1):
                archive.writestr(f"{number}.png", png(number))
    run(archives, tmp_path / "out", "archive", batches=True, max_rejected=0.5)
    assert sorted((row["batch"], row["path"]) for row in rows(tmp_path / "out", "rejected")) == [
        ("", "caf\\xe9.txt"), ("caf\\xe9.zip", "caf\\xe9.zip/0.png")]  # fmt: skip


def test_main_reads_params_and_prints_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "pictures", range(40))
    Path("params.yaml").write_text(
        "run: {seed: 0, threads: 1, device: cpu}\n"
        "data: {source: folder, path: pictures, batches: false, split_folders: auto}\n"
        "prepare: {size: 6, channels: 1, fit: crop, split: {train: 0.6, validation: 0.2, test: 0.2}, "
        "max_rejected: 0.1, max_pixels: 10000}\n"
    )
    main()
    printed = capsys.readouterr()
    assert printed.out.startswith("prepared 40 images in data/prepared: ")
    assert printed.out.count("\n") == 1
    assert printed.err == ""
    assert sorted(path.name for path in Path("data").iterdir()) == ["prepared"]
