"""Growing and forgetting: whatever came and went, the answers are those of a fresh exact build of what is left."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aecore import artifact
from aecore.artifact import Manifest
from aecore.data import items
from aecore.search import filling, growth, storage
from aecore.search.searcher import Neighbours, Searcher, Source
from aecore.serve import segments
from aecore.serve.segments import tidied, to_merge
from tests.search.test_searcher import COUNT, DIM, brute, random_vectors, write

MODEL = Manifest("model", "a" * 64)
FEW = random_vectors(9)[:40]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Path]:
    """Published copies of 500 images by metric and whether they are exact; an inverted file is probed everywhere."""
    made = {}
    for metric in ("cosine", "l2"):
        for exact in (True, False):
            folder = tmp_path_factory.mktemp("base") / "0123456789ab"
            write(folder, random_vectors(), metric, 10**6 if exact else 0)
            made[metric, exact] = folder
    return made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quickly(monkeypatch)


def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small segments of every kind and small parts of tables, merged soon; no waiting for the disk; no model there."""
    monkeypatch.setattr(items, "GROUP", 10)
    monkeypatch.setattr(segments, "FLAT_BELOW", 12)
    monkeypatch.setattr(segments, "SMALL", 4)
    monkeypatch.setattr(segments, "BLOCK", 7)
    monkeypatch.setattr(segments, "SHARD_BYTES", 128 + 9 * 10)
    monkeypatch.setattr(artifact, "fsync", lambda path: None)
    read = artifact.read_manifest
    monkeypatch.setattr(artifact, "read_manifest", lambda p, kind: MODEL if kind == "model" else read(p, kind))


def append(source: Source, searcher: Searcher, *new: Any) -> Searcher:
    segments.append(source, searcher, *new)
    return tidied(source)


def retire(source: Source, searcher: Searcher, positions: np.ndarray) -> Searcher:
    segments.retire(source, searcher, positions)
    return tidied(source)


def table(ids: np.ndarray) -> pa.Table:
    """Items with the base's columns."""
    count = len(ids)
    return pa.table({
        "id": ids, "path": [f"new/{i}.png" for i in ids], "batch": [""] * count,
        "label": pa.array([None] * count, pa.int32()), "label_name": pa.array([None] * count, pa.string()),
        "split": ["added"] * count,
    })  # fmt: skip


