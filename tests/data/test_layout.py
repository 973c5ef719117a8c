"""What folders mean: labels, or the split that the images come in (`data.split_folders`)."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from aecore.artifact import read_manifest
from aecore.config import Runtime, UserError, WorkFailed, build
from aecore.data import prepare as stage
from aecore.data.entry import SplitFolders
from aecore.data.layout import Layout, read_layout, split_of, taken_for_splits
from aecore.data.prepare import PrepareConfig, Summary, prepare
from aecore.data.sources import SourceConfig
from aecore.data.trees import folder

VALUES: dict[str, Any] = {
    "size": 6, "channels": 1, "fit": "crop", "split": {"train": 0.6, "validation": 0.2, "test": 0.2},
    "max_rejected": 0.1, "max_pixels": 10_000,
}  # fmt: skip


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (6, 6), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def tree(root: Path, counts: dict[str, int], first: int = 0) -> Path:
    """Write so many images of their own into each folder."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            (root / name / f"{first:04d}.png").write_bytes(png(first))
            first += 1
    return root


def pack(source: Path, path: Path) -> Path:
    """Put a folder, under its own name, into a zip or a tar."""
    members = sorted(p for p in source.rglob("*") if p.is_file())
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as packed:
            for member in members:
                packed.write(member, member.relative_to(source.parent))
    else:
        with tarfile.open(path, "w") as packed_tar:
            for member in reversed(members):
                packed_tar.add(member, str(member.relative_to(source.parent)))
    return path


def run(
    path: Path, out: Path, source: str = "folder", batches: bool = False, split_folders: SplitFolders = "auto"
) -> Summary:
    config = SourceConfig(source, str(path), batches, split_folders)
    return prepare(config, build(PrepareConfig, VALUES, "prepare"), Runtime(0, 1, "cpu"), out)


def shown(out: Path) -> Counter[tuple[str, str, str | None]]:
    """How many items there are of each folder, split and label."""
    rows = pq.read_table(out / "items.parquet", columns=["path", "split", "label_name"]).to_pylist()
    return Counter((row["path"].rpartition("/")[0], row["split"], row["label_name"]) for row in rows)


def layout(paths: list[str], packed: bool = False, split_folders: SplitFolders = "auto", batch: str = "") -> Layout:
    return read_layout(paths, [batch] * len(paths), packed=packed, split_folders=split_folders)


@pytest.mark.parametrize(
    ("paths", "packed", "labels"),
    [
        (["a/1", "b/2", "3"], False, ["a", "b", None]),
        (["a/1", "a/2"], False, [None, None]),
        (["top/a/1", "top/b/2"], False, [None, None]),
        (["top/a/1", "top/b/2"], True, ["a", "b"]),
        (["x/y/a/1", "x/y/b/q/2"], True, ["a", "b"]),
        (["top/1", "top/2"], True, [None, None]),
        (["1", "2"], True, [None, None]),
        ([], True, []),
    ],
)
@pytest.mark.parametrize("split_folders", ["auto", "never"])
def test_the_first_folder_is_the_label(
    paths: list[str], packed: bool, labels: list[str | None], split_folders: SplitFolders
) -> None:
    assert layout(paths, packed, split_folders) == Layout(labels, [None] * len(paths), "")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"), ("Training", "train"), ("TRAIN_SET", "train"), ("training-data", "train"),
        ("train2017", "train"), ("trn", "train"), ("train_images", "train"), ("Training Set", "train"),
        ("val", "validation"), ("valid", "validation"), ("Validation", "validation"), ("dev", "validation"),
        ("val2017", "validation"), ("test", "test"), ("testing", "test"), ("test_set_2014", "test"),
        ("trains", None), ("train1", None), ("mytrain", None), ("te", None), ("valley", None), ("", None),
        ("train\n", None), ("contest", None), ("all", None),
    ],
)  # fmt: skip
def test_how_people_call_the_folder_of_a_split(name: str, split: str | None) -> None:
    assert split_of(name) == split


