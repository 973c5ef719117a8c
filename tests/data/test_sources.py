from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aecore.config import UserError, WorkFailed, build
from aecore.data.arrays import BUNDLED_FILES, read_images, read_labels, write_idx
from aecore.data.decode import content_hash, content_id
from aecore.data.entry import Entry, Unreadable
from aecore.data.fetch import DEBIAN, choose_bundle, fetch, make_bundle
from aecore.data.layout import read_layout
from aecore.data.sources import SourceConfig, open_source

BUNDLE = Path(__file__).parents[2] / "data/raw/fashion_mnist_10k"
LIMIT = 100_000


def png(value: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 4), value).save(file, "PNG")
    return file.getvalue()


def put(root: Path, *names: str, content: bytes = b"") -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content or png(len(name)))
    return root


def entries(source: str, path: Path, batches: bool = False, limit: int = LIMIT) -> list[Entry]:
    return list(open_source(SourceConfig(source, str(path), batches, "auto"), limit).entries)


def labels(paths: list[str], batches: list[str], packed: bool = False) -> list[str | None]:
    return read_layout(paths, batches, packed=packed, split_folders="auto").labels


def reason(entry: Entry) -> str:
    with pytest.raises(Unreadable) as caught:
        entry.read()
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": "foldr"}, r"data\.source 'foldr' is not known.*'folder'"),
        ({"path": ""}, r"data\.path"),
        ({"source": "fashion_mnist", "batches": True}, r"data\.batches is True; expected false"),
        ({"source": "torchvision:CIFAR10", "batches": True}, r"data\.batches"),
        ({"source": "torchvision:a.b"}, r"data\.source"),
        ({"source": "torchvision:"}, r"data\.source"),
        ({"split_folders": "allways"}, r"data\.split_folders is 'allways'.*did you mean 'always'"),
        *(
            ({"source": source, "split_folders": "always"}, rf"data\.split_folders is 'always'.*source: {source}")
            for source in ("fashion_mnist_10k", "fashion_mnist", "avatars", "torchvision:CIFAR10")
        ),
    ],
)
def test_configuration_is_strict(values: dict[str, object], message: str) -> None:
    whole: dict[str, object] = {"source": "folder", "path": "x", "batches": False, "split_folders": "auto"}
    with pytest.raises(UserError, match=message):
        build(SourceConfig, whole | values, "params.yaml: data")


@pytest.mark.parametrize("key", ["source", "path", "batches", "split_folders"])
def test_no_key_may_be_missing(key: str) -> None:
    whole = {"source": "folder", "path": "x", "batches": False, "split_folders": "auto"}
    build(SourceConfig, whole, "params.yaml: data")
    with pytest.raises(UserError, match=rf"data\.{key} is missing"):
        build(SourceConfig, {name: value for name, value in whole.items() if name != key}, "params.yaml: data")


def test_folder_is_read_in_sorted_order_without_hidden_files(tmp_path: Path) -> None:
    put(
        tmp_path,
        "b/2.png",
        "b/10.jpg",
        "a/x.PNG",
        "top.jpeg",
        ".hidden.png",
        ".git/a.png",
        "__MACOSX/a.png",
        "a/._x.png",
    )
    found = entries("folder", tmp_path)
    assert [e.path for e in found] == ["a/x.PNG", "b/10.jpg", "b/2.png", "top.jpeg"]
    assert {e.batch for e in found} == {""}
    assert found[0].read() == (tmp_path / "a/x.PNG").read_bytes()
    assert open_source(SourceConfig("folder", str(tmp_path), False, "auto"), LIMIT).total == 4


def test_a_table_of_attributes_that_is_not_read_says_why(tmp_path: Path) -> None:
    """It is read at the top of a folder: not below, and not in an archive."""
    put(tmp_path / "in", "a/attributes.csv", "a/x.png")
    packed = make_archive(tmp_path / "x.zip", {"Attributes.CSV": b"path,x", "a/x.png": png()})
    for source, path in (("folder", tmp_path / "in"), ("archive", packed)):
        table, image = sorted(entries(source, path), key=lambda entry: entry.path.endswith("png"))
        assert reason(table) == "a table of attributes is read at the top of a folder alone"
        assert not table.counts
        assert image.read()


