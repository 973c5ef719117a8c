"""K-means, HDBSCAN, medoids and maps: deterministic, and equal to brute force."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow.parquet as pq
import pytest

from aecore import cli, config
from aecore.analysis import cluster as stage
from aecore.analysis.cluster import ClusterConfig, by_density, by_kmeans, summarise
from aecore.analysis.density import density
from aecore.analysis.kmeans import kmeans, mini_batches
from aecore.analysis.map import MapConfig, lay_out
from aecore.analysis.silhouette import best, silhouettes
from aecore.analysis.space import Space
from aecore.artifact import read_manifest
from aecore.config import UserError, WorkFailed
from aecore.data.images import Images
from aecore.search.clusters import NOISE, Clusters, nearest
from aecore.search.metric import Metric, codes
from aecore.vectors import Embeddings

Set = Callable[..., None]
METRICS: list[Metric] = ["cosine", "l2"]


def groups(metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 200)
    vectors = (5 * np.eye(4, 6)[truth] + rng.normal(0, 0.3, (200, 6))).astype(np.float32)
    return codes(vectors, vectors.mean(axis=0), metric), truth


def many(metric: Metric) -> tuple[Space, list[int]]:
    """A space of 6,000 codes in groups that run into each other, and a list of how many were read at a time."""
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(20, 8))[rng.integers(0, 20, 6_000)]
    vectors = (centres + 0.5 * rng.normal(size=(6_000, 8))).astype(np.float32)
    read: list[int] = []

    def rows(positions: np.ndarray) -> np.ndarray:
        read.append(len(positions))
        return vectors[positions]

    return Space(rows, vectors.mean(axis=0), metric), read


@pytest.mark.parametrize("metric", METRICS)
def test_kmeans_finds_groups_twice_alike(metric: Metric) -> None:
    vectors, truth = groups(metric)
    centroids = kmeans(vectors, 4, 10, 3, metric)
    assert np.array_equal(centroids, kmeans(vectors, 4, 10, 3, metric))
    cluster, distance = nearest(vectors, centroids, metric)
    assert len({(int(c), int(t)) for c, t in zip(cluster, truth, strict=True)}) == 4
    everything = np.linalg.norm(vectors[:, None].astype(float) - centroids[None], axis=2)
    assert np.array_equal(cluster, everything.argmin(axis=1))
    least = everything.min(axis=1) if metric == "l2" else everything.min(axis=1) ** 2 / 2
    np.testing.assert_allclose(distance, least, atol=1e-5)


def test_more_clusters_than_images() -> None:
    with pytest.raises(UserError, match=r"cluster\.clusters is 9, more than the 5 images"):
        kmeans(np.eye(5, dtype=np.float32), 9, 5, 0, "l2")


@pytest.mark.parametrize("metric", METRICS)
def test_more_than_memory_holds_is_grouped_nearly_as_well(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    space, read = many(metric)
    train = np.arange(0, 6_000, 2)
    ids, section = np.random.default_rng(2).permutation(6_000), ClusterConfig("kmeans", 12, 20, 2)

    def objective(made: Clusters) -> float:
        ready = space.comparable(space.rows(train))
        return float(np.square(ready - made.centroids[nearest(ready, made.centroids, metric)[0]]).sum(axis=1).mean())

    whole = objective(by_kmeans(space, train, ids, section, 0)[0])
    monkeypatch.setattr("aecore.analysis.kmeans.SAMPLE", 200 * 8)
    monkeypatch.setattr("aecore.analysis.kmeans.BATCH", 150)
    alone = objective(by_kmeans(space, train[np.argsort(ids[train])[:200]], ids, section, 0)[0])
    read.clear()
    made, _ = by_kmeans(space, train, ids, section, 0)
    assert max(read) == 200
    assert sum(read) == len(train)  # each once
    assert whole < objective(made) < 1.03 * whole < alone
    assert np.array_equal(made.centroids, by_kmeans(space, train, ids, section, 0)[0].centroids)
    if metric == "cosine":
        np.testing.assert_allclose(np.linalg.norm(made.centroids, axis=1), 1, atol=1e-6)


def test_mini_batches_are_runs_of_all_positions_in_an_order_of_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aecore.analysis.kmeans.BATCH", 10)
    positions = np.arange(95) * 2
    parts = mini_batches(positions, 3, 0)
    assert len(parts) == 10
    assert all((np.diff(part) == 2).all() for part in parts)
    assert np.array_equal(np.sort(np.concatenate(parts)), positions)
    assert [part[0] for part in parts] != sorted(part[0] for part in parts)
    assert [part[0] for part in parts] != [part[0] for part in mini_batches(positions, 3, 1)]
    assert min(len(part) for part in mini_batches(positions, 20, 0)) >= 20  # a batch holds every cluster


@pytest.mark.parametrize("metric", METRICS)
def test_a_silhouette_is_what_its_definition_says(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, _ = groups(metric)
    judged = vectors[:60]
    monkeypatch.setattr("aecore.analysis.silhouette.CANDIDATES", (2, 3, 4, 7, 60, 100))
    tried = silhouettes(vectors, judged, 10, 0, metric)
    assert [number for number, _ in tried] == [2, 3, 4, 7]
    exact = judged.astype(np.float64)
    apart = 1 - exact @ exact.T if metric == "cosine" else np.linalg.norm(exact[:, None] - exact, axis=2)
    for number, score in tried:
        cluster, _ = nearest(judged, kmeans(vectors, number, 10, 0, metric), metric)
        widths = []
        for row, own in enumerate(cluster):
            mean = {c: apart[row, cluster == c].sum() / max(1, (cluster == c).sum() - (c == own)) for c in set(cluster)}
            a, b = mean[own], min(value for c, value in mean.items() if c != own)
            widths.append((b - a) / max(a, b) if (cluster == own).sum() > 1 else 0)
        assert score == pytest.approx(np.mean(widths), abs=1e-5)
    assert best(tried) == 4


def test_of_equal_silhouettes_the_smaller_number_is_taken() -> None:
    assert best([(2, None), (3, 0.5), (4, 0.5), (5, 0.1)]) == 3


def test_images_that_are_all_alike_have_no_number_of_clusters() -> None:
    alike = np.ones((30, 4), np.float32)
    tried = silhouettes(alike, alike, 5, 0, "l2")
    assert {score for _, score in tried} == {None}
    with pytest.raises(WorkFailed, match=r"cluster\.clusters is auto.*set a number"):
        best(tried)


@pytest.mark.parametrize("metric", METRICS)
def test_density_finds_the_groups_and_leaves_the_noise(metric: Metric) -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(3), 60)
    vectors = (3 + 5 * np.eye(3, 8)[truth] + rng.normal(0, 0.2, (180, 8))).astype(np.float32)
    scattered = rng.uniform(-20, 20, (20, 8)).astype(np.float32)
    space = Space(lambda positions: np.r_[vectors, scattered][positions], np.zeros(8, np.float32), metric)
    section = ClusterConfig("hdbscan", 10, 25, 15)
    made, facts = by_density(space, np.arange(200), np.arange(200), section, 0)
    cluster, _ = made.assign(np.r_[vectors, scattered])
    assert facts == {"fitted": 200}
    assert len(made.centroids) == 3
    assert len({(int(c), int(t)) for c, t in zip(cluster[:180], truth, strict=True) if c != NOISE}) == 3
    assert (cluster[:180] == NOISE).mean() < 0.05
    assert (cluster[180:] == NOISE).mean() > 0.6
    assert made.fitted is not None
    assert np.array_equal(cluster, made.fitted.cluster)  # what it was fitted to keeps what HDBSCAN said
    again = (3 + 5 * np.eye(3, 8)[truth] + rng.normal(0, 0.1, (180, 8))).astype(np.float32)
    assert np.array_equal(made.assign(again)[0], cluster[:180][np.searchsorted(truth, truth)])
    for number in range(3):
        members = space.comparable(vectors)[cluster[:180] == number].astype(np.float64)
        mean = members.mean(axis=0)
        expected = mean / np.linalg.norm(mean) if metric == "cosine" else mean
        np.testing.assert_allclose(made.centroids[number], expected, atol=1e-5)
        apart = 1 - members @ members.T if metric == "cosine" else np.linalg.norm(members[:, None] - members, axis=2)
        radius = (apart + 1e9 * np.eye(len(members))).min(axis=1).max()
        assert made.fitted.radius[number] == pytest.approx(radius, abs=2e-6)


def test_of_many_images_the_smallest_ids_are_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "FITTED", 100)
    vectors, truth = groups("l2")
    space, ids = Space(lambda positions: vectors[positions], vectors.mean(axis=0), "l2"), np.arange(200)[::-1]
    made, facts = by_density(space, np.arange(200), ids, ClusterConfig("hdbscan", 10, 25, 10), 0)
    assert facts == {"fitted": 100}
    assert made.fitted is not None
    np.testing.assert_array_equal(made.fitted.vectors, space.comparable(vectors[100:]))
    cluster, _ = made.assign(vectors)
    assert len({(int(c), int(t)) for c, t in zip(cluster, truth, strict=True) if c != NOISE}) == 4
    assert (cluster[:100] == NOISE).mean() < 0.1


def test_equal_codes_are_one_cluster_and_so_are_those_equal_to_rounding() -> None:
    vectors = np.repeat(np.eye(3, 7, dtype=np.float32), 20, axis=0)
    ready = codes(vectors, np.zeros(7, np.float32), "cosine")
    centroids, known = density(ready, 5, "cosine")
    again = vectors + np.random.default_rng(0).normal(0, 2e-4, vectors.shape).astype(np.float32)
    cluster, _ = Clusters("cosine", np.zeros(7, np.float32), centroids, known).assign(again)
    assert [len(set(cluster[start : start + 20])) for start in (0, 20, 40)] == [1, 1, 1]
    assert set(cluster) == {0, 1, 2}


def test_where_all_is_noise_it_says_what_to_lower() -> None:
    scattered = np.random.default_rng(0).uniform(size=(40, 6)).astype(np.float32)
    with pytest.raises(WorkFailed, match=r"no cluster among 40 images: lower cluster\.min_size, which is 30"):
        density(scattered, 30, "l2")
    with pytest.raises(UserError, match=r"cluster\.min_size is 41, more than the 40 images"):
        density(scattered, 41, "l2")


@pytest.mark.parametrize(
    ("section", "said"),
    [(("kmeans", 0, 5, 5), "clusters is 0"), (("kmeans", "x", 5, 5), "clusters is 'x'; expected 1 or more, or auto"),
     (("kmeans", 3, 0, 5), "iterations is 0"), (("hdbscan", 3, 5, 1), "min_size is 1")],
)  # fmt: skip
def test_a_section_that_cannot_be(section: tuple[str, int | str, int, int], said: str) -> None:
    with pytest.raises(UserError, match=said):
        ClusterConfig(*section)  # type: ignore[arg-type]


def test_a_summary_leaves_noise_out() -> None:
    table = summarise(
        np.arange(6),
        np.array([NOISE, 1, 0, 0, NOISE, 0], np.int32),
        np.array([0, 3, 2, 1, 0, 5], np.float32),
        None,
        None,
    )
    assert table == {"cluster": [0, 1], "size": [3, 1], "medoid": [3, 1]}


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


@pytest.mark.parametrize("method", ["kmeans", "auto", "hdbscan"])
def test_a_reader_gives_the_images_the_clusters_that_the_stage_gave_them(
    method: str, set_params: Set, capsys: pytest.CaptureFixture[str]
) -> None:
    set_params(cluster={"method": "hdbscan", "min_size": 5} if method == "hdbscan" else {"clusters": "auto"}
               if method == "auto" else {"clusters": 4})  # fmt: skip
    assert cli.main(["cluster"]) == 0
    out, made = capsys.readouterr().out, Clusters.open()
    cluster, distance = made.assign(Embeddings.open().load())
    rows = pq.read_table(config.CLUSTERS / "assignments.parquet")
    assert np.array_equal(cluster, rows["cluster"].to_numpy())
    np.testing.assert_allclose(distance, rows["distance"].to_numpy(), atol=1e-6)
    table = pq.read_table(config.CLUSTERS / "clusters.parquet").to_pylist()
    assert made.manifest is not None
    facts = made.manifest.facts
    assert [row["size"] for row in table] == [int((cluster == row["cluster"]).sum()) for row in table]
    assert facts["noise"] == (cluster == NOISE).sum() == 150 - sum(row["size"] for row in table)
    assert facts["clusters"] == len(table) == len(made.centroids)
    assert f"{facts['clusters']} clusters" in out
    if method == "auto":
        assert facts["clusters"] == best([(number, score) for number, score in facts["silhouettes"]])
        assert f"silhouette {dict(facts['silhouettes'])[facts['clusters']]:.3f}" in out
    assert (f"{facts['noise']} in none" in out) == (method == "hdbscan")
    assert cli.main(["cluster"]) == 0
    assert read_manifest(config.CLUSTERS, "clusters").digest == made.manifest.digest


def test_a_stage_that_finds_only_noise_ends_with_a_sentence(
    set_params: Set, capsys: pytest.CaptureFixture[str]
) -> None:
    set_params(cluster={"method": "hdbscan", "min_size": 60})
    assert cli.main(["cluster"]) == 1
    assert "lower cluster.min_size, which is 60" in capsys.readouterr().err


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
