"""Percentiles against all pairs, counted one by one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from aecore import cli
from aecore.config import UserError
from aecore.search import percentile
from aecore.search.metric import Metric
from aecore.search.percentile import Spread, closer_than, distance_at, measure, pair, percent
from aecore.search.searcher import Searcher, Source


def unit(count: int, seed: int = 0, dim: int = 5) -> np.ndarray:
    """Codes of length 1."""
    x = np.random.default_rng(seed).normal(size=(count, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def reader(codes: np.ndarray, seen: list[np.ndarray] | None = None) -> percentile.Read:
    def read(positions: np.ndarray) -> np.ndarray:
        assert (np.diff(positions) > 0).all()  # a disk likes it
        if seen is not None:
            seen.append(positions)
        return codes[positions]

    return read


def test_numbers_name_every_pair_once() -> None:
    a, b = pair(np.arange(30 * 29 // 2))
    assert sorted(zip(a.tolist(), b.tolist(), strict=True)) == [(i, j) for i in range(30) for j in range(i + 1, 30)]


@given(st.integers(0, 2**61))
def test_a_number_as_large_as_they_come_names_its_pair(number: int) -> None:
    a, b = (int(end[0]) for end in pair(np.array([number])))
    assert 0 <= a < b
    assert a + b * (b - 1) // 2 == number


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_of_few_images_every_pair_is_measured(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(percentile, "GATHERED", 6 * 5 * 37)  # 37 pairs at a time
    codes = unit(40)
    spread = measure(reader(codes), np.arange(40), metric)
    distances = pdist(codes.astype(np.float64), "cosine" if metric == "cosine" else "euclidean")
    assert spread.pairs == len(distances) == 780
    assert spread.most == 1 - 3 / 780
    np.testing.assert_allclose(spread.distance, np.sort(distances), atol=1e-6)
    for asked in np.quantile(distances, [0.01, 0.3, 0.77, 0.99]) + 1e-6:
        farther = (distances > asked).mean()
        assert closer_than(spread, np.array([asked]))[0] == pytest.approx(farther, abs=1.01 / 780)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_a_sample_of_pairs_is_that_of_all_to_its_error(metric: Metric) -> None:
    codes = unit(400)
    distances = pdist(codes.astype(np.float64), "cosine" if metric == "cosine" else "euclidean")
    positions = np.arange(0, 1200, 3)
    spread = measure(reader(np.repeat(codes, 3, axis=0)), positions, metric, pairs=20_000, seed=1)
    assert spread.pairs == 20_000
    asked = np.quantile(distances, [0.001, 0.01, 0.1, 0.5, 0.9])
    share = (distances[:, None] > asked).mean(axis=0)
    error = np.sqrt(share * (1 - share) / 20_000)
    assert (np.abs(closer_than(spread, asked) - share) < 4 * error + 1 / 20_000).all()


def test_pairs_are_different_and_the_same_again() -> None:
    codes = np.arange(90, dtype=np.float32)[:, None] ** 2  # differences of squares: most tell their pair
    spread = measure(reader(codes), np.arange(90), "l2", pairs=3_900)
    all_of_them, counts = np.unique(pdist(codes), return_counts=True)
    drawn = np.round(np.diff(spread.share, prepend=0) * 3_900).astype(int)
    assert (drawn <= counts[np.searchsorted(all_of_them, spread.distance)]).all()
    again = measure(reader(codes), np.arange(90), "l2", pairs=3_900)
    other = measure(reader(codes), np.arange(90), "l2", pairs=3_900, seed=5)
    np.testing.assert_array_equal(again.share, spread.share)
    assert len(other.share) != len(spread.share) or (other.share != spread.share).any()


def test_little_is_read_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(percentile, "GATHERED", 6 * 5 * 100)
    seen: list[np.ndarray] = []
    measure(reader(unit(1_000), seen), np.arange(1_000), "cosine", pairs=5_000)
    assert max(map(len, seen)) <= 200
    assert sum(map(len, seen)) <= 10_001


def spread(distances: list[float]) -> Spread:
    """Of all these distances."""
    values, counts = np.unique(np.array(distances, np.float32), return_counts=True)
    return Spread(values, np.cumsum(counts) / len(distances), len(distances))


@given(st.lists(st.integers(0, 20), min_size=4, max_size=40), st.lists(st.floats(0, 25), min_size=2, max_size=20))
def test_shares_fall_with_the_distance_and_never_claim_too_much(values: list[int], asked: list[float]) -> None:
    known = spread([float(v) for v in values])
    asked = sorted(asked)
    shares = closer_than(known, np.array(asked))
    assert (np.diff(shares) <= 0).all()
    assert (shares >= 0).all()
    assert (shares <= 1 - 3 / len(values)).all()
    at_least = np.array([sum(v >= d for v in values) for d in asked]) / len(values)
    assert (shares <= at_least + 1e-12).all()
    farther = closer_than(known, np.array(values))
    exact = np.array([sum(v > d for v in values) for d in values]) / len(values)
    np.testing.assert_allclose(farther, np.minimum(exact, known.most), atol=1e-12)


def test_the_ends() -> None:
    known = spread(np.linspace(1, 2, 1_000).tolist())
    np.testing.assert_allclose(closer_than(known, np.array([0, 0.5, 2, 3])), [0.997, 0.997, 0, 0], atol=1e-12)
    assert closer_than(known, np.array([1 + 99.5 / 999]))[0] == pytest.approx(0.8995)  # half-way between two
    for share in (0.1, 0.5, 0.9, 0.997):
        assert closer_than(known, np.array([distance_at(known, share)]))[0] == pytest.approx(share, abs=1e-6)
    assert distance_at(spread([0] * 5 + [1] * 10), 0.7) == 0  # a third of the pairs are the same
    for share in (0, -1, 0.998, 1, 2, float("nan")):
        with pytest.raises(UserError, match=r"--percentile is .*up to 99\.7.*1,000 random pairs"):
            distance_at(known, share)
    with pytest.raises(UserError, match="there is 1 image"):
        measure(reader(unit(1)), np.arange(1), "cosine")
    assert measure(reader(unit(2)), np.arange(2), "cosine").most == 0
    assert [percent(share) for share in (0.99999, 1 / 3, 0.9999879, 0, 1)] == [99.999, 33.333, 99.998, 0, 100]


def test_query_and_duplicates_tell_and_take_percentiles(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    searcher = Searcher.open(Source.find())
    codes = searcher.collection.codes(np.arange(searcher.count)).astype(np.float64)
    distances = pdist(codes, "cosine")
    item = str(searcher.base.ids[3])
    asked = ["query", "--id", item, "-k", "150", "--json", "--percentile"]
    assert cli.main(asked) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["random_pairs"] == {"count": 11_175, "most": 99.973}
    rows = answer["queries"][0]["neighbours"]
    assert rows[0]["percentile"] == 99.973
    for row in rows[1:]:
        assert row["percentile"] == pytest.approx(100 * (distances > row["distance"]).mean(), abs=0.05)
    assert cli.main([*asked, "--where", "label_name = 'disc'"]) == 0  # still of all pairs
    among = json.loads(capsys.readouterr().out)["queries"][0]["neighbours"]
    assert {row["id"]: row["percentile"] for row in rows}.items() >= {r["id"]: r["percentile"] for r in among}.items()
    assert cli.main(["query", "--id", item, "-k", "3", "--percentile"]) == 0
    told = capsys.readouterr()
    head, first, *_ = told.out.splitlines()[1:]
    assert head.split() == ["rank", "similarity", "distance", "percentile", "id", "label", "path"]
    assert first.split()[3] == ">99.973"
    assert "11,175 random pairs" in told.err
    assert cli.main(["query", "--id", item, "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert "random_pairs" not in plain
    assert "percentile" not in plain["queries"][0]["neighbours"][0]

    assert cli.main(["duplicates", "--percentile", "99", "--json"]) == 0
    threshold = json.loads(capsys.readouterr().out)["threshold"]
    assert (distances > threshold).mean() == pytest.approx(0.99, abs=1e-4)
    assert cli.main(["duplicates", "--percentile", "99"]) == 0
    assert "(which 99 % of 11,175 random pairs exceed)" in capsys.readouterr().out
    assert cli.main(["duplicates", "--percentile", "99.999"]) == 2
    assert "up to 99.9731544" in capsys.readouterr().err
    assert cli.main(["duplicates", "--percentile", "99", "--distance", "0.1"]) == 2
    assert "give one of them" in capsys.readouterr().err
