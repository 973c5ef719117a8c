"""Searching side by side: the artefacts are whole, answers are brute force's, and the tables say what was measured."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from aecore import artifact, config
from aecore.artifact import Manifest
from aecore.data.images import Images
from aecore.search import storage
from aecore.vectors import Embeddings

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import cloud as clouds  # noqa: E402
import cold  # noqa: E402
import engines  # noqa: E402
import layers  # noqa: E402
import search  # noqa: E402

COUNT, DIM = 600, 8
LEAST = {"hnswlib": 0.95, "FAISS, IVF": 0.5, "aecore": 0.95}
"""Recall of those that are not exact, at their widest setting here."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[clouds.Cloud, clouds.Cloud]:
    """A cloud in three shards under an inverted file, and the same under an exact index."""
    folder = tmp_path_factory.mktemp("cloud")
    codes = clouds.clustered(COUNT, DIM)
    parts = np.split(next(iter(codes.shards)), [250, 400])
    codes = codes._replace(sizes=[len(part) for part in parts], shards=parts)
    for name in ("ivf", "exact"):
        (folder / name).mkdir()
    cloud = clouds.make(folder / "ivf", codes, 1, {"min_recall": 0.9})
    exact = clouds.exactly(cloud, folder / "exact", 1)
    clouds.prepare(cloud)
    return cloud, exact


def oracle(cloud: clouds.Cloud, queries: np.ndarray) -> np.ndarray:
    """Positions of the nearest, nearest first, by float64 cosines of centred codes."""
    codes = Embeddings.open(cloud.folder / config.EMBEDDINGS).load().astype(np.float64)
    train = Images.open(cloud.folder / config.PREPARED).positions("train")
    mean = codes[train].mean(axis=0)
    x, q = codes - mean, queries.astype(np.float64) - mean
    cosines = (q / np.linalg.norm(q, axis=1, keepdims=True)) @ (x / np.linalg.norm(x, axis=1, keepdims=True)).T
    return np.argsort(-cosines, axis=1)[:, : engines.K]


def test_the_artefacts_are_whole_and_as_the_stages_write_them(made: tuple[clouds.Cloud, clouds.Cloud]) -> None:
    cloud, exact = made
    paths = {"data": config.PREPARED, "model": config.MODEL, "embeddings": config.EMBEDDINGS, "index": config.INDEX}
    for workspace in (cloud.folder, exact.folder):
        manifests = {kind: artifact.read_manifest(workspace / path, kind) for kind, path in paths.items()}
        artifact.check_chain(*manifests.values())
        for kind, path in paths.items():
            artifact.verify(workspace / path, manifests[kind], deep=True)
    images = Images.open(cloud.folder / config.PREPARED)
    assert images.items.column_names == ["id", "path", "batch", "sha256", "pixel_hash", "label", "label_name", "split",
                                         "width", "height", "shard", "row"]  # fmt: skip
    ids = cloud.ids()
    assert (np.diff(ids) > 0).all()
    last = images.items.slice(COUNT - 1, 1).to_pylist()[0]
    assert int(last["sha256"], 16) >> 193 == last["id"] == ids[-1]  # the first 63 of 256 bits
    assert (last["shard"], last["row"]) == (2, 199)
    assert sum(len(images.positions(split)) for split in ("train", "validation", "test")) == COUNT
    assert sum(images.manifest.facts["splits"].values()) == COUNT
    assert images.rows(np.arange(COUNT)).shape == (COUNT, 1, 1, 1)
    assert cloud.facts["nprobe"] >= 1
    assert exact.facts["index"] == "exact"
    assert clouds.Cloud.at(cloud.folder) is not None
    assert clouds.Cloud.at(cloud.folder / "nothing") is None


def test_clustered_codes_are_of_a_mixture_and_the_same_again() -> None:
    first, again = clouds.clustered(300_000, 4), clouds.clustered(300_000, 4)
    assert first.sizes == [250_000, 50_000]
    parts = list(first.shards)
    assert [len(part) for part in parts] == first.sizes
    assert parts[0].dtype == first.queries.dtype == np.float32
    np.testing.assert_array_equal(parts[1], list(again.shards)[1])
    assert not {bytes(code) for code in first.queries} & {bytes(code) for code in np.concatenate(parts)}
    assert parts[0].var() == pytest.approx(1 + clouds.SPREAD**2, rel=0.1)