def test_what_is_no_image_by_name_is_rejected_and_does_not_count(tmp_path: Path) -> None:
    put(tmp_path, "labels.csv", "photo.heic", "README", "x.png")
    found = {e.path: e for e in entries("folder", tmp_path)}
    assert "suffix .csv" in reason(found["labels.csv"])
    assert "convert" in reason(found["photo.heic"])
    assert {name: e.counts for name, e in found.items()} == {
        "labels.csv": False, "photo.heic": True, "README": False, "x.png": True}  # fmt: skip


def test_batches_are_the_first_folders(tmp_path: Path) -> None:
    put(tmp_path, "b2/shoes/1.png", "b1/shoes/1.png", "b1/bags/1.png", "stray.png")
    found = entries("folder", tmp_path, batches=True)
    assert [(e.batch, e.path) for e in found] == [
        ("b1", "b1/bags/1.png"), ("b1", "b1/shoes/1.png"), ("b2", "b2/shoes/1.png"), ("", "stray.png")]  # fmt: skip
    assert "beside the batch folders" in reason(found[3])
    paths, batches = [e.path for e in found[:3]], [e.batch for e in found[:3]]
    assert labels(paths, batches) == ["bags", "shoes", "shoes"]


def test_a_name_that_is_not_utf8_is_rejected_with_its_bytes(tmp_path: Path) -> None:
    put(tmp_path, "good.png")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).write_bytes(png())
    bad, good = entries("folder", tmp_path)
    assert bad.path == "caf\\xe9.png"
    assert "UTF-8" in reason(bad)
    assert good.path == "good.png"


def test_links_are_followed_but_not_in_a_circle(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", "x.png")
    root = put(tmp_path / "root", "a/y.png")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "up").symlink_to(root)
    (root / "z.png").symlink_to(root / "nowhere.png")
    (root / "self.png").symlink_to("self.png")
    (root / "one.png").symlink_to("two.png")
    (root / "two.png").symlink_to("one.png")
    found = entries("folder", root)
    assert [e.path for e in found] == ["a/y.png", "linked/x.png", "one.png", "self.png", "two.png", "z.png"]
    for entry in found[2:]:
        with pytest.raises(OSError, match=r"No such file|Too many levels"):
            entry.read()


def test_a_pipe_and_a_huge_file_are_refused_unread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with (tmp_path / "b.png").open("wb") as file:
        file.truncate(LIMIT + 1)
    pipe, huge = entries("folder", tmp_path)
    assert "regular" in reason(pipe)
    assert "max_pixels" in reason(huge)