COUNTS = {"Train/cat": 20, "Train/dog": 20, "test/cat": 6, "test/dog": 4, "valid/dog": 5}
EXPECTED = Counter(
    {("Train/cat", "train", "cat"): 20, ("Train/dog", "train", "dog"): 20, ("test/cat", "test", "cat"): 6,
     ("test/dog", "test", "dog"): 4, ("valid/dog", "validation", "dog"): 5}
)  # fmt: skip


@pytest.mark.parametrize("split_folders", ["auto", "always"])
@pytest.mark.parametrize("kind", ["folder", "pets.zip", "pets.tar"])
def test_the_split_that_folders_come_in_is_kept(kind: str, split_folders: SplitFolders, tmp_path: Path) -> None:
    pets = tree(tmp_path / "pets", COUNTS)
    if kind == "folder":
        summary = run(pets, tmp_path / "out", split_folders=split_folders)
        expected = EXPECTED
    else:
        summary = run(pack(pets, tmp_path / kind), tmp_path / "out", "archive", split_folders=split_folders)
        expected = Counter({(f"pets/{path}", split, label): n for (path, split, label), n in EXPECTED.items()})
    assert shown(tmp_path / "out") == expected
    assert summary.layout == (
        "took Train/ (40 images) as training, valid/ (5 images) as validation, test/ (10 images) as test; labels from "
        "the folders below. data.split_folders: never takes the top folders for labels."
    )


def test_validation_is_carved_from_training_where_there_is_none(tmp_path: Path) -> None:
    summary = run(tree(tmp_path / "in", {"train/a": 30, "train/b": 30, "test/a": 9, "test/b": 1}), tmp_path / "out")
    found = shown(tmp_path / "out")
    assert {path for path, split, _ in found if split == "validation"} == {"train/a", "train/b"}
    assert {path: label for path, _, label in found} == {"train/a": "a", "train/b": "b", "test/a": "a", "test/b": "b"}
    assert {split for path, split, _ in found if path.startswith("test")} == {"test"}
    assert sum(count for (path, _, _), count in found.items() if path.startswith("train")) == 60
    assert "; validation is carved from training;" in summary.layout


def test_validation_is_the_test_where_there_is_no_other(tmp_path: Path) -> None:
    summary = run(tree(tmp_path / "in", {"train/a": 30, "train/b": 10, "val/a": 5, "val/b": 5}), tmp_path / "out")
    found = shown(tmp_path / "out")
    assert {split for path, split, _ in found if path.startswith("val")} == {"test"}
    assert {split for path, split, _ in found if path.startswith("train")} == {"train", "validation"}
    assert "val/ (10 images) as test" in summary.layout


def test_training_alone_is_split_by_pixels(tmp_path: Path) -> None:
    summary = run(tree(tmp_path / "in", {"train/a": 30, "train/b": 30}), tmp_path / "out")
    found = shown(tmp_path / "out")
    assert {split for _, split, _ in found} == {"train", "validation", "test"}
    assert {label for _, _, label in found} == {"a", "b"}
    run(tree(tmp_path / "bare", {"a": 30, "b": 30}), tmp_path / "beside")
    assert {(path.removeprefix("train/"), *rest) for path, *rest in found} == set(shown(tmp_path / "beside"))
    assert "train/ (60 images) is for training, and nothing is for testing" in summary.layout


def test_images_that_lie_in_the_split_folders_themselves_have_no_label(tmp_path: Path) -> None:
    source = tree(tmp_path / "in", {"train": 20, "test": 5, ".": 4})
    summary = run(source, tmp_path / "out")
    found = shown(tmp_path / "out")
    assert {label for _, _, label in found} == {None}
    assert {split for path, split, _ in found if path == "test"} == {"test"}
    assert "no labels" in summary.layout
    assert "4 in no folder are split by their pixels" in summary.layout
    with pytest.raises(UserError, match="always, but images lie in no folder at all"):
        run(source, tmp_path / "out", split_folders="always")


def test_a_split_without_labels_beside_one_with_them_is_told() -> None:
    found = layout(["train/cat/1", "train/dog/2", "test/3", "val/4"])
    assert found.labels == ["cat", "dog", None, None]
    assert found.splits == ["train", "train", "test", "validation"]
    assert "labels from the folders below (none in val/, test/)." in found.told


