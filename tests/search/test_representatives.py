"""Representatives against plain numpy: the traversal, its cells, what they settle on; and the command."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.distance import cdist

from aecore import cli
from aecore.search import subset
from aecore.search.metric import Metric, distances
from aecore.search.montage import CAPTION, CELL, PAD
from aecore.search.representatives import By, choose
from aecore.search.searcher import Searcher, Source
from aecore.search.subset import Codes, cells, farthest_first, mean_of, medoids, reach, settled

METRICS: tuple[Metric, ...] = ("cosine", "l2")
BYS: tuple[By, ...] = ("typical", "coverage")


def codes_of(x: np.ndarray, metric: Metric, ids: np.ndarray | None = None) -> Codes:
    """Codes held in memory; ids fall with the place unless they are given."""
    ids = np.arange(len(x), 0, -1) if ids is None else ids
    return Codes(lambda places: x[places], ids, metric)


def cloud(count: int, metric: Metric, seed: int = 0, dim: int = 4) -> np.ndarray:
    """Codes in groups; for l2 far from 0."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(5, dim))[rng.integers(0, 5, count)] * 3 + rng.normal(size=(count, dim))
    x = x / np.linalg.norm(x, axis=1, keepdims=True) if metric == "cosine" else x + 500
    return x.astype(np.float32)


def matrix(x: np.ndarray, metric: Metric) -> np.ndarray:
    return np.asarray(distances(x[:, None], x[None], metric))


def greedy(far: np.ndarray, ids: np.ndarray, n: int, first: int) -> list[int]:
    """Farthest-first from the full matrix of distances."""
    chosen = [first]
    while len(chosen) < n:
        nearest = far[:, chosen].min(axis=1)
        nearest[chosen] = -1
        chosen.append(min(range(len(far)), key=lambda i: (-nearest[i], ids[i])))
    return chosen


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("gathered", [4, 4 * 3, 4 * 40, 2**20])  # a pool of 1, 3, 40 and all; blocks alike
def test_the_traversal_is_that_over_all_distances(
    metric: Metric, gathered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subset, "GATHERED", gathered)
    x = cloud(200, metric)
    codes = codes_of(x, metric)
    found = farthest_first(codes, 40, np.array([17]))
    assert found.tolist() == greedy(matrix(x, metric), codes.ids, 40, 17)
    assert farthest_first(codes, 3, np.array([5, 1, 2, 9])).tolist() == [5, 1, 2]
    assert farthest_first(codes, 10, found[:4]).tolist() == found[:10].tolist()


@pytest.mark.parametrize("gathered", [2, 4, 10, 2**20])
def test_ties_go_to_the_smallest_id_and_equal_codes_are_chosen_once_each(
    gathered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subset, "GATHERED", gathered)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        half, ids = rng.integers(0, 5, (15, 2)).astype(np.float32), rng.permutation(30)
        x = np.concatenate([half, 4 - half])  # many are equal or equally far; their mean is whole: nothing is rounded
        codes, far = codes_of(x, "l2", ids), matrix(x, "l2")
        for n in (1, 12, 30):
            assert farthest_first(codes, n, np.array([7])).tolist() == greedy(far, ids, n, 7)