@pytest.mark.parametrize("source", ["folder", "archive"])
def test_nothing_there(source: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not there"):
        entries(source, tmp_path / "missing")


def test_wrong_kind_of_path(tmp_path: Path) -> None:
    file = put(tmp_path, "x.png") / "x.png"
    empty = tmp_path / "empty"
    empty.mkdir()
    for source, path, batches, message in [
        ("folder", file, False, "is a file"),
        ("folder", empty, False, "empty folder"),
        ("archive", empty, False, "is a folder"),
        ("archive", file, True, "is a file"),
        ("archive", empty, True, "empty folder"),
    ]:
        with pytest.raises(UserError, match=message):
            entries(source, path, batches)


def make_archive(path: Path, members: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    else:
        mode = {".gz": "w:gz", ".xz": "w:xz", ".bz2": "w:bz2"}.get(path.suffix, "w")
        with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


MEMBERS = {
    "all/": b"",
    "all/b/2.png": png(2),
    "all/a/1.png": png(1),
    "all/.DS_Store": b"x",
    "__MACOSX/all/a/._1.png": b"x",
    "all/notes.txt": b"text",
}
KINDS = ["x.zip", "x.tar", "x.tar.gz", "x.tar.xz", "x.tar.bz2"]


@pytest.mark.parametrize("name", KINDS)
def test_archive(name: str, tmp_path: Path) -> None:
    members = MEMBERS if name == "x.zip" else {k: v for k, v in MEMBERS.items() if not k.endswith("/")}
    found = {e.path: e for e in entries("archive", make_archive(tmp_path / name, members))}
    assert set(found) == {"all/a/1.png", "all/b/2.png", "all/notes.txt"}
    assert found["all/a/1.png"].read() == png(1)
    assert found["all/b/2.png"].read() == png(2)
    assert not found["all/notes.txt"].counts
    assert labels(["all/a/1.png", "all/b/2.png"], ["", ""], packed=True) == ["a", "b"]


@pytest.mark.parametrize("name", KINDS)
def test_damaged_archive_is_named(name: str, tmp_path: Path) -> None:
    path = make_archive(tmp_path / name, {f"{i}.png": os.urandom(5000) for i in range(4)})
    whole = path.read_bytes()
    for cut in (len(whole) // 2, 1536 + 4096 + 512 if name == "x.tar" else 3000, 0, 10):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=name.replace(".", r"\.")):
            entries("archive", path)
    path.write_text("not an archive" * 100)
    with pytest.raises(UserError, match="not a zip or tar archive"):
        entries("archive", path)


def test_a_damaged_member_of_a_zip_is_rejected_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", png(1))
        archive.writestr("b.png", png(2))
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT")] ^= 255
    path.write_bytes(data)
    first, second = entries("archive", path)
    with pytest.raises(zipfile.BadZipFile):
        first.read()
    assert second.read() == png(2)


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
def test_a_huge_member_is_refused(name: str, tmp_path: Path) -> None:
    path = make_archive(tmp_path / name, {"a.png": bytes(LIMIT + 1), "b.png": png()})
    first, second = entries("archive", path)
    assert "max_pixels" in reason(first)
    assert second.read() == png()


def test_a_folder_of_archives_is_batches(tmp_path: Path) -> None:
    make_archive(tmp_path / "2026-02.zip", {"feb/shoes/a.png": png(1), "feb/bags/b.png": png(2)})
    make_archive(tmp_path / "2026-01.tar", {"shoes/c.png": png(3)})
    (tmp_path / "notes.txt").write_text("x")
    found = entries("archive", tmp_path, batches=True)
    assert [(e.batch, e.path) for e in found] == [
        ("2026-01.tar", "2026-01.tar/shoes/c.png"),
        ("2026-02.zip", "2026-02.zip/feb/bags/b.png"),
        ("2026-02.zip", "2026-02.zip/feb/shoes/a.png"),
        ("", "notes.txt"),
    ]
    assert labels([e.path for e in found[:3]], [e.batch for e in found[:3]], packed=True) == ["shoes", "bags", "shoes"]


def write_fashion(folder: Path, train: int = 5, test: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(1)
    for part, count in (("train", train), ("t10k", test)):
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", generator.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8) % 10)
    return folder


def test_fashion_mnist_has_its_official_split(tmp_path: Path) -> None:
    found = entries("fashion_mnist", write_fashion(tmp_path))
    assert [e.split for e in found] == ["train"] * 5 + ["test"] * 3
    assert [e.label for e in found] == [0, 1, 2, 3, 4, 0, 1, 2]
    assert found[5].path == "t10k-images-idx3-ubyte.gz#0"
    array = found[5].read()
    assert isinstance(array, np.ndarray)
    assert (array.shape, array.dtype) == ((28, 28), np.uint8)


def test_missing_fashion_mnist_says_both_ways(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"python -m aecore fetch.*apt install dataset-fashion-mnist.*torchvision"):
        entries("fashion_mnist", tmp_path)


def test_damaged_idx_is_named(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    images, labels = tmp_path / "train-images-idx3-ubyte.gz", tmp_path / "train-labels-idx1-ubyte.gz"
    good_images, good_labels = images.read_bytes(), labels.read_bytes()
    damages = [
        (images, good_images[:-100], "damaged"),
        (images, b"", "damaged"),
        (images, b"text", "damaged"),
        (images, good_labels, "not an IDX file of images|damaged"),
        (labels, good_images, "not an IDX file of labels"),
        (labels, gzip.compress(struct.pack(">II", 0x801, 4) + bytes(4)), "different numbers"),
        (labels, gzip.compress(struct.pack(">II", 0x801, 9) + bytes(4)), "damaged"),
        (labels, gzip.compress(struct.pack(">II", 0x801, 5) + b"\x0a" * 5), "label 10"),
    ]
    for file, content, message in damages:
        images.write_bytes(good_images)
        labels.write_bytes(good_labels)
        file.write_bytes(content)
        with pytest.raises(UserError, match=message):
            entries("fashion_mnist", tmp_path)


def test_bundle_is_a_thousand_of_each_class() -> None:
    found = entries("fashion_mnist_10k", BUNDLE)
    assert np.bincount([e.label or 0 for e in found]).tolist() == [1000] * 10
    assert {e.split for e in found} == {None}
    assert "MIT" in (BUNDLE / "LICENSE").read_text()


def test_choose_bundle() -> None:
    labels = np.array([0, 1, 0, 1, 0, 1])
    ids = np.array([5, 1, 3, 9, 4, 2])
    assert choose_bundle(labels, ids, 2).tolist() == [1, 2, 4, 5]


def test_make_bundle_is_deterministic_and_in_the_original_order(tmp_path: Path) -> None:
    source = write_fashion(tmp_path / "source", train=40)
    for name in ("one", "two"):
        make_bundle(source, tmp_path / name, per_class=2)
    files = ("images-idx3-ubyte.gz", "labels-idx1-ubyte.gz")
    assert [(tmp_path / "one" / f).read_bytes() for f in files] == [(tmp_path / "two" / f).read_bytes() for f in files]
    labels = read_labels(tmp_path / "one" / files[1])
    assert np.bincount(labels).tolist() == [2] * 10
    originals = [image.tobytes() for image in read_images(source / "train-images-idx3-ubyte.gz")]
    places = [originals.index(image.tobytes()) for image in read_images(tmp_path / "one" / files[0])]
    assert places == sorted(places)
    assert [place % 10 for place in places] == labels.tolist()


def test_fetch_copies_from_the_package(tmp_path: Path) -> None:
    package = write_fashion(tmp_path / "package")
    config = SourceConfig("fashion_mnist", str(tmp_path / "data"), False, "auto")
    assert "copied 4 files" in fetch(config, package)
    assert len(entries("fashion_mnist", tmp_path / "data")) == 8
    (tmp_path / "data" / "train-labels-idx1-ubyte.gz").unlink()
    assert "copied 1 file " in fetch(config, package)
    assert "nothing to fetch" in fetch(config, tmp_path / "gone")
    assert len(list((tmp_path / "data").iterdir())) == 4


def test_fetch_of_what_cannot_be_fetched(tmp_path: Path) -> None:
    assert "nothing to fetch" in fetch(SourceConfig("folder", str(put(tmp_path, "x.png")), False, "auto"))
    with pytest.raises(UserError, match="is not there"):
        fetch(SourceConfig("folder", str(tmp_path / "missing"), False, "auto"))


def test_torchvision_by_name(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    for name in write_fashion(tmp_path / "gz").iterdir():
        raw.mkdir(parents=True, exist_ok=True)
        (raw / name.stem).write_bytes(gzip.decompress(name.read_bytes()))
    found = entries("torchvision:MNIST", tmp_path)
    assert [e.split for e in found] == ["train"] * 5 + ["test"] * 3
    assert [e.path for e in found][4:6] == ["MNIST/train#4", "MNIST/test#0"]
    assert [e.label for e in found] == [0, 1, 2, 3, 4, 0, 1, 2]
    expected = list(read_images(tmp_path / "gz" / "t10k-images-idx3-ubyte.gz"))
    np.testing.assert_array_equal(np.asarray(found[7].read()), expected[2])


def test_torchvision_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="python -m aecore fetch"):
        entries("torchvision:CIFAR10", tmp_path)
    with pytest.raises(UserError, match="no data set 'cifar10'"):
        entries("torchvision:cifar10", tmp_path)
    with pytest.raises(UserError, match="cannot be downloaded"):
        entries("torchvision:ImageNet", tmp_path)


def test_a_failed_download_names_the_other_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str, path: Path, *, download: bool) -> None:
        raise UserError("torchvision cannot bring FashionMNIST")

    monkeypatch.setattr("aecore.data.fetch.torchvision_parts", offline)
    with pytest.raises(WorkFailed, match="apt install dataset-fashion-mnist"):
        fetch(SourceConfig("fashion_mnist", str(tmp_path / "data"), False, "auto"), tmp_path / "no package")
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="the package dataset-fashion-mnist is not installed")
def test_the_bundle_follows_its_rule() -> None:
    def ids(file: Path) -> np.ndarray:
        return np.array([content_id(content_hash(image)) for image in read_images(file)])

    labels, every = read_labels(DEBIAN / "train-labels-idx1-ubyte.gz"), ids(DEBIAN / "train-images-idx3-ubyte.gz")
    places = choose_bundle(labels, every, 1000)
    np.testing.assert_array_equal(ids(BUNDLE / BUNDLED_FILES[0]), every[places])
    np.testing.assert_array_equal(read_labels(BUNDLE / BUNDLED_FILES[1]), labels[places])