def test_batches_are_judged_together_below_their_folders(tmp_path: Path) -> None:
    parts = {"2026-01/train/cat": 20, "2026-01/test/dog": 5, "2026-01/train/dog": 20, "2026-02/test/cat": 5}
    source = tree(tmp_path / "in", parts)
    (source / "stray.png").write_bytes(png(999))
    run(source, tmp_path / "out", batches=True, split_folders="always")
    found = shown(tmp_path / "out")
    assert {(path, label) for path, _, label in found} == {(path, path[-3:]) for path in parts}
    assert {split for path, split, _ in found if "test" in path} == {"test"}
    for batch in ("2026-01", "2026-02"):
        pack(source / batch, tmp_path / f"{batch}.zip")
    archives = tmp_path / "archives"
    archives.mkdir()
    for batch in ("2026-01", "2026-02"):
        (tmp_path / f"{batch}.zip").rename(archives / f"{batch}.zip")
    run(archives, tmp_path / "packed", "archive", batches=True)
    packed = shown(tmp_path / "packed").items()
    assert {(path.split("/", 1)[1], split, label): count for (path, split, label), count in packed} == found


def test_the_one_top_folder_of_an_archive_is_passed_over_first() -> None:
    for top in ("", "all/", "all/of it/", "test/"):  # the last is packaging, since what lies in it is a whole split
        found = layout([f"{top}train/a/1", f"{top}train/b/2", f"{top}val/b/3"], packed=True)
        assert (found.labels, found.splits) == (["a", "b", "b"], ["train", "train", "test"])
    found = layout(["all/train/a/1", "all/train/b/2"], packed=True)
    assert (found.labels, found.splits) == (["a", "b"], [None, None])
    assert "nothing is for testing" in found.told
    assert layout(["train/a/1", "train/b/2"], packed=True, split_folders="never").labels == ["a", "b"]


@pytest.mark.parametrize(
    ("paths", "told"),
    [
        (
            ["train/a/1", "test/a/2", "extra/a/3"],
            "test/, train/: named after splits, and taken for labels, since 'extra'",
        ),
        (["test/a/1", "val/b/2"], "test/, val/: named after splits, and taken for labels, since none is for training"),
        (["test/a/1", "test/b/2"], "since none is for training"),
        (["train/1", "car/2", "bus/3"], ""),  # a vehicle
        (["train/1", "training/2", "\x1bcar/3"], ""),
        (["train/1", "test/2", "\x1bcar/3"], r"since '\x1bcar' beside them"),
    ],
)
def test_folders_that_are_taken_for_labels_although_named_after_splits_are_told(paths: list[str], told: str) -> None:
    found = layout(paths)
    assert found.splits == [None] * len(paths)
    assert set(found.labels) <= {path.split("/")[0] for path in paths} | {None}
    assert told in found.told
    assert bool(told) == bool(found.told)


def test_a_split_in_a_folder_of_its_own_is_told() -> None:
    paths = ["pets/train/cat/1", "pets/test/cat/2", "pets/train/dog/3"]
    found = layout(paths)
    assert (found.labels, found.splits) == ([None] * 3, [None] * 3)
    assert (
        found.told
        == "test/, train/: named after splits, but in 'pets'; let data.path lead there if they shall be kept."
    )
    for others in (["birds/train/1"], ["0.png"]):
        assert layout([*paths, *others]).told == ""
    assert layout(paths, split_folders="never").told == ""
    assert layout(["pets/train/cat/1", "pets/cover.png"]).told == ""


