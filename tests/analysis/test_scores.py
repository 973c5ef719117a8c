"""Every figure against plain Python, scikit-learn, scikit-image or all permutations."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from sklearn import metrics
from sklearn.neighbors import KNeighborsClassifier

from aecore.analysis.compare import compare
from aecore.analysis.intervals import (
    bootstrap_means,
    half_sampled_agreement,
    half_samples,
    interval,
    interval_around,
    resamples,
)
from aecore.analysis.scores import agreement, average_precision, matched, psnr, rank_of, squared_error, ssim, vote
from aecore.analysis.space import Space, leading
from aecore.search.metric import Metric


def naive_vote(labels: list[int]) -> int:
    counts = Counter(labels)
    return next(label for label in labels if counts[label] == max(counts.values()))


def test_the_vote_goes_to_the_majority_and_a_tie_to_the_nearer() -> None:
    labels = np.random.default_rng(0).integers(0, 4, (500, 10))
    assert vote(labels).tolist() == [naive_vote(row) for row in labels.tolist()]
    assert vote(np.array([[3, 1, 1, 3], [2, 0, 0, 1]])).tolist() == [3, 0]


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_nearest_is_brute_force_and_knn_is_scikit_learns(metric: Metric) -> None:
    rng = np.random.default_rng(1)
    vectors = (rng.normal(size=(300, 6)) + 2).astype(np.float32)
    labels = (vectors[:, 0] + rng.normal(0, 0.3, 300) > 2).astype(int)
    train, test = np.arange(200), np.arange(200, 300)
    space = Space.fit(lambda positions: vectors[positions], train, metric)
    centred = (vectors - vectors[:200].mean(axis=0)).astype(np.float64)
    if metric == "cosine":
        centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    distances = np.linalg.norm(centred[test][:, None] - centred[train][None], axis=2)
    near = space.nearest(space.read(test), train, 9)
    assert np.array_equal(near, np.argsort(distances, axis=1)[:, :9])
    reference = KNeighborsClassifier(9, algorithm="brute").fit(
        centred[train], labels[train]
    )  # odd k, two labels: no tie
    assert np.array_equal(vote(labels[near]), reference.predict(centred[test]))


def test_blocks_do_not_change_the_ranking(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(2).normal(size=(100, 5)).astype(np.float32)
    space = Space.fit(lambda positions: vectors[positions], np.arange(60), "l2")
    whole = space.nearest(space.read(np.arange(60, 100)), np.arange(60), 7)
    monkeypatch.setattr("aecore.analysis.space.BLOCK", 160)
    assert np.array_equal(space.nearest(space.read(np.arange(60, 100)), np.arange(60), 7), whole)


def test_equal_scores_lead_in_column_order() -> None:
    assert leading(np.array([[1.0, 3.0, 1.0, 3.0, 2.0]]), 9).tolist() == [[1, 3, 4, 0, 2]]


def test_average_precision_is_scikit_learns_ties_included() -> None:
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 12, (40, 60)).astype(np.float32)
    relevant = rng.random((40, 60)) < 0.3
    relevant[0] = False
    expected = [metrics.average_precision_score(r, s) for r, s in zip(relevant[1:], scores[1:], strict=True)]
    np.testing.assert_allclose(average_precision(scores, relevant), [0, *expected], atol=1e-12)


def test_a_rank_counts_what_is_as_near_as_ahead() -> None:
    scores = np.array([[0.9, 0.5, 0.1], [0.5, 0.5, 0.1], [0.0, 0.0, 0.0]])
    assert rank_of(scores, np.array([0, 1, 2])).tolist() == [1, 2, 3]


@pytest.mark.parametrize("shape", [(3, 1, 28, 28), (3, 3, 16, 20), (2, 1, 11, 11)])
def test_reconstruction_figures_are_scikit_images(shape: tuple[int, ...]) -> None:
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    rng = np.random.default_rng(4)
    x = rng.random(shape, np.float32)
    x_hat = np.clip(x + rng.normal(0, 0.1, shape), 0, 1).astype(np.float32)
    expected = [
        structural_similarity(
            a.astype(float), b.astype(float), gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
            data_range=1.0, channel_axis=0,
        )
        for a, b in zip(x, x_hat, strict=True)
    ]  # fmt: skip
    np.testing.assert_allclose(ssim(x, x_hat), expected, atol=1e-5)
    ratios = [peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(x, x_hat, strict=True)]
    np.testing.assert_allclose(psnr(squared_error(x, x_hat)), ratios, atol=1e-4)


def test_an_image_is_like_itself_however_small() -> None:
    x = np.random.default_rng(5).random((2, 1, 4, 6), np.float32)
    np.testing.assert_allclose(ssim(x, x), 1)
    assert psnr(squared_error(x, x)).tolist() == [100, 100]


@pytest.mark.parametrize(("clusters", "labels"), [(4, 4), (3, 5), (5, 3)])
def test_clustering_accuracy_is_the_best_of_all_matchings(clusters: int, labels: int) -> None:
    rng = np.random.default_rng(6)
    found, truth = rng.integers(0, clusters, 60), rng.integers(0, labels, 60)
    names = [*range(labels), *[-1] * clusters]
    best = max(np.mean(np.array(names_of)[found] == truth) for names_of in set(itertools.permutations(names, clusters)))
    assert matched(found, truth).mean() == pytest.approx(best)


def test_agreement_is_scikit_learns_weighted_by_repetition() -> None:
    rng = np.random.default_rng(7)
    truth = rng.integers(0, 5, 200)
    found = np.where(rng.random(200) < 0.6, truth + 2, rng.integers(0, 9, 200))
    weights = np.concatenate([np.ones((1, 200)), rng.integers(0, 3, (4, 200))]).astype(np.float32)
    nmi, ari = agreement(found, truth, weights)
    for row, times in enumerate(weights.astype(int)):
        a, b = np.repeat(found, times), np.repeat(truth, times)
        assert nmi[row] == pytest.approx(metrics.normalized_mutual_info_score(b, a))
        assert ari[row] == pytest.approx(metrics.adjusted_rand_score(b, a))
    same = agreement(np.zeros(5, int), np.zeros(5, int), np.ones((1, 5), np.float32))
    assert [float(value[0]) for value in same] == [1, 1]


def test_the_bootstrap_has_the_closed_forms_spread() -> None:
    values = np.random.default_rng(8).normal(3, 2, (400, 1))
    draws = bootstrap_means(values, 4000, seed=0)[:, 0]
    assert draws.mean() == pytest.approx(values.mean(), abs=0.01)
    assert draws.std() == pytest.approx(values.std() / 20, rel=0.05)
    low, high = interval(draws)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.06)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(9)
    columns = rng.random((200, 300)) < 0.7  # 300 experiments of 200 images
    draws = bootstrap_means(columns.astype(float), 400, seed=1)
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    assert 0.90 <= np.mean((low <= 0.7) & (high >= 0.7)) <= 0.98


def test_draws_are_paired_seeded_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(10).random(50)
    pair = bootstrap_means(np.stack([values, values + 0.1], axis=1), 100, seed=2)
    np.testing.assert_allclose(pair[:, 1] - pair[:, 0], 0.1)
    monkeypatch.setattr("aecore.analysis.intervals.HELD", 120)
    blocks = list(resamples(50, 7, seed=2))
    assert [len(block) for block in blocks] == [2, 2, 2, 1]
    assert all((block.sum(axis=1) == 50).all() for block in blocks)
    halves = list(half_samples(51, 7, seed=2))
    assert [len(block) for block in halves] == [2, 2, 2, 1]
    assert all(set(np.unique(block)) == {0, 1} and (block.sum(axis=1) == 25).all() for block in halves)
    assert half_sampled_agreement(np.arange(50) % 3, np.arange(50) % 2, 7, 2).shape == (7, 2)
    again = half_sampled_agreement(np.arange(50) % 3, np.arange(50) % 2, 7, 2)
    np.testing.assert_array_equal(again, half_sampled_agreement(np.arange(50) % 3, np.arange(50) % 2, 7, 2))


def clusterings(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two clusterings and labels of 1 to 200 items in 1 to 20 groups, which agree by chance or more often."""
    rng = np.random.default_rng(seed)
    count, groups = int(rng.integers(1, 201)), int(rng.integers(1, 21))
    labels = rng.integers(0, groups, count)
    one, other = (
        np.where(rng.random(count) < rng.random(), labels, rng.integers(0, int(rng.integers(1, 21)), count))
        for _ in range(2)
    )
    return one, other, labels


