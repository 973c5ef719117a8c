"""Classic learners against scikit-learn, called by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from aecore.analysis import learners, protocol
from aecore.analysis.protocol import Sample, flat
from aecore.analysis.space import Space

from .test_evaluate import write_images


def blobs(kinds: int, count: int = 90, dim: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping clouds of very different scales by dimension, and which cloud each point is of."""
    rng = np.random.default_rng(kinds)
    labels = np.arange(count) % kinds
    points = rng.normal(size=(kinds, dim))[labels] + rng.normal(size=(count, dim))
    return (points * 10.0 ** np.arange(-2, dim - 2)).astype(np.float32), labels


@pytest.mark.parametrize("kinds", [2, 3])
def test_answers_are_scikit_learns_and_blocks_change_nothing(kinds: int) -> None:
    points, labels = blobs(kinds)
    taught, asked = points[:60], points[60:]
    said = learners.predict(taught, labels[:60], iter([asked[:7], asked[7:]]), 3)
    assert set(said) == set(learners.LEARNERS)
    forest = RandomForestClassifier(learners.TREES, random_state=3).fit(taught, labels[:60])
    np.testing.assert_array_equal(said["forest"], forest.predict(asked))
    mean, deviation = taught.mean(axis=0), taught.std(axis=0)
    ready = [(x - mean) / deviation / np.sqrt(taught.shape[1]) for x in (taught, asked)]
    svm = LinearSVC(C=learners.COST, tol=1e-4, random_state=0, max_iter=100_000).fit(ready[0], labels[:60])
    scores = svm.decision_function(ready[1]).reshape(30, -1)
    margin = np.sort(scores, axis=1)[:, -1] - np.sort(scores, axis=1)[:, -2] if kinds > 2 else np.abs(scores[:, 0])
    clear = margin > 0.05  # the learner's tolerance is coarser
    assert clear.sum() > 20
    np.testing.assert_array_equal(said["svm"][clear], svm.predict(ready[1])[clear])


def test_where_all_are_alike_that_label_is_the_answer() -> None:
    said = learners.predict(np.ones((5, 2), np.float32), np.full(5, 7), [np.zeros((3, 2), np.float32)], 0)
    assert {name: answer.tolist() for name, answer in said.items()} == {"svm": [7] * 3, "forest": [7] * 3}


def test_fewer_images_teach_where_they_are_large() -> None:
    assert learners.most(28 * 28) == 10_000
    assert learners.most(2 * 28 * 28 * 28) == learners.LEAST == 1_000
    assert learners.most(2**12) == 2**11


def test_the_taught_are_the_smallest_ids_of_the_labelled_training_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write_images(tmp_path / "data", labelled=True)
    assert np.array_equal(Sample.choose(images).taught, images.positions("train"))
    monkeypatch.setattr(learners, "TAUGHT", 11)
    taught = Sample.choose(images).taught
    assert sorted(images.ids()[taught]) == sorted(images.ids()[images.positions("train")])[:11]
    assert len(Sample.choose(write_images(tmp_path / "other", labelled=False)).taught) == 0


def test_a_space_is_measured_by_what_its_learners_get_right(tmp_path: Path) -> None:
    images = write_images(tmp_path / "data", labelled=True)
    chosen, labels = Sample.choose(images), images.labels()
    assert labels is not None
    space = Space.fit(lambda positions: flat(images.rows(positions)), chosen.train, "cosine")
    measured = protocol.measure(space, flat, images, chosen, 5, 4)
    forest = RandomForestClassifier(learners.TREES, random_state=4)
    forest.fit(flat(images.rows(chosen.taught)), labels[chosen.taught])
    right = forest.predict(flat(images.rows(chosen.queries))) == labels[chosen.queries]
    np.testing.assert_array_equal(measured["forest"], right.astype(float))
    assert measured["svm"].mean() == 1  # bright bars at three places


@pytest.mark.parametrize("kinds", [2, 3, 5])
def test_logistic_regression_is_scikit_learns_at_the_cost_the_judge_prefers(kinds: int) -> None:
    points, labels = blobs(kinds)
    wanted = 3 / points.shape[1]
    linear = learners.logistic(points, labels, lambda candidate: -abs(candidate.cost - wanted))
    assert linear.cost == wanted
    ready = (points - points.mean(axis=0)) / linear.scale
    assert np.square(ready).mean() == pytest.approx(1, rel=1e-4)
    expected = LogisticRegression(C=wanted, tol=1e-8, max_iter=10_000).fit(ready, labels).predict_proba(ready)
    scores = ((points - linear.mean) / linear.scale) @ linear.weight.T + linear.bias
    probability = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probability, expected, atol=0.02)
    np.testing.assert_array_equal(linear.predict(points), scores.argmax(axis=1))


def test_of_costs_judged_alike_the_smallest_is_taken() -> None:
    points, labels = blobs(3)
    assert learners.logistic(points, labels, lambda candidate: 0.5).cost == learners.COSTS[0] / points.shape[1]
    alike = learners.logistic(np.ones_like(points), labels, lambda candidate: 0.5)
    assert np.isfinite(alike.weight).all()