def test_never_takes_them_for_labels_and_says_so(tmp_path: Path) -> None:
    summary = run(tree(tmp_path / "in", COUNTS), tmp_path / "out", split_folders="never")
    assert {(path.split("/")[0], label) for path, _, label in shown(tmp_path / "out")} == {
        ("Train", "Train"), ("test", "test"), ("valid", "valid")}  # fmt: skip
    assert summary.layout == (
        "Train/, test/, valid/: named after splits, and taken for labels, since data.split_folders is never."
    )


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (
            {"train/a": 3, "extra\n/b": 3},
            r"always, but the top folder 'extra\\n' is named after no split \(known: train",
        ),
        ({"test/a": 3, "val/b": 3}, "always, but no top folder is for training"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_always_refuses_what_is_no_split(
    counts: dict[str, int], message: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tree(tmp_path / "in", counts)
    if kind == "archive":
        path = pack(path, tmp_path / "in.zip")
    else:
        monkeypatch.setattr(stage, "read_all", None)  # told before anything is read
    with pytest.raises(UserError, match=message):
        run(path, tmp_path / "out", kind, split_folders="always")
    assert not (tmp_path / "out").exists()


def test_a_split_that_leaves_nothing_to_train_on_is_told(tmp_path: Path) -> None:
    source = tree(tmp_path / "in", {"train/a": 3, "test/a": 3})
    for number in range(3):  # the same pictures: they count for the test
        (source / f"train/a/{number:04d}.png").write_bytes(png(number + 3))
    with pytest.raises(WorkFailed, match=r"got 0, 0, 3: the split that .* comes in.*or set data\.split_folders: never"):
        run(source, tmp_path / "out")


def test_empty_and_unreadable_folders_do_not_count(tmp_path: Path) -> None:
    source = tree(tmp_path / "in", {"train/a": 40, "test/b": 8, "notes": 0, "validation/a": 0})
    (source / "notes/readme.txt").write_text("no image")
    (source / "validation/a/1.png").write_text("no image")
    summary = run(source, tmp_path / "out")
    assert "validation is carved from training" in summary.layout
    assert {path for path, split, _ in shown(tmp_path / "out") if split == "test"} == {"test/b"}


def test_an_image_in_two_splits_counts_for_the_test(tmp_path: Path) -> None:
    source = tree(tmp_path / "in", {"train/a": 40, "test/b": 8})
    (source / "train/a/copy.png").write_bytes((source / "test/b/0040.png").read_bytes())
    run(source, tmp_path / "out")
    assert shown(tmp_path / "out").total() == 48
    assert sum(count for (_, split, _), count in shown(tmp_path / "out").items() if split == "test") == 8


def test_it_is_the_same_twice_and_part_of_what_is_prepared(tmp_path: Path) -> None:
    source = tree(tmp_path / "in", COUNTS)
    made = [tmp_path / name for name in ("one", "two")]
    for out in made:
        run(source, out)
    first, second = ({p.name: p.read_bytes() for p in out.iterdir()} for out in made)
    assert first == second
    run(source, tmp_path / "never", split_folders="never")
    taken, left = (read_manifest(tmp_path / name, "data") for name in ("one", "never"))
    assert (taken.facts["split_folders"], left.facts["split_folders"]) == ("auto", "never")
    assert taken.digest != left.digest
    assert taken.facts["splits"] == {"train": 40, "validation": 5, "test": 10}


def test_prepare_says_it_on_standard_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tree(tmp_path / "in", COUNTS)
    Path("params.yaml").write_text(
        "run: {seed: 0, threads: 1, device: cpu}\n"
        "data: {source: folder, path: in, batches: false, split_folders: auto}\n"
        "prepare: {size: 6, channels: 1, fit: crop, split: {train: 0.6, validation: 0.2, test: 0.2}, "
        "max_rejected: 0.1, max_pixels: 10000}\n"
    )
    stage.main()
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 1
    assert printed.err.startswith("aecore prepare: took Train/ (40 images) as training, valid/ ")
    assert printed.err.count("\n") == 1


def test_a_folder_knows_its_top_folders_before_the_end(tmp_path: Path) -> None:
    source = tree(tmp_path / "in", {"one/train/a": 1, "two/test/b": 1, "one": 1})
    (source / "one/notes.txt").write_text("no image")
    found = {b: folder(source, 10**6, batches=b, split_folders="auto").top_folders for b in (False, True)}
    assert found == {False: {"one", "two"}, True: {"train", "test", ""}}
    assert taken_for_splits(found[True] or (), "auto") == {"": None, "test": "test", "train": "train"}
