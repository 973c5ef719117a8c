"""The index against numpy: codes, the exact lists, the inverted file's recall, and the bytes of two builds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest

from aecore.config import Runtime, UserError, WorkFailed
from aecore.search import index
from aecore.search.index import build, lists_for
from aecore.search.metric import IndexConfig, Metric, Shards, codes
from aecore.search.recall import Found, recall_at

RUNTIME = Runtime(seed=0, threads=1, device="cpu")


def clustered(count: int, dim: int = 8, clusters: int = 40, spread: float = 0.4, seed: int = 0) -> np.ndarray:
    """Vectors around some centres, far from the origin, float32 (count, dim)."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, dim)) + 3
    return (centres[rng.integers(0, clusters, count)] + spread * rng.normal(size=(count, dim))).astype(np.float32)


def in_shards(vectors: np.ndarray, sizes: tuple[int, ...]) -> Shards:
    def shards() -> Iterator[tuple[int, np.ndarray]]:
        first = 0
        for size in sizes:
            yield first, vectors[first : first + size]
            first += size
        assert first == len(vectors)

    return shards


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
    built = build(
        in_shards(vectors, (5, 995, 1000)), random_ids(2000), splits, IndexConfig("cosine", 2000, 0.9), RUNTIME
    )
    np.testing.assert_allclose(built.center, vectors[splits["train"]].mean(axis=0, dtype=np.float64), rtol=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_an_exact_index_has_recall_one(metric: Metric, small_blocks: None) -> None:
    shards = in_shards(clustered(2000), (1500, 500))
    built = build(shards, random_ids(2000), thirds(2000), IndexConfig(metric, 2000, 0.9), RUNTIME)
    assert built.facts == {
        "count": 2000,
        "dim": 8,
        "metric": metric,
        "index": "exact",
        "nprobe": None,
        "recall": {"1": 1.0, "10": 1.0, "100": 1.0},
        "recall_queries": {"split": "test", "count": 400},
    }


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_recall_of_an_inverted_file_is_what_numpy_counts(metric: Metric, small_blocks: None) -> None:
    vectors, ids, splits = clustered(4000), random_ids(4000), thirds(4000)
    built = build(in_shards(vectors, (2500, 1500)), ids, splits, IndexConfig(metric, 3999, 0.8), RUNTIME)
    assert built.facts["index"] == "ivf64"
    assert 1 <= built.facts["nprobe"] < 64

    coded = codes(vectors, built.center, metric).astype(np.float64)
    hits: dict[int, list[float]] = {1: [], 10: [], 100: []}
    for position in splits["test"]:
        far = ((coded - coded[position]) ** 2).sum(axis=1)
        far[position] = np.inf
        exact = ids[np.argsort(far)]
        found = built.index.search(coded[position][None].astype(np.float32), 101)[1][0]
        found = found[found != ids[position]]
        for k in hits:
            hits[k].append(len(set(found[:k]) & set(exact[:k])) / k)
    for k, shares in hits.items():
        assert built.facts["recall"][str(k)] == pytest.approx(np.mean(shares), abs=2e-4)
    assert 0.8 <= built.facts["recall"]["10"] < 1


def test_nprobe_is_the_smallest_power_of_two_that_reaches_the_target() -> None:
    vectors, ids, splits = clustered(4000), random_ids(4000), thirds(4000)
    shards, asked = in_shards(vectors, (4000,)), {}
    for recall in (0.1, 0.9, 1.0):
        asked[recall] = build(shards, ids, splits, IndexConfig("l2", 0, recall), RUNTIME).facts["nprobe"]
    assert asked[0.1] < asked[0.9] < asked[1.0]
    assert all(nprobe & (nprobe - 1) == 0 for nprobe in asked.values())


@pytest.mark.parametrize("exact_below", [10_000, 0])
def test_two_builds_have_the_same_bytes(exact_below: int, tmp_path: Path) -> None:
    vectors, ids = clustered(3000), random_ids(3000)
    for name in ("a", "b"):
        section = IndexConfig("cosine", exact_below, 0.5)
        built = build(in_shards(vectors, (3000,)), ids, thirds(3000), section, Runtime(0, 2, "cpu"))
        faiss.write_index(built.index, str(tmp_path / name))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_inverted_file_is_trained_on_the_training_split_only() -> None:
    vectors, ids, splits = clustered(3000), random_ids(3000), thirds(3000)
    moved = vectors.copy()
    moved[splits["test"]] += 1
    quantisers = []
    for given in (vectors, moved):
        built = build(in_shards(given, (3000,)), ids, splits, IndexConfig("l2", 0, 0.1), RUNTIME)
        quantisers.append(built.index.quantizer.reconstruct_n(0, built.index.nlist))
    np.testing.assert_array_equal(*quantisers)


def test_a_recall_below_the_limit_is_refused() -> None:
    vectors, splits = clustered(3000, spread=0.01), thirds(3000)  # what tunes the probing is easy, ...
    vectors[splits["test"]] = 3 + 3 * np.random.default_rng(5).normal(size=(len(splits["test"]), 8))  # ... the test not
    with pytest.raises(WorkFailed, match=r"recall@10 .* below index.min_recall 0.9.*index.exact_below \(0\) to 3000"):
        build(in_shards(vectors, (3000,)), random_ids(3000), splits, IndexConfig("l2", 0, 0.9), RUNTIME)


@pytest.mark.parametrize("exact_below", [0, 100])
@pytest.mark.parametrize("count", [1, 2, 30])
@pytest.mark.parametrize(
    "empty", [(), ("validation",), ("test",), ("validation", "test"), ("train", "validation", "test")]
)
def test_few_images_and_empty_splits(count: int, exact_below: int, empty: tuple[str, ...]) -> None:
    splits = {name: np.array([], np.int64) if name in empty else at for name, at in thirds(count).items()}
    built = build(in_shards(clustered(count), (count,)), random_ids(count), splits,
                  IndexConfig("cosine", exact_below, 0.5), RUNTIME)  # fmt: skip
    assert built.index.ntotal == count
    assert set(built.facts["recall"]) == {"1", "10", "100"}


def test_equal_codes_do_not_lower_the_recall() -> None:
    vectors = np.repeat(clustered(20), 50, axis=0)
    built = build(in_shards(vectors, (1000,)), random_ids(1000), thirds(1000), IndexConfig("cosine", 0, 1.0), RUNTIME)
    assert built.facts["recall"]["10"] == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("position", [0, 1])
def test_codes_that_are_not_finite_are_refused(value: float, position: int) -> None:
    vectors = clustered(100)
    vectors[position, 3] = value
    with pytest.raises(WorkFailed, match="not finite"):
        build(in_shards(vectors, (100,)), random_ids(100), thirds(100), IndexConfig("cosine", 100, 0.5), RUNTIME)


def test_no_images_are_refused() -> None:
    with pytest.raises(WorkFailed, match="no embeddings"):
        build(in_shards(np.empty((0, 8), np.float32), ()), random_ids(0), thirds(0), IndexConfig("l2", 0, 0.5), RUNTIME)


@pytest.mark.parametrize(("count", "training", "lists"), [(60_000, 50_000, 1024), (1_000_000, 700_000, 4096),
                                                          (60_000, 20_000, 512), (10, 8, 1)])  # fmt: skip
def test_lists(count: int, training: int, lists: int) -> None:
    assert lists_for(count, training) == lists
    assert lists == 1 or 39 * lists <= training


def test_recall_counts_ties_but_nothing_that_was_not_found() -> None:
    truth = Found(np.array([[9, 8, 8]], np.float32), np.array([[1, 2, 3]]))
    tied = Found(np.array([[9, 8, 8]], np.float32), np.array([[1, 3, 4]]))
    assert recall_at(2, tied, truth, 1, 0) == 1
    assert recall_at(2, Found(tied.scores, np.array([[1, -1, -1]])), truth, 1, 0) == 0.5
    assert recall_at(2, Found(np.array([[1, 2, 3]], np.float32), np.array([[7, 6, 5]])), truth, -1, 0) == 1
    assert recall_at(10, tied, truth, 1, 0) == 1


@pytest.mark.parametrize(("exact_below", "min_recall"), [(-1, 0.9), (0, 0.0), (0, 1.1)])
def test_impossible_sections_are_refused(exact_below: int, min_recall: float) -> None:
    with pytest.raises(UserError, match="expected"):
        IndexConfig("cosine", exact_below, min_recall)