def test_an_interval_holds_its_own_figure() -> None:
    for seed in range(200):
        one, other, labels = clusterings(seed)
        found = compare({"model": {"cluster": one}, "pca": {"cluster": other}}, labels, 40, seed)
        for space, figures in found.intervals.items():
            for name, (low, high) in figures.items():
                assert low <= found.means[space][name] <= high, (seed, name)
                assert -0.5 <= low <= high <= 1
        for gap, low, high in found.differences["pca"].values():
            assert low - 1e-12 <= gap <= high + 1e-12, seed


@pytest.mark.parametrize("labels", [np.zeros(30, int), np.arange(30), np.array([0]), np.array([0, 1]), np.arange(3)])
def test_an_interval_of_what_cannot_vary_is_a_point(labels: np.ndarray) -> None:
    found = compare({"model": {"cluster": labels}}, labels, 40, 0)
    assert found.means["model"] == {"acc": 1, "nmi": 1, "ari": 1}
    assert set(found.intervals["model"].values()) == {(1.0, 1.0)}


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and clusters that are theirs seven times in ten."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, count)
    return np.where(rng.random(count) < 0.7, labels, rng.integers(0, 5, count)), labels


def test_half_samples_cover_the_truth_about_as_often_as_they_say() -> None:
    """The adjusted Rand index of a million items is the truth; NMI is biased by few images, so its mean over many."""
    once = np.ones((1, 300), np.float32)
    found = [drawn(300, seed) for seed in range(300)]
    values = np.array([[float(value[0]) for value in agreement(*pair, once)] for pair in found])
    truth = values.mean(axis=0)
    assert metrics.adjusted_rand_score(*drawn(1_000_000, 1_000)) == pytest.approx(truth[1], abs=0.01)
    draws = [half_sampled_agreement(*pair, 200, seed) for seed, pair in enumerate(found)]
    for number in range(2):
        ends = np.array([interval_around(v[number], d[:, number]) for v, d in zip(values, draws, strict=True)])
        assert 0.90 <= np.mean((ends[:, 0] <= truth[number]) & (truth[number] <= ends[:, 1])) <= 0.985
        assert np.mean(ends[:, 1] - ends[:, 0]) == pytest.approx(2 * 1.96 * values[:, number].std(), rel=0.15)


def test_differences_of_half_samples_are_paired() -> None:
    """Two clusterings that differ in one item of a thousand cannot be far apart, however much each varies."""
    one, labels = drawn(1000, 0)
    other = one.copy()
    other[0] = (one[0] + 1) % 5
    found = compare({"model": {"cluster": one}, "pca": {"cluster": other}}, labels, 200, 0)
    low, high = found.intervals["model"]["nmi"]
    _, least, most = found.differences["pca"]["nmi"]
    assert most - least < (high - low) / 8
