"""The searcher against brute force in numpy: ids and scores, whatever index answers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aecore import artifact
from aecore.artifact import Manifest
from aecore.config import Runtime, UserError, WorkFailed
from aecore.search import searcher as searching
from aecore.search import storage, vector_index
from aecore.search.index import build
from aecore.search.metric import IndexConfig
from aecore.search.searcher import Neighbours, Searcher, Source
from aecore.vectors import Embeddings

SIZES = (250, 150, 100)
COUNT, DIM = sum(SIZES), 6


def write(
    root: Path,
    vectors: np.ndarray,
    metric: Any = "cosine",
    exact_below: int = 10**6,
    fit: str = "crop",
    memory_mb: float | None = None,
    min_recall: float = 1.0,
) -> None:
    """Write data, embeddings and index artefacts of random images with the codes `vectors` into `root`."""
    rng = np.random.default_rng(2)
    ids = rng.choice(2**63 - 1, COUNT, replace=False)
    kind = np.arange(COUNT) % 10
    splits = {"test": kind < 2, "validation": kind == 2, "train": kind > 2}
    facts: dict[str, Any] = {"count": COUNT, "channels": 1, "height": 3, "width": 3, "fit": fit, "labels": ["x", "y"],
                             "shards": list(SIZES), "splits": {}, "aliases": 0, "rejected": 0}  # fmt: skip
    table = {
        "id": ids, "path": [f"{i}.png" for i in range(COUNT)], "batch": [""] * COUNT,
        "label": pa.array(np.arange(COUNT) % 2, pa.int32()), "label_name": ["xy"[i % 2] for i in range(COUNT)],
        "split": [next(name for name in splits if splits[name][i]) for i in range(COUNT)],
    }  # fmt: skip
    with artifact.writing(root / "data", "data", {}, facts) as directory:
        for number, size in enumerate(SIZES):
            np.save(directory / f"images-{number:05d}.npy", rng.integers(0, 256, (size, 1, 3, 3), np.uint8))
        pq.write_table(pa.table(table), directory / "items.parquet")
    data = artifact.read_manifest(root / "data", "data")
    sources = {"data": data, "model": Manifest("model", "a" * 64)}
    parts = np.split(vectors, np.cumsum(SIZES)[:-1])
    with artifact.writing(root / "embeddings", "embeddings", sources,
                          {"count": COUNT, "dim": DIM, "shards": list(SIZES)}) as directory:  # fmt: skip
        for number, part in enumerate(parts):
            np.save(directory / f"vectors-{number:05d}.npy", part)
    sources["embeddings"] = artifact.read_manifest(root / "embeddings", "embeddings")
    positions = {name: np.flatnonzero(at) for name, at in splits.items()}
    section, runtime = IndexConfig(metric, exact_below, memory_mb, min_recall), Runtime(0, 1, "cpu")
    built = build(Embeddings.open(root / "embeddings"), ids, positions, section, runtime)
    with artifact.writing(root / "index", "index", sources, built.facts) as directory:
        storage.save(directory, built.index, built.center, ids, built.trained)


def opened(root: Path, model: Manifest | None = None) -> Searcher:
    return Searcher.open(Source("published", root), model or Manifest("model", "a" * 64))


def random_vectors(seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(COUNT, DIM)) * 2 + 5).astype(np.float32)


def brute(
    vectors: np.ndarray,
    ids: np.ndarray,
    train: np.ndarray,
    queries: np.ndarray,
    k: int,
    metric: str,
    among: int | None = None,
) -> Neighbours:
    """The oracle, in float64; only the first `among` vectors answer."""
    x, q = vectors.astype(np.float64), queries.astype(np.float64)
    if metric == "cosine":
        mean = x[train].mean(axis=0)
        x, q = x - mean, q - mean
        similarity = (q @ x.T) / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(x, axis=1)
        distance = 1 - similarity
    else:
        distance = np.sqrt(((q[:, None] - x) ** 2).sum(axis=2))
        similarity = -distance
    distance, similarity = distance[:, :among], similarity[:, :among]
    order = np.argsort(distance, axis=1)[:, :k]
    return Neighbours(ids[order], np.take_along_axis(similarity, order, 1), np.take_along_axis(distance, order, 1))


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("exact_below", [10**6, 0])
@pytest.mark.parametrize("k", [1, 10, COUNT])
def test_ids_and_scores_are_those_of_brute_force(
    metric: str, exact_below: int, k: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "BATCH", 50)  # several blocks of queries
    monkeypatch.setattr(vector_index, "GATHERED", 2**14)
    vectors = random_vectors()
    write(tmp_path, vectors, metric, exact_below)
    searcher = opened(tmp_path)
    if not exact_below:
        searcher.base.index.nprobe = searcher.base.index.nlist
    queries = np.concatenate([vectors[::7], random_vectors(1)[:40]])
    images = searcher.base.images
    expected = brute(vectors, images.ids(), images.positions("train"), queries, k, metric)
    found = searcher.search(queries, k)
    np.testing.assert_allclose(found.similarity, expected.similarity, atol=1e-5)
    np.testing.assert_allclose(found.distance, expected.distance, atol=1e-5)
    np.testing.assert_array_equal(found.ids, expected.ids)
    assert found.ids.dtype == np.int64
    assert found.similarity.dtype == found.distance.dtype == np.float32


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("exact_below", [10**6, 0])
@pytest.mark.parametrize("scale", [1e-3, 1, 1e4])
def test_every_image_is_its_own_first_neighbour_at_distance_zero(
    metric: str, exact_below: int, scale: float, tmp_path: Path
) -> None:
    write(tmp_path, (random_vectors() * scale).astype(np.float32), metric, exact_below)
    searcher = opened(tmp_path)
    ids = searcher.base.images.ids()
    for at_once in (1, COUNT):
        vectors = np.stack([searcher.collection.vector(int(i)) for i in ids[:at_once]])
        found = searcher.search(vectors, 2)
        np.testing.assert_array_equal(found.ids[:, 0], ids[:at_once])
        np.testing.assert_array_equal(found.distance[:, 0], 0)
        assert (found.distance[:, 1] > 0).all()


def test_stored_vectors_and_items_belong_to_their_id(tmp_path: Path) -> None:
    vectors = random_vectors()
    write(tmp_path, vectors)
    searcher = opened(tmp_path)
    for position, item_id in enumerate(searcher.base.images.ids().tolist()):
        np.testing.assert_array_equal(searcher.collection.vector(item_id), vectors[position])
        assert searcher.collection.position(item_id) == position
    assert searcher.collection.item(item_id)["path"] == f"{COUNT - 1}.png"
    assert searcher.collection.item(item_id)["id"] == item_id


@pytest.mark.parametrize("item_id", [-1, 5, 2**63 - 1, 2**64])
def test_an_unknown_id_is_refused_with_the_way_to_known_ones(item_id: int, tmp_path: Path) -> None:
    write(tmp_path, random_vectors())
    with pytest.raises(UserError, match=rf"id {item_id} is not among the 500 .*aecore inspect"):
        opened(tmp_path).collection.vector(item_id)


@pytest.mark.parametrize("exact_below", [10**6, 0])
def test_k_is_clipped_to_the_count(exact_below: int, tmp_path: Path) -> None:
    write(tmp_path, random_vectors(), exact_below=exact_below)
    searcher = opened(tmp_path)
    found = searcher.search(random_vectors(1)[:5], 10_000)
    assert found.ids.shape == (5, COUNT)
    for row in found.ids:
        assert set(row) == set(searcher.base.images.ids())
    assert searcher.search(np.empty((0, DIM), np.float32), 3).ids.shape == (0, 3)


def test_lists_that_hold_fewer_than_k_are_not_the_last_word(tmp_path: Path) -> None:
    write(tmp_path, random_vectors(), exact_below=0)
    searcher = opened(tmp_path)
    searcher.base.index.nprobe = 1
    found = searcher.search(random_vectors(1)[:50], 200)
    assert (found.ids >= 0).all()
    assert np.isfinite(found.distance).all()


def test_equally_near_images_come_in_the_order_of_their_ids(tmp_path: Path) -> None:
    vectors = random_vectors()
    vectors[[3, 77, 300, 480]] = vectors[3]
    write(tmp_path, vectors)
    searcher = opened(tmp_path)
    found = searcher.search(vectors[[77, 3]], 6)
    same = np.sort(searcher.base.images.ids()[[3, 77, 300, 480]])
    np.testing.assert_array_equal(found.ids[:, :4], [same, same])
    np.testing.assert_array_equal(found.distance[:, :4], 0)


def test_zero_codes_are_at_similarity_zero_of_everything(tmp_path: Path) -> None:
    vectors = random_vectors()
    train = np.flatnonzero(np.arange(COUNT) % 10 > 2)
    vectors[0] = vectors[train].mean(axis=0, dtype=np.float64)
    write(tmp_path, vectors)
    searcher = opened(tmp_path)
    found = searcher.search(vectors[:2], COUNT)
    np.testing.assert_allclose(found.similarity[0], 0, atol=1e-6)
    zero = searcher.base.images.ids()[0]
    assert found.similarity[1][found.ids[1] == zero] == pytest.approx(0, abs=1e-6)
    assert all(np.isfinite(part).all() for part in found)


def test_threads_share_a_searcher(tmp_path: Path) -> None:
    write(tmp_path, random_vectors(), exact_below=0)
    searcher = opened(tmp_path)
    queries = random_vectors(3)
    expected = searcher.search(queries, 5)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: searcher.search(queries, 5), range(12)):
            np.testing.assert_array_equal(found.ids, expected.ids)


@pytest.mark.parametrize(("vectors", "k", "message"), [
    (np.zeros((2, DIM)), 0, "k is 0"),
    (np.zeros((2, DIM + 1)), 3, r"shape \(2, 7\)"),
    (np.zeros(DIM), 3, "shape"),
    (np.full((1, DIM), np.nan), 3, "not finite"),
])  # fmt: skip
def test_impossible_questions_are_refused(vectors: np.ndarray, k: int, message: str, tmp_path: Path) -> None:
    write(tmp_path, random_vectors())
    with pytest.raises(UserError, match=message):
        opened(tmp_path).search(vectors, k)


def test_another_model_is_refused_naming_both_digests(tmp_path: Path) -> None:
    write(tmp_path, random_vectors())
    opened(tmp_path, Manifest("model", "a" * 64))
    with pytest.raises(WorkFailed, match=f"(?=.*{'a' * 12})(?=.*{'b' * 12})"):
        opened(tmp_path, Manifest("model", "b" * 64))


@pytest.mark.parametrize(("part", "named"), [("embeddings", "embeddings"), ("index", "embeddings"), ("data", "data")])
def test_an_artefact_of_another_run_is_refused_naming_both_digests(part: str, named: str, tmp_path: Path) -> None:
    write(tmp_path / "one", random_vectors())
    write(tmp_path / "two", random_vectors(9), fit="pad" if part == "data" else "crop")
    digests = [artifact.read_manifest(tmp_path / run / named, named).digest[:12] for run in ("one", "two")]
    (tmp_path / "one" / part).rename(tmp_path / "one/kept")
    (tmp_path / "two" / part).rename(tmp_path / "one" / part)
    with pytest.raises(WorkFailed, match=f"(?=.*{digests[0]})(?=.*{digests[1]})"):
        opened(tmp_path / "one")


def test_the_source_is_the_published_copy_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").touch()
    assert Source.find(tmp_path) == Source("workspace", tmp_path)
    assert Source.find(tmp_path).path("index") == tmp_path / "artifacts/index"
    (tmp_path / "serving/0123456789ab").mkdir(parents=True)
    (tmp_path / "serving/current").symlink_to("0123456789ab")
    found = Source.find(tmp_path)
    assert found == Source("published", tmp_path / "serving/0123456789ab")
    assert found.path("index") == tmp_path / "serving/0123456789ab/index"
    (tmp_path / "serving/0123456789ab").rmdir()
    with pytest.raises(WorkFailed, match="aecore publish"):
        Source.find(tmp_path)