@pytest.mark.parametrize("count", [None, 1_300])
def test_real_codes_leave_those_that_ask_out_and_copies_lie_beside_real_ones(
    count: int | None, made: tuple[clouds.Cloud, clouds.Cloud]
) -> None:
    folder = made[0].folder
    codes = clouds.real(folder, count)
    everything, test = Embeddings.open(folder / config.EMBEDDINGS).load(), Images.open(folder / config.PREPARED)
    asking = test.positions("test")
    kept = np.delete(everything, asking, axis=0)
    np.testing.assert_array_equal(np.sort(codes.queries, axis=0), np.sort(everything[asking], axis=0))
    written = np.concatenate(list(codes.shards))
    assert len(written) == sum(codes.sizes) == (count or len(kept))
    np.testing.assert_array_equal(written[: len(kept)], kept)
    between = np.linalg.norm(kept[:, None].astype(np.float64) - kept, axis=2)
    np.fill_diagonal(between, np.inf)
    copied = np.arange(len(kept), len(written)) % len(kept)
    moved = np.linalg.norm(written[len(kept) :] - kept[copied].astype(np.float64), axis=1)
    np.testing.assert_allclose(moved, clouds.JITTER * between.min(axis=1)[copied], rtol=1e-3)
    assert (f"{len(kept):,} of them real" in codes.told) == (count is not None)