def pictures(ids: np.ndarray) -> np.ndarray:
    """An image that tells its id."""
    return (ids[:, None] // 7 ** np.arange(9) % 251).astype(np.uint8).reshape(-1, 1, 3, 3)


def blocks(ids: np.ndarray, vectors: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(ids), 5):
        yield pictures(ids[start : start + 5]), vectors[start : start + 5]


class Twin:
    """What ought to be left, kept as plainly as can be."""

    def __init__(self, searcher: Searcher) -> None:
        base = searcher.base
        self.train = base.embeddings.rows(base.images.positions("train"))
        self.codes = dict(zip(base.ids.tolist(), base.embeddings.load(), strict=True))
        self.gone: dict[int, np.ndarray] = {}

    def expected(self, queries: np.ndarray, k: int, metric: str) -> Any:
        ids = np.array(sorted(self.codes))
        vectors = np.concatenate([np.stack([self.codes[i] for i in ids.tolist()]), self.train])
        train = np.arange(len(ids), len(vectors))
        everything = np.concatenate([ids, np.full(len(self.train), -1)])
        return brute(vectors, everything, train, queries, k, metric, among=len(ids))


def assert_the_same(found: Neighbours, expected: Neighbours, everything: Neighbours) -> None:
    """Scores to 1e-5; an id may stand for another only where both are equally far, as far as float32 codes tell."""
    np.testing.assert_allclose(found.similarity, expected.similarity, atol=1e-5)
    np.testing.assert_allclose(found.distance, expected.distance, atol=1e-5)
    for ids, wanted, names, distance in zip(found.ids, expected.ids, everything.ids, everything.distance, strict=True):
        assert len(set(ids.tolist())) == len(ids)
        order = np.argsort(names)
        true = distance[order[np.searchsorted(names, ids, sorter=order)]]
        assert ((ids == wanted) | (np.abs(true - distance[: len(ids)]) < 1e-6)).all()


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 40), st.integers(0, 2**32 - 1)),
        st.tuples(st.just("remove"), st.integers(1, 300), st.integers(0, 2**32 - 1)),
        st.tuples(st.just("again"), st.integers(1, 20), st.integers(0, 2**32 - 1)),
    ),
    min_size=1,
    max_size=9,
)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("exact", [True, False])
@settings(max_examples=75, deadline=None, derandomize=True, database=None)
@given(steps=steps)
def test_any_adds_and_removes_answer_as_a_fresh_exact_build_of_what_is_left(
    steps: list[tuple[str, int, int]], metric: str, exact: bool, bases: dict[tuple[str, bool], Path]
) -> None:
    copy = bases[metric, exact]
    shutil.rmtree(growth.growth_folder(copy), ignore_errors=True)
    source = Source("published", copy)
    searcher = Searcher.open(source, MODEL)
    if not exact:
        searcher.base.index.nprobe = searcher.base.index.nlist
    twin = Twin(searcher)
    for what, size, seed in steps:
        rng = np.random.default_rng([seed, 1])
        if what == "add":
            ids = np.setdiff1d(rng.choice(2**63 - 1, size), list(twin.codes))
            if not len(ids):
                continue
            vectors = (rng.normal(size=(len(ids), DIM)) * 2 + 5).astype(np.float32)
            searcher = append(source, searcher, table(ids), blocks(ids, vectors))
            twin.codes |= dict(zip(ids.tolist(), vectors, strict=True))
            twin.gone = {item_id: code for item_id, code in twin.gone.items() if item_id not in twin.codes}
        elif what == "again" and twin.gone:
            ids = rng.permutation(sorted(twin.gone))[:size]
            vectors = np.stack([twin.gone.pop(i) for i in ids.tolist()])
            searcher = append(source, searcher, table(ids), blocks(ids, vectors))
            twin.codes |= dict(zip(ids.tolist(), vectors, strict=True))
        elif what == "remove":
            gone = rng.permutation(sorted(twin.codes))[: min(size, len(twin.codes) - 1)]
            searcher = retire(source, searcher, np.sort(searcher.collection.positions(gone)))
            twin.gone |= {i: twin.codes.pop(i) for i in gone.tolist()}
        if not exact:
            for segment in searcher.collection.segments:
                if not segment.is_exact:
                    segment.index.nprobe = segment.index.nlist

    collection = searcher.collection
    assert searcher.count == len(twin.codes)
    left = np.concatenate(list(collection.blocks(64)))
    assert set(collection.ids(left).tolist()) == set(twin.codes)
    queries = np.concatenate([collection.vectors(left[:: max(1, len(left) // 8)]), random_vectors(5)[:8]])
    expected = twin.expected(queries, len(twin.codes), metric)
    for k in (1, 10, len(twin.codes)):
        found = searcher.search(queries, k)
        assert_the_same(found, Neighbours(*(part[:, :k] for part in expected)), expected)
    for item_id, code in list(twin.codes.items())[-3:]:
        np.testing.assert_array_equal(collection.vector(item_id), code)
        assert collection.item(item_id)["id"] == item_id
    added = left[left >= COUNT]
    np.testing.assert_array_equal(collection.pixels(added), pictures(collection.ids(added)))
    assert (collection.positions(np.array(sorted(twin.gone), np.int64)) == -1).all()
    assert len(collection.segments) <= 1 + segments.FAN * 5


def test_segments_of_a_size_are_merged_and_big_ones_left_alone() -> None:
    small = segments.SMALL
    assert to_merge([small, 1, 2]) == []
    assert to_merge([1, 9 * small, 2, 3, small]) == [0, 2, 3, 4]
    assert to_merge([5 * small] * 3 + [70 * small] * 4) == [3, 4, 5, 6]


def test_a_million_adds_lie_in_few_segments() -> None:
    sizes: list[int] = []
    written = 0
    for _ in range(4_096):
        sizes.append(segments.SMALL)
        while places := to_merge(sizes):
            together = sum(sizes[place] for place in places)
            written += together
            sizes = [size for place, size in enumerate(sizes) if place not in places] + [together]
    assert len(sizes) <= segments.FAN * 7
    assert written <= 6 * 4_096 * segments.SMALL


@pytest.mark.parametrize("exact", [True, False])
def test_threads_share_a_searcher_with_tombstones(exact: bool, bases: dict[tuple[str, bool], Path]) -> None:
    copy = bases["cosine", exact]
    shutil.rmtree(growth.growth_folder(copy), ignore_errors=True)
    source, ids = Source("published", copy), np.arange(1, 60)
    searcher = append(source, Searcher.open(source, MODEL), table(ids), blocks(ids, random_vectors(3)[:59]))
    searcher = retire(source, searcher, np.arange(0, 520, 20))
    queries = random_vectors(5)[:256]
    expected = searcher.search(queries, 5)
    with ThreadPoolExecutor(8) as pool:
        for each in (1, 64, 256):
            found = list(pool.map(lambda i, n=each: searcher.search(queries[i : i + n], 5).ids, range(0, 256, each)))
            np.testing.assert_array_equal(np.concatenate(found), expected.ids)
            again = list(pool.map(lambda _: searcher.search(queries, 5).ids, range(64)))
            assert all((ids == expected.ids).all() for ids in again)


@pytest.mark.parametrize("memory_mb", [None, 0.01])
def test_what_is_added_to_compressed_codes_or_in_parts_answers_exactly(
    memory_mb: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "0123456789ab"
    write(copy, random_vectors(), exact_below=0, memory_mb=memory_mb, min_recall=0.9)
    monkeypatch.setattr(filling, "PART_BYTES", 2_000)
    source, parts = Source("published", copy), []
    searcher, twin = Searcher.open(source, MODEL), Twin(Searcher.open(source, MODEL))
    assert ("sq8" in searcher.manifest.facts["index"]) == (memory_mb is not None)
    for number in range(5):
        ids = np.arange(1000 * number + 1, 1000 * number + 201)
        parts.append(random_vectors(number + 7)[:200])
        searcher = append(source, searcher, table(ids), blocks(ids, parts[-1]))
        twin.codes |= dict(zip(ids.tolist(), parts[-1], strict=True))
    merged = [segment for segment in searcher.collection.segments[1:] if segment.size == 800]
    assert (merged[0].directory / storage.LISTS_FILE).is_file()
    for segment in searcher.collection.segments:
        segment.index.nprobe = segment.index.nlist
    queries = np.concatenate(parts)[::17]
    expected = twin.expected(queries, 10, "cosine")
    found = searcher.search(queries, 10)
    np.testing.assert_allclose(found.distance, expected.distance, atol=1e-5)
    np.testing.assert_array_equal(found.ids, expected.ids)


def test_a_full_disk_leaves_segments_as_they_are(
    bases: dict[tuple[str, bool], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = bases["cosine", True]
    shutil.rmtree(growth.growth_folder(copy), ignore_errors=True)
    source, ids = Source("published", copy), np.arange(1, 9)
    searcher = append(source, Searcher.open(source, MODEL), table(ids), blocks(ids, FEW[:8]))

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(segments, "write_segment", full)
    searcher = retire(source, searcher, searcher.collection.positions(ids[:4]))
    assert searcher.count == COUNT + 4
    assert len(searcher.collection.segments[1].removed) == 4
    assert "segments were not merged" in capsys.readouterr().err


def test_what_cannot_be_opened_is_not_referred_to(
    bases: dict[tuple[str, bool], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = bases["cosine", True]
    shutil.rmtree(growth.growth_folder(copy), ignore_errors=True)
    source, ids, save = Source("published", copy), np.arange(1, 9), storage.save

    def spoilt(directory: Path, *rest: Any) -> None:
        save(directory, *rest)
        (directory / storage.INDEX_FILE).write_bytes(b"nonsense")

    monkeypatch.setattr(storage, "save", spoilt)
    with pytest.raises(RuntimeError):
        append(source, Searcher.open(source, MODEL), table(ids), blocks(ids, FEW[:8]))
    assert Searcher.open(source, MODEL).count == COUNT


def test_a_segment_that_cannot_be_written_changes_nothing(
    bases: dict[tuple[str, bool], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = bases["cosine", True]
    shutil.rmtree(growth.growth_folder(copy), ignore_errors=True)
    source = Source("published", copy)
    searcher, ids = Searcher.open(source, MODEL), np.arange(1, 40)
    searcher = append(source, searcher, table(ids), blocks(ids, random_vectors(3)[:39]))
    before = searcher.growth.manifest

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    for module, name in ((segments.storage, "save"), (segments, "write_table"), (artifact, "write_json")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(OSError, match="No space"):
                append(source, searcher, table(ids + 100), blocks(ids + 100, random_vectors(4)[:39]))
        assert Searcher.open(source, MODEL).growth.manifest == before
    with monkeypatch.context() as patch:
        patch.setattr(artifact, "write_json", full)
        with pytest.raises(OSError, match="No space"):
            retire(source, searcher, np.array([3]))
        assert Searcher.open(source, MODEL).growth.manifest == before