def test_a_pass_tells_several(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = 0

    class Counted(Codes):
        def blocks(self, width: int) -> Iterator[tuple[slice, np.ndarray]]:
            nonlocal passes
            passes += 1
            return super().blocks(width)

    monkeypatch.setattr(subset, "GATHERED", 4 * 100)
    x = cloud(3_000, "l2")
    farthest_first(Counted(lambda places: x[places], np.arange(3_000), "l2"), 60, np.array([0]))
    assert passes <= 15


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("seed", range(4))
def test_the_radius_is_at_most_twice_the_best(metric: Metric, seed: int) -> None:
    x = cloud(14, metric, seed)
    far = cdist(x, x)  # Euclidean also for cosine: there it is the chord
    best = min(far[:, list(some)].min(axis=1).max() for some in itertools.combinations(range(14), 3))
    found = farthest_first(codes_of(x, metric), 3, np.array([seed]))
    assert far[:, found].min(axis=1).max() <= 2 * best + 1e-5


@pytest.mark.parametrize("metric", METRICS)
def test_settling_is_lloyds_and_medoids_are_nearest_to_the_means(
    metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subset, "GATHERED", 4 * 33)
    x = cloud(300, metric)
    codes = codes_of(x, metric)
    start = np.array([3, 50, 99, 200])
    y = x.astype(np.float64) - codes.origin
    means = y[start]
    for rounds in range(1, 5):
        cell = cdist(y, means).argmin(axis=1)
        means = np.stack([y[cell == number].mean(axis=0) for number in range(4)])
        if metric == "cosine":
            means /= np.linalg.norm(means, axis=1, keepdims=True)
        np.testing.assert_allclose(settled(codes, start, rounds), means, atol=1e-4)
    cell = cdist(y, means).argmin(axis=1)
    nearest = [min(np.flatnonzero(cell == k), key=lambda i: np.linalg.norm(y[i] - means[k])) for k in range(4)]
    assert medoids(codes, means.astype(np.float32)).tolist() == sorted(nearest)
    middle = y.mean(axis=0) / (np.linalg.norm(y.mean(axis=0)) if metric == "cosine" else 1)
    np.testing.assert_allclose(mean_of(codes), middle, atol=1e-4)


def test_medoids_ties_and_empty_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subset, "GATHERED", 2)  # ties lie in different blocks
    x = np.array([[1], [3], [1], [3], [9]], np.float32)
    codes = codes_of(x, "l2", np.array([4, 5, 2, 1, 3]))
    means = np.array([2, 9, 50], np.float32)[:, None] - codes.origin
    assert medoids(codes, means).tolist() == [3, 4]  # four images are as near to 2: the smallest id
    assert np.isfinite(settled(codes, np.array([0, 2, 4]))).all()  # the second cell is empty: its code is the first's


@pytest.mark.parametrize("metric", METRICS)
def test_cells_and_reach_are_those_of_all_distances(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subset, "GATHERED", 4 * 33)
    x = cloud(150, metric)
    x[40] = x[7]
    if metric == "cosine":
        x[30] = 0  # no direction: at 1 from all
    codes = codes_of(x, metric)
    chosen = np.array([7, 40, 30, 100])
    found, far = cells(codes, chosen), matrix(x, metric)
    expected = far[:, chosen].argmin(axis=1)
    expected[[7, 40, 30, 100]] = range(4)  # each its own, also of two that are equal
    np.testing.assert_array_equal(found.chosen, expected)
    nearest = far[:, chosen].min(axis=1)
    nearest[chosen] = 0
    np.testing.assert_allclose(found.distance, nearest, rtol=1e-4, atol=1e-6)
    means, largest = reach(codes, np.array([[1, 2, 3], [90, 91, 92]]))
    for number, some in enumerate(([1, 2, 3], [90, 91, 92])):
        nearest = far[:, some].min(axis=1)
        assert means[number] == pytest.approx(nearest.mean(), rel=1e-4)
        assert largest[number] == pytest.approx(nearest.max(), rel=1e-4)


