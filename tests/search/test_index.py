"""The index against numpy: codes, the exact lists, the inverted file's recall, and the bytes of two builds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from aecore.config import Runtime, UserError, WorkFailed
from aecore.search import filling, index, recall, storage
from aecore.search.index import build
from aecore.search.kinds import lists_for, possible
from aecore.search.metric import IndexConfig, Metric, codes
from aecore.search.recall import recall_at
from aecore.search.vector_index import Candidates

RUNTIME = Runtime(seed=0, threads=1, device="cpu")


def clustered(count: int, dim: int = 8, clusters: int = 40, spread: float = 0.4, seed: int = 0) -> np.ndarray:
    """Vectors around some centres, far from the origin, float32 (count, dim)."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, dim)) + 3
    return (centres[rng.integers(0, clusters, count)] + spread * rng.normal(size=(count, dim))).astype(np.float32)


class Sharded:
    """Vectors in shards of these sizes."""

    def __init__(self, vectors: np.ndarray, sizes: tuple[int, ...]) -> None:
        assert sum(sizes) == len(vectors)
        self.vectors, self.sizes = vectors, sizes

    def shards(self) -> Iterator[tuple[int, np.ndarray]]:
        first = 0
        for size in self.sizes:
            yield first, self.vectors[first : first + size]
            first += size

    def rows(self, positions: np.ndarray) -> np.ndarray:
        return self.vectors[positions]


def asked(metric: Metric, exact_below: int, min_recall: float, memory_mb: float | None = None) -> IndexConfig:
    return IndexConfig(metric, exact_below, memory_mb, min_recall)


def random_ids(count: int) -> np.ndarray:
    return np.random.default_rng(1).choice(2**62, count, replace=False).astype(np.int64)


def thirds(count: int) -> dict[str, np.ndarray]:
    """Every fifth image for testing, every tenth for validation, the rest for training."""
    kind = np.arange(count) % 10
    return {
        "train": np.flatnonzero((kind != 3) & (kind % 5 != 0)),
        "validation": np.flatnonzero(kind == 3),
        "test": np.flatnonzero(kind % 5 == 0),
    }


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aecore.search.metric.BLOCK", 700)
    monkeypatch.setattr(index, "BLOCK", 700)
    monkeypatch.setattr(index, "COMPARED", 900)


def test_cosine_codes_are_centred_and_of_length_one() -> None:
    vectors = clustered(300)
    center = vectors.mean(axis=0)
    expected = vectors.astype(np.float64) - center
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(codes(vectors, center, "cosine"), expected, atol=1e-7)
    assert codes(vectors, center, "cosine").dtype == np.float32


def test_l2_codes_are_unchanged() -> None:
    vectors = clustered(30)
    np.testing.assert_array_equal(codes(vectors, vectors[0], "l2"), vectors)


@pytest.mark.parametrize("center", [np.zeros(3), np.full(3, 0.1), np.full(3, 1e6)])
def test_a_vector_at_the_centre_becomes_zero(center: np.ndarray) -> None:
    center = center.astype(np.float32)
    nearly = np.nextafter(center, np.float32(2e6), dtype=np.float32) if center.any() else center
    np.testing.assert_array_equal(codes(np.stack([center, nearly]), center, "cosine"), 0)


def test_very_long_and_very_short_vectors_keep_their_direction() -> None:
    vectors = np.array([[3e30, 4e30], [3e-30, 4e-30]], np.float32)
    np.testing.assert_allclose(codes(vectors, np.zeros(2, np.float32), "cosine"), [[0.6, 0.8]] * 2, atol=1e-6)


