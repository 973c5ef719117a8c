"""Which cluster a code gets: equal to brute force, in blocks as at once, and after saving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aecore import artifact
from aecore.config import WorkFailed
from aecore.search.clusters import NOISE, Clusters, Fitted, nearest, renumbered
from aecore.search.metric import Metric, comparable

METRICS: list[Metric] = ["cosine", "l2"]


def codes_and(metric: Metric, fitted: bool) -> tuple[np.ndarray, Clusters]:
    """200 codes of 6 numbers, and three clusters to put them in."""
    rng = np.random.default_rng(0)
    vectors, center = rng.normal(size=(200, 6)).astype(np.float32), rng.normal(size=6).astype(np.float32)
    centroids = comparable(rng.normal(size=(3, 6)).astype(np.float32), center, metric)
    known = comparable(rng.normal(size=(40, 6)).astype(np.float32), center, metric)
    radius = np.array([0.2, 0.3, 0.6] if metric == "cosine" else [2.2, 2.8, 3.5], np.float32)
    some = Fitted(known, rng.integers(NOISE, 3, 40).astype(np.int32), radius)
    return vectors, Clusters(metric, center, centroids, some if fitted else None)


def brute_force(vectors: np.ndarray, made: Clusters) -> tuple[list[int], list[float]]:
    """The rule, an image at a time, in float64 and from raw codes."""

    def far(one: np.ndarray, other: np.ndarray) -> float:
        return float(1 - one @ other if made.metric == "cosine" else np.linalg.norm(one - other))

    cluster, distance = [], []
    for vector in vectors.astype(np.float64) - made.center:
        one = vector / np.linalg.norm(vector) if made.metric == "cosine" else vector
        to_centroids = [far(one, centroid) for centroid in made.centroids]
        mine = int(np.argmin(to_centroids))
        told = mine
        if made.fitted is not None:
            gaps = [far(one, other) for other in made.fitted.vectors]
            beside = int(np.argmin(gaps))
            told = int(made.fitted.cluster[beside])
            if told != NOISE and gaps[beside] > made.fitted.radius[told]:
                told = NOISE
            mine = mine if told == NOISE else told
        cluster.append(told)
        distance.append(to_centroids[mine])
    return cluster, distance


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("fitted", [False, True], ids=["kmeans", "density"])
def test_a_code_gets_the_cluster_that_brute_force_gives_it(
    metric: Metric, fitted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, made = codes_and(metric, fitted)
    cluster, distance = made.assign(vectors)
    expected, apart = brute_force(vectors, made)
    assert (cluster.dtype, distance.dtype) == (np.int32, np.float32)
    assert cluster.tolist() == expected
    assert len(set(expected)) == (4 if fitted else 3)
    np.testing.assert_allclose(distance, apart, atol=1e-5)

    with artifact.writing(tmp_path / "clusters", "clusters", facts={"metric": metric}) as directory:
        made.save(directory)
    again = Clusters.open(tmp_path / "clusters")
    monkeypatch.setattr("aecore.search.clusters.BLOCK", 7)
    monkeypatch.setattr("aecore.search.clusters.SCORES", 100)
    assert again.manifest is not None
    for number, column in enumerate(again.assign(vectors)):
        np.testing.assert_allclose(column, (cluster, distance)[number], atol=1e-6)
    assert [len(column) for column in again.assign(vectors[:0])] == [0, 0]


def test_scores_are_held_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, made = codes_and("l2", True)
    seen = []
    monkeypatch.setattr("aecore.search.clusters.SCORES", 100)
    monkeypatch.setattr(
        "aecore.search.clusters.affinity",
        lambda a, b, metric: seen.append(len(a) * len(b)) or -((a[:, None] - b) ** 2).sum(axis=2),
    )
    made.assign(vectors)
    assert max(seen) <= 100


@pytest.mark.parametrize("fitted", [False, True], ids=["kmeans", "density"])
def test_clusters_in_another_order_are_the_same_clusters(fitted: bool) -> None:
    vectors, made = codes_and("l2", fitted)
    cluster, distance = made.assign(vectors)
    order = np.array([2, 0, 1])
    turned, apart = made.ordered(order).assign(vectors)
    assert np.array_equal(turned, renumbered(cluster, order))
    assert all(order[new] == old for new, old in zip(turned, cluster, strict=True) if old != NOISE)
    assert np.array_equal(turned == NOISE, cluster == NOISE)
    np.testing.assert_allclose(apart, distance, atol=1e-6)


def test_a_code_that_is_the_centre_has_a_cluster() -> None:
    center = np.ones(4, np.float32)
    made = Clusters("cosine", center, comparable(np.eye(4, dtype=np.float32), center, "cosine"))
    cluster, distance = made.assign(center[None])
    assert cluster[0] >= 0
    assert distance[0] == 1


def test_the_nearest_of_equals_is_the_first() -> None:
    points = np.ones((3, 2), np.float32)
    assert nearest(points[:1], points, "l2")[0].tolist() == [0]


def test_an_artefact_without_its_centre_names_the_command(tmp_path: Path) -> None:
    with artifact.writing(tmp_path / "clusters", "clusters") as directory:
        np.save(directory / "centroids.npy", np.eye(2))
    with pytest.raises(WorkFailed, match="older version: run `python -m aecore cluster`"):
        Clusters.open(tmp_path / "clusters")