@pytest.mark.parametrize("metric", METRICS)
def test_typical_ones_are_the_middles_of_groups_and_coverage_finds_the_odd(metric: Metric) -> None:
    rng = np.random.default_rng(0)
    centers = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    x = (centers.repeat(100, axis=0) + rng.normal(size=(300, 3)) * 0.1).astype(np.float32)
    x = np.concatenate([x, [[-2, -2, -2]]]).astype(np.float32)
    if metric == "cosine":
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    codes = codes_of(x, metric)
    typical = choose(codes, 4, "typical")
    assert 300 in choose(codes, 3, "coverage")
    assert sorted(typical // 100) == [0, 1, 2, 3]
    for place in typical[:3]:  # nearer to the middle of its group than nine of ten
        group = x[place // 100 * 100 : place // 100 * 100 + 100]
        away = np.linalg.norm(group - group.mean(axis=0), axis=1)
        assert np.linalg.norm(x[place] - group.mean(axis=0)) <= np.quantile(away, 0.1)
    for by in BYS:  # of five images two different codes, so that cells are empty
        assert len(set(choose(codes_of(x[[0, 0, 0, 150, 150]], metric), 4, by).tolist())) == 4


def test_the_command(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    searcher = Searcher.open(Source.find())
    assert cli.main(["representatives", "-n", "6", "--json", "--montage", "out.png"]) == 0
    text = capsys.readouterr().out
    answer = json.loads(text)
    assert list(answer) == ["source", "metric", "where", "by", "count", "mean", "radius", "random", "representatives"]
    assert (answer["metric"], answer["where"], answer["by"], answer["count"]) == ("cosine", None, "typical", 150)
    entries = answer["representatives"]
    places = searcher.collection.positions(np.array([int(e["id"]) for e in entries]))
    far = matrix(searcher.collection.codes(np.arange(150)), "cosine")[:, places]
    cell, nearest = far.argmin(axis=1), far.min(axis=1)
    assert answer["mean"] == pytest.approx(nearest.mean(), abs=2e-6)
    assert answer["radius"] == pytest.approx(nearest.max(), abs=2e-6)
    assert answer["random"]["subsets"] == 5
    assert answer["mean"] < answer["random"]["mean"]
    assert [-e["size"] for e in entries] == sorted(-e["size"] for e in entries)
    for number, entry in enumerate(entries):
        item = searcher.collection.item(int(entry["id"]))
        assert all(entry[key] == item[key] for key in ("path", "label", "label_name", "split"))
        assert entry["size"] == (cell == number).sum()
        assert entry["mean"] == pytest.approx(nearest[cell == number].mean(), abs=2e-6)
        assert entry["radius"] == pytest.approx(nearest[cell == number].max(), abs=2e-6)
    picture = np.asarray(Image.open("out.png").convert("L"))
    shown = searcher.collection.pixels(places[:1])[0, 0]
    np.testing.assert_array_equal(picture[PAD : PAD + CELL : 8, PAD : PAD + CELL : 8], shown)
    assert cli.main(["representatives", "-n", "6", "--json"]) == 0
    assert capsys.readouterr().out == text

    where = "label_name = 'disc' and split = 'train'"
    assert cli.main(["representatives", "-n", "3", "--json", "--by", "coverage", "--where", where]) == 0
    told = capsys.readouterr()
    answer = json.loads(told.out)
    assert answer["where"] == where
    assert sum(e["size"] for e in answer["representatives"]) == answer["count"] < 50
    assert {(e["label_name"], e["split"]) for e in answer["representatives"]} == {("disc", "train")}
    assert f"{answer['count']} of 150 images meet" in told.err
    assert cli.main(["representatives", "-n", "150", "--montage", "all.png"]) == 0
    told = capsys.readouterr()
    assert "drew all.png, the first 100 of 150" in told.err
    with Image.open("all.png") as drawn:
        assert drawn.height == PAD + 100 * (CELL + CAPTION + PAD)
    lines = told.out.splitlines()
    assert lines[0] == "150 images for 150: at mean distance 0.0000 from them, 0.0000 at most"
    assert len(lines) == 4 + 150
    assert lines[4].split()[:4] == ["1", "0.67%", "0.0000", "0.0000"]


@pytest.mark.parametrize(("arguments", "message"), [
    (["-n", "0"], "-n is 0; expected 1 or more"),
    (["-n", "151"], "-n is 151, more than the 150 images"),
    (["--where", "label_name = 'dog'"], "no image meets --where"),
    (["--where", "lable = 1"], "Columns: id"),
    (["-n", "51", "--where", "label_name = 'disc'"], "more than the 50 images"),
    (["--montage", "nowhere/out.png"], "cannot be written"),
])  # fmt: skip
def test_wrong_requests(
    arguments: list[str], message: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["representatives", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_what_was_removed_stands_for_nothing(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["publish"]) == 0
    assert cli.main(["remove", "--where", "label_name = 'square'"]) == 0
    capsys.readouterr()
    assert cli.main(["representatives", "-n", "20", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["source"]["kind"] == "published"
    assert sum(e["size"] for e in answer["representatives"]) == answer["count"] == 100
    assert {e["label_name"] for e in answer["representatives"]} == {"disc", "stripes"}