def test_center_is_the_mean_of_the_training_split(small_blocks: None) -> None:
    vectors, splits = clustered(2000), thirds(2000)
    built = build(Sharded(vectors, (5, 995, 1000)), random_ids(2000), splits, asked("cosine", 2000, 0.9), RUNTIME)
    np.testing.assert_allclose(built.center, vectors[splits["train"]].mean(axis=0, dtype=np.float64), rtol=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_an_exact_index_has_recall_one(metric: Metric, small_blocks: None) -> None:
    shards = Sharded(clustered(2000), (1500, 500))
    built = build(shards, random_ids(2000), thirds(2000), asked(metric, 2000, 0.9), RUNTIME)
    found = {"index": "exact", "nprobe": None, "refine": 1, "bytes_per_vector": 40}
    recall = {"1": 1.0, "10": 1.0, "100": 1.0}
    assert built.facts == {
        "count": 2000, "dim": 8, "metric": metric, **found, "recall": recall,
        "recall_queries": {"split": "test", "count": 400}, "tried": [{**found, "recall": recall}],
    }  # fmt: skip


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_recall_of_an_inverted_file_is_what_numpy_counts(
    metric: Metric, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recall, "QUERIES", 1_000)  # all test images
    vectors, ids, splits = clustered(4000), random_ids(4000), thirds(4000)
    built = build(Sharded(vectors, (2500, 1500)), ids, splits, asked(metric, 3999, 0.8), RUNTIME)
    assert built.facts["index"] == "ivf64"
    assert 1 <= built.facts["nprobe"] < 64

    coded = codes(vectors, built.center, metric).astype(np.float64)
    hits: dict[int, list[float]] = {1: [], 10: []}
    for position in splits["test"]:
        far = ((coded - coded[position]) ** 2).sum(axis=1)
        far[position] = np.inf
        exact = ids[np.argsort(far)]
        for k in hits:
            found = built.index.search(coded[position][None].astype(np.float32), k + 1)[1][0]
            found = found[found != ids[position]]
            hits[k].append(len(set(found[:k]) & set(exact[:k])) / k)
    for k, shares in hits.items():
        assert built.facts["recall"][str(k)] == pytest.approx(np.mean(shares), abs=2e-4)
    assert 0.8 <= built.facts["recall"]["10"] < 1


def test_no_more_lists_are_probed_than_the_asked_recall_needs() -> None:
    vectors, ids, splits = clustered(4000), random_ids(4000), thirds(4000)
    nprobes = {}
    for asked_for in (0.1, 0.8, 0.97):
        built = build(Sharded(vectors, (4000,)), ids, splits, asked("l2", 0, asked_for), RUNTIME)
        nprobes[asked_for] = built.facts["nprobe"]
        assert built.index.nprobe == built.trained.nprobe == nprobes[asked_for]
    assert nprobes[0.1] < nprobes[0.8] < nprobes[0.97]


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize(("memory_mb", "kind", "each"), [(None, "ivf128", 72), (0.5, "ivf128,sq8", 24),
                                                        (0.3, "ivf128,pq8", 16), (0.2, "ivf128,pq4", 12)])  # fmt: skip
def test_codes_are_compressed_to_fit_the_memory_and_the_recall_holds(
    metric: Metric, memory_mb: float | None, kind: str, each: int
) -> None:
    vectors, ids, splits = clustered(16_000, dim=16), random_ids(16_000), thirds(16_000)
    built = build(Sharded(vectors, (9_000, 7_000)), ids, splits, asked(metric, 0, 0.9, memory_mb), RUNTIME)
    assert (built.facts["index"], built.facts["bytes_per_vector"]) == (kind, each)
    assert memory_mb is None or each * 16_000 <= memory_mb * 2**20
    assert built.facts["recall"]["10"] >= 0.9
    assert (built.facts["refine"] > 1) == ("," in kind)
    coded = codes(vectors, built.center, metric).astype(np.float64)
    rows, hits = dict(zip(ids.tolist(), range(16_000), strict=True)), []
    for position in splits["test"][:200]:
        far = ((coded - coded[position]) ** 2).sum(axis=1)
        wide = 11 * built.facts["refine"]
        proposed = built.index.search(coded[position][None].astype(np.float32), wide)[1][0]
        at = np.array([rows[i] for i in proposed.tolist() if i >= 0 and rows[i] != position])
        best = at[np.argsort(far[at])][:10]
        far[position] = np.inf
        hits.append(len(set(best.tolist()) & set(np.argsort(far)[:10].tolist())) / 10)
    assert np.mean(hits) == pytest.approx(built.facts["recall"]["10"], abs=0.05)


def test_a_kind_that_fails_is_followed_by_the_next_and_both_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, ids, splits = clustered(4000), random_ids(4000), thirds(4000)
    real = index.recall_of

    def poor(searched: Any, truth: Any, ks: tuple[int, ...]) -> dict[str, float]:
        found = real(searched, truth, ks)
        return found if "sq8" in searched.facts["index"] else dict.fromkeys(found, 0.1)

    monkeypatch.setattr(index, "recall_of", poor)
    built = build(Sharded(vectors, (4000,)), ids, splits, asked("cosine", 0, 0.9), RUNTIME)
    assert built.facts["index"] == "ivf64,sq8"
    assert [attempt["index"] for attempt in built.facts["tried"]] == ["ivf64", "ivf64,sq8"]


def test_a_memory_that_nothing_fits_into_is_refused() -> None:
    allowed = r"60,000 codes of 64 numbers cannot take less than 0\.9 MB, index\.memory_mb allows 0\.1"
    with pytest.raises(WorkFailed, match=allowed):
        possible(60_000, 64, 50_000, asked("cosine", 0, 0.9, 0.1))
    exact = possible(100, 64, 70, asked("cosine", 100, 0.9))[0]
    assert exact.name == "exact"


@pytest.mark.parametrize("memory_mb", [None, 0.5])
def test_an_index_filled_in_parts_on_disk_answers_as_one_filled_in_memory(
    memory_mb: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, ids, splits = clustered(16_000, dim=16), random_ids(16_000), thirds(16_000)
    how = (Sharded(vectors, (9_000, 7_000)), ids, splits, asked("cosine", 0, 0.9, memory_mb), RUNTIME)
    whole = build(*how)
    monkeypatch.setattr(filling, "PART_BYTES", 100_000)
    written = []
    for name in ("a", "b"):
        folder = tmp_path / name / "index"
        folder.mkdir(parents=True)
        built = build(*how, folder)
        storage.save(folder, built.index, built.center, ids, built.trained)
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
        assert built.facts == whole.facts
    assert written[0] == written[1]  # the same bytes wherever they were made
    assert set(written[0]) == {"center.npy", "ids.npy", "index.faiss", "lists.ivfdata", "trained.faiss"}
    (tmp_path / "a").rename(tmp_path / "moved")
    del built
    opened, center, lookup = storage.load(tmp_path / "moved/index", mapped=True)
    assert opened.ntotal == 16_000
    assert opened.nprobe == whole.facts["nprobe"]
    queries = codes(clustered(200, dim=16, seed=4), center, "cosine")
    for found, expected in zip(opened.search(queries, 10), whole.index.search(queries, 10), strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(ids[lookup[1]], lookup[0])


@pytest.mark.parametrize("exact_below", [10_000, 0])
def test_two_builds_have_the_same_bytes(exact_below: int, tmp_path: Path) -> None:
    vectors, ids = clustered(3000), random_ids(3000)
    for name in ("a", "b"):
        section = asked("cosine", exact_below, 0.5)
        built = build(Sharded(vectors, (3000,)), ids, thirds(3000), section, Runtime(0, 2, "cpu"))
        faiss.write_index(built.index, str(tmp_path / name))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_inverted_file_is_trained_on_the_training_split_only() -> None:
    vectors, ids, splits = clustered(3000), random_ids(3000), thirds(3000)
    moved = vectors.copy()
    moved[splits["test"]] += 1
    quantisers = []
    for given in (vectors, moved):
        built = build(Sharded(given, (3000,)), ids, splits, asked("l2", 0, 0.1), RUNTIME)
        quantisers.append(built.index.quantizer.reconstruct_n(0, built.index.nlist))
    np.testing.assert_array_equal(*quantisers)


def test_a_recall_below_the_limit_is_refused() -> None:
    vectors, splits = clustered(3000, spread=0.01), thirds(3000)  # what tunes the probing is easy, ...
    vectors[splits["test"]] = 3 + 3 * np.random.default_rng(5).normal(size=(len(splits["test"]), 8))  # ... the test not
    with pytest.raises(
        WorkFailed,
        match=r"recall@10 .*tried: ivf32, ivf32,sq8.* below index.min_recall 0.9.*index.exact_below \(0\) to 3000",
    ):
        build(Sharded(vectors, (3000,)), random_ids(3000), splits, asked("l2", 0, 0.9), RUNTIME)


@pytest.mark.parametrize("exact_below", [0, 100])
@pytest.mark.parametrize("count", [1, 2, 30])
@pytest.mark.parametrize(
    "empty", [(), ("validation",), ("test",), ("validation", "test"), ("train", "validation", "test")]
)
def test_few_images_and_empty_splits(count: int, exact_below: int, empty: tuple[str, ...]) -> None:
    splits = {name: np.array([], np.int64) if name in empty else at for name, at in thirds(count).items()}
    built = build(Sharded(clustered(count), (count,)), random_ids(count), splits,
                  asked("cosine", exact_below, 0.5), RUNTIME)  # fmt: skip
    assert built.index.ntotal == count
    assert set(built.facts["recall"]) == {"1", "10", "100"}


def test_equal_codes_do_not_lower_the_recall() -> None:
    vectors = np.repeat(clustered(20), 50, axis=0)
    built = build(Sharded(vectors, (1000,)), random_ids(1000), thirds(1000), asked("cosine", 0, 1.0), RUNTIME)
    assert built.facts["recall"]["10"] == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("position", [0, 1])
def test_codes_that_are_not_finite_are_refused(value: float, position: int) -> None:
    vectors = clustered(100)
    vectors[position, 3] = value
    with pytest.raises(WorkFailed, match="not finite"):
        build(Sharded(vectors, (100,)), random_ids(100), thirds(100), asked("cosine", 100, 0.5), RUNTIME)


def test_no_images_are_refused() -> None:
    with pytest.raises(WorkFailed, match="no embeddings"):
        build(Sharded(np.empty((0, 8), np.float32), ()), random_ids(0), thirds(0), asked("l2", 0, 0.5), RUNTIME)


@pytest.mark.parametrize(("count", "training", "lists"), [(60_000, 50_000, 256), (1_000_000, 700_000, 1024),
                                                          (60_000, 3_000, 64), (10, 8, 1)])  # fmt: skip
def test_lists(count: int, training: int, lists: int) -> None:
    assert lists_for(count, training) == lists
    assert lists == 1 or 39 * lists <= training


def test_recall_counts_ties_but_nothing_that_was_not_found() -> None:
    truth = Candidates(np.array([[1.0, 2, 2]]), np.array([[1, 2, 3]]))
    tied = Candidates(np.array([[1.0, 2, 2]]), np.array([[1, 3, 4]]))
    assert recall_at(2, tied, truth, 0) == 1
    assert recall_at(2, Candidates(tied.distance, np.array([[1, -1, -1]])), truth, 0) == 0.5
    assert recall_at(2, Candidates(np.array([[3.0, 4, 5]]), np.array([[7, 6, 5]])), truth, 0) == 0
    assert recall_at(10, tied, truth, 0) == 1


@pytest.mark.parametrize(("exact_below", "min_recall"), [(-1, 0.9), (0, 0.0), (0, 1.1)])
def test_impossible_sections_are_refused(exact_below: int, min_recall: float) -> None:
    with pytest.raises(UserError, match="expected"):
        asked("cosine", exact_below, min_recall)
