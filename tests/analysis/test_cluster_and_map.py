"""K-means, medoids and maps: deterministic, and equal to brute force."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow.parquet as pq
import pytest

from aecore import cli, config
from aecore.analysis.cluster import summarise
from aecore.analysis.kmeans import assign, kmeans
from aecore.analysis.map import MapConfig, lay_out
from aecore.artifact import read_manifest
from aecore.config import UserError
from aecore.data.images import Images
from aecore.search.metric import Metric, codes
from aecore.vectors import Embeddings

Set = Callable[..., None]


def groups(metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 200)
    vectors = (5 * np.eye(4, 6)[truth] + rng.normal(0, 0.3, (200, 6))).astype(np.float32)
    return codes(vectors, vectors.mean(axis=0), metric), truth


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_kmeans_finds_groups_twice_alike(metric: Metric) -> None:
    vectors, truth = groups(metric)
    centroids = kmeans(vectors, 4, 10, 3, metric)
    assert np.array_equal(centroids, kmeans(vectors, 4, 10, 3, metric))
    cluster, distance = assign(vectors, centroids, metric)
    assert len({(int(c), int(t)) for c, t in zip(cluster, truth, strict=True)}) == 4
    everything = np.linalg.norm(vectors[:, None].astype(float) - centroids[None], axis=2)
    assert np.array_equal(cluster, everything.argmin(axis=1))
    nearest = everything.min(axis=1) if metric == "l2" else everything.min(axis=1) ** 2 / 2
    np.testing.assert_allclose(distance, nearest, atol=1e-5)


def test_more_clusters_than_images() -> None:
    with pytest.raises(UserError, match=r"cluster\.clusters is 9, but there are only 5 images"):
        kmeans(np.eye(5, dtype=np.float32), 9, 5, 0, "l2")


def test_a_summary_names_the_nearest_and_the_commonest() -> None:
    table = summarise(
        np.array([50, 40, 30, 20]), np.array([0, 0, 0, 1], np.int32), np.array([0.2, 0.1, 0.1, 0.3], np.float32),
        np.array([1, 1, 0, -1], np.int32), ["boot", "bag"],
    )  # fmt: skip
    assert table["size"] == [3, 1]
    assert table["medoid"] == [30, 20]
    assert table["label_name"] == ["bag", None]
    assert table["purity"] == [pytest.approx(2 / 3), None]


def test_the_stage_writes_what_brute_force_finds(workspace: object) -> None:
    images, embeddings = Images.open(), Embeddings.open()
    manifest = read_manifest(config.CLUSTERS, "clusters")
    vectors = embeddings.load()
    ready = codes(vectors, vectors[images.positions("train")].mean(axis=0), "cosine")
    centroids = np.load(config.CLUSTERS / "centroids.npy")
    rows = pq.read_table(config.CLUSTERS / "assignments.parquet").to_pydict()
    assert rows["id"] == images.ids().tolist()
    scores = ready @ centroids.T
    np.testing.assert_allclose(scores[np.arange(images.count), rows["cluster"]], scores.max(axis=1), atol=1e-5)
    table = pq.read_table(config.CLUSTERS / "clusters.parquet").to_pylist()
    assert [entry["size"] for entry in table] == sorted((entry["size"] for entry in table), reverse=True)
    assert sum(entry["size"] for entry in table) == images.count
    for entry in table:
        members = np.flatnonzero(np.array(rows["cluster"]) == entry["cluster"])
        medoid = np.flatnonzero(images.ids() == entry["medoid"])[0]
        assert medoid in members
        assert scores[medoid, entry["cluster"]] == pytest.approx(scores[members, entry["cluster"]].max(), abs=1e-5)
    assert cli.main(["cluster"]) == 0
    assert read_manifest(config.CLUSTERS, "clusters").digest == manifest.digest


def test_too_many_clusters_end_the_stage_with_a_sentence(set_params: Set, capsys: pytest.CaptureFixture[str]) -> None:
    set_params(cluster={"clusters": 1000})
    assert cli.main(["cluster"]) == 2
    assert "cluster.clusters is 1,000" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_a_map_keeps_groups_together_and_is_the_same_twice(method: str) -> None:
    vectors, truth = groups("l2")
    places = lay_out(vectors[:60], method, 0)
    assert places.shape == (60, 2)
    assert places.dtype == np.float32
    assert np.array_equal(places, lay_out(vectors[:60], method, 0))
    if method == "tsne":
        apart = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e9 * np.eye(60)
        assert np.mean(truth[:60][apart.argmin(axis=1)] == truth[:60]) > 0.9


def test_one_dimension_still_makes_a_map() -> None:
    places = lay_out(np.arange(5, dtype=np.float32)[:, None], "pca", 0)
    assert places[:, 1].tolist() == [0] * 5
    assert np.ptp(places[:, 0]) == pytest.approx(4)


def test_a_map_shows_the_smallest_ids(set_params: Set) -> None:
    set_params(map={"images": 20})
    assert cli.main(["map"]) == 0
    shown = pq.read_table(config.MAP / "map.parquet")["id"].to_pylist()
    assert sorted(shown) == sorted(Images.open().ids().tolist())[:20]


@pytest.mark.slow  # compiling it takes a quarter of a minute
@pytest.mark.filterwarnings("ignore:Tensorflow not installed:ImportWarning")
def test_umap_keeps_groups_together_and_its_seed_decides() -> None:
    pytest.importorskip("umap")
    vectors, truth = groups("l2")
    places = lay_out(vectors, "umap", 0)
    assert places.dtype == np.float32
    assert np.isfinite(places).all()
    assert np.array_equal(places, lay_out(vectors, "umap", 0))
    assert not np.array_equal(places, lay_out(vectors, "umap", 1))
    apart = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e9 * np.eye(len(places))
    assert np.mean(truth[apart.argmin(axis=1)] == truth) > 0.95
    assert lay_out(vectors[:3], "umap", 0).shape == (3, 2)


def test_two_images_are_too_few_for_umap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert MapConfig("umap", 3).images == 3
    with pytest.raises(UserError, match="images is 2; expected 3 or more for umap"):
        MapConfig("umap", 2)


def test_umap_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'aecore\[umap\]'"):
        MapConfig("umap", 100)