@pytest.mark.parametrize(
    "engine", [*engines.ENGINES, engines.TUNED, engines.ON_GPU, engines.EXACT], ids=lambda engine: engine.name
)
def test_engines_answer_as_brute_force_does(
    engine: engines.Engine, made: tuple[clouds.Cloud, clouds.Cloud], monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud, exact = made
    if why := engine.missing(COUNT):
        pytest.skip(why)
    monkeypatch.setattr(engines, "PRODUCTS", 7 * COUNT)  # several blocks of queries
    asked = cloud.queries() if engine.own else np.array(cloud.prepared("queries"))
    search_in = engine.build(exact if engine is engines.EXACT else cloud, 1)
    found = search_in(asked[: engines.JUDGED], engine.settings[-1])
    found = np.searchsorted(cloud.ids(), found) if engine.own else found
    expected = oracle(cloud, cloud.queries()[: engines.JUDGED])
    if engine.name in LEAST:
        same = (found[:, :, None] == expected[:, None]).any(axis=2).mean()
        assert LEAST[engine.name] <= same == pytest.approx(search.Truth.of(cloud).recall(found))
    else:
        assert (found == expected).mean() > 0.999  # but for what is as near, to float32's rounding
        assert search.Truth.of(cloud).recall(found) == 1


def test_an_engine_without_its_package_or_with_too_much_to_do_is_left_out() -> None:
    engine = engines.Engine("x", engines.flat, needs="no_such_package")
    assert engine.missing(1) == "no_such_package is not installed"
    assert engines.Engine("x", engines.flat, most=10).missing(11) == "left out above 10 codes"
    assert engines.Engine("x", engines.flat, most=10).missing(10) == ""


def test_recall_counts_ties_once_and_never_what_is_missing() -> None:
    codes = np.array([[1, 0], [1, 0], [0.8, 0.6], [0, 1]], np.float32)
    truth = search.Truth(np.array([[1, 0]], np.float32), codes, np.array([1.0]))
    assert truth.recall(np.array([[0, 1]])) == 1
    assert truth.recall(np.array([[0, 0]])) == 0.5
    assert truth.recall(np.array([[1, -1]])) == 0.5
    assert truth.recall(np.array([[2, 3]])) == 0
    assert truth._replace(tenth=np.array([0.8])).recall(np.array([[2, 3]])) == 0.5


def test_a_contest_of_two_prints_a_table(
    made: tuple[clouds.Cloud, clouds.Cloud], monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud, exact = made
    absent = engines.Engine("absent", engines.flat, needs="no_such_package")
    few = [absent, engines.Engine("FAISS, IVF", engines.inverted, (1, 2), "nprobe")]
    monkeypatch.setattr(search, "ENGINES", few)
    options: dict[str, Any] = {"batch": 100, "threads": 1, "turns": 2, "seconds": 0.01}
    results = [r for r in search.contest(cloud, exact, **options) if r.engine != engines.ON_GPU.name]
    assert [r.name for r in results] == ["absent", "FAISS, IVF, nprobe 1", "FAISS, IVF, nprobe 2",
                                         f"aecore, {cloud.facts['index']}, nprobe {cloud.facts['nprobe']}",
                                         "aecore, exact"]  # fmt: skip
    assert results[0].failure == "no_such_package is not installed"
    assert all(not r.failure and len(r.rates) == 2 and len(r.latencies) >= 2 for r in results[1:])
    assert results[1].recall < results[2].recall <= 1
    assert results[-1].recall == 1
    lines = search.rows(results, COUNT, search.base_rate(results))
    assert lines[0] == ["absent", "no_such_package is not installed"]
    assert {len(line) for line in lines[1:]} == {len(search.columns(100))}
    assert lines[-1][4] == "1.0000"
    assert "It chose ivf" in search.notes(cloud, argparse.Namespace(**options, min_recall=0.9))
    assert len(search.draw([("codes (some)", results)]).axes) == 1


def test_rows_hold_medians_spreads_and_ratios() -> None:
    result = search.Measured("x", "x", 1.25, 6_000_000, 0.98765, [90.0, 100.0, 120.0], [0.001] * 19 + [1.0])
    line = search.rows([result], 1_000, 50.0)[0]
    assert line == ["x", "1.2", "6", "6,000", "0.9877", "100 ± 15%", "2.00", "1.000", "50.950"]
    assert search.rows([result], 1_000, math.nan)[0][6] == "–"
    assert search.rows([search.Measured("y", "y", failure="gone")], 1, 1.0) == [["y", "gone"]]


def test_an_engine_that_fails_says_why(made: tuple[clouds.Cloud, clouds.Cloud]) -> None:
    nowhere = clouds.Cloud(made[0].folder / "nowhere", "", COUNT, DIM)
    process = engines.Process(engines.Engine("x", engines.flat), nowhere, 1, 10)
    try:
        assert process.failure.startswith("FileNotFoundError")
        assert process.answers(0) is None
        assert process.rate(0, 0.1) is None
    finally:
        process.end()


def test_layers_are_timed_in_turns_and_what_each_adds_is_told() -> None:
    asked: list[list[int]] = [[], [], []]
    times = layers.in_turns([numbers.append for numbers in asked], 0.0)
    assert asked == [[0, *range(layers.LEAST)]] * 3
    assert times.shape == (3, layers.LEAST)
    faiss = np.full(4, 100e-6)
    single = layers.Times(faiss / 2, faiss, np.array([108, 120, 120, 152]) * 1e-6)
    batched = layers.Times(np.array([0.1, 0.1]), np.array([0.1, 0.2]), np.array([0.11, 0.22]))
    assert single.added(2) == pytest.approx((17e-6, 20e-6, 28e-6))
    assert batched.share(1) == pytest.approx((0.25, 0.5, 0.75))
    memory, opened, searcher, command, imports = layers.rows(
        "ivf", layers.Layers(single, batched, 1_000, [0.5, 0.4, 0.9], [0.2])
    )
    assert memory == ["ivf", "FAISS, in memory", "10,000", "–", "50 µs", "50 µs", "–"]
    assert opened == ["ivf", "FAISS, as opened", "6,667", "+50.0% (+25.0% to +75.0%)", "100 µs", "100 µs",
                      "+50 µs (+50 to +50)"]  # fmt: skip
    assert searcher[3:] == ["+10.0% (+10.0% to +10.0%)", "120 µs", "147 µs", "+20 µs (+17 to +28)"]
    assert command[4:6] == ["500 ms", "900 ms"]
    assert imports[4] == "200 ms"


def test_an_index_in_memory_answers_as_the_mapped_one(made: tuple[clouds.Cloud, clouds.Cloud]) -> None:
    cloud, queries = made[0], np.array(made[0].prepared("queries")[:100])
    mapped = clouds.opened(cloud.folder).base.index
    memory = layers.in_memory(mapped, storage.load_trained(cloud.folder / config.INDEX))
    assert memory.ntotal == COUNT
    assert type(faiss.downcast_InvertedLists(memory.invlists)) is faiss.ArrayInvertedLists
    for here, there in zip(memory.search(queries, 10), mapped.search(queries, 10), strict=True):
        np.testing.assert_array_equal(here, there)


def test_layers_are_those_of_the_index_the_searcher_opened(
    made: tuple[clouds.Cloud, clouds.Cloud], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "RUNS", 1)
    measured = layers.layers(made[0], 100, 1, 0.0)
    assert len(measured.single.faiss) == len(measured.batched.faiss) == layers.LEAST
    assert len(measured.command) == 1
    assert measured.imports[0] > 0


def test_a_cold_process_tells_memory_after_each_step(made: tuple[clouds.Cloud, clouds.Cloud]) -> None:
    taken = cold.measure(made[0], 1)
    assert [moment.name for moment in taken][:3] == ["libraries imported", "opened", "one query"]
    assert all(moment.memory["VmRSS"] >= moment.memory["RssAnon"] > 0 for moment in taken)
    lines = cold.rows(taken)
    assert lines[0][1] == "–"
    assert lines[0][5:] == ["0", "0"]
    base = dict.fromkeys(("VmRSS", "RssAnon", "RssFile"), 10**6)
    grown = {"VmRSS": 5 * 10**6, "RssAnon": 3 * 10**6, "RssFile": 2 * 10**6}
    two = cold.rows([cold.Moment("a", math.nan, base), cold.Moment("b", 0.25, grown)])
    assert two[1] == ["b", "250.0", "5", "3", "2", "4", "2"]


def test_the_empty_model_is_the_one_the_embeddings_are_of(made: tuple[clouds.Cloud, clouds.Cloud]) -> None:
    model: Manifest = artifact.read_manifest(made[0].folder / config.MODEL, "model")
    assert Embeddings.open(made[0].folder / config.EMBEDDINGS).manifest.sources["model"] == model.digest
