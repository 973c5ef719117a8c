"""The `index` stage: every code in one FAISS index of measured recall."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aecore import artifact, config
from aecore.artifact import Manifest
from aecore.config import Runtime, WorkFailed
from aecore.data.images import Images
from aecore.search import storage
from aecore.search.metric import BLOCK, IndexConfig, Metric, Shards, center_of, codes
from aecore.search.recall import choose_queries, exact_neighbours, gather, recall_of, sample
from aecore.vectors import Embeddings

POINTS_PER_LIST = 39
"""FAISS's own minimum of training points for a list of an inverted file."""
SAMPLE_PER_LIST = 64
"""Training points taken for a list, at most."""

NOT_FINITE = "the embeddings hold values that are not finite: train again with a lower train.learning_rate."


class Built(NamedTuple):
    """A built index."""

    index: Any
    """faiss.Index over the codes, with the images' ids inside."""
    trained: Any
    """The same, holding nothing, to add to; None where nothing has to be trained."""
    center: np.ndarray
    """float32 (dim,): mean of the training split."""
    facts: dict[str, Any]
    """For the manifest: count, dim, metric, kind of index, recall and how it was measured."""


def lists_for(count: int, training: int) -> int:
    """How many lists an inverted file of `count` vectors gets: 4 sqrt(count) as a power of two, all trainable."""
    lists: int = 2 ** round(math.log2(4 * math.sqrt(count)))
    while lists > 1 and POINTS_PER_LIST * lists > training:
        lists //= 2
    return lists


def build(
    shards: Shards, ids: np.ndarray, splits: Mapping[str, np.ndarray], section: IndexConfig, runtime: Runtime
) -> Built:
    """Index the vectors that `shards` gives; row i carries `ids[i]` (int64), `splits` are positions by name, ascending.

    An inverted file is trained on a sample of the training split and probed as widely as the validation split needs;
    its recall is measured with the test split. Where a split is empty the one before it stands in.
    Raises WorkFailed for no vectors, for values that are not finite, and for a recall below `min_recall`.
    """
    import faiss

    faiss.omp_set_num_threads(runtime.threads)
    count, metric = len(ids), section.metric
    if not count:
        raise WorkFailed("there are no embeddings to index: run `python -m aecore prepare` on a source with images.")
    training = splits["train"] if len(splits["train"]) else np.arange(count)
    center = center_of(shards, training)
    if not np.isfinite(center).all():
        raise WorkFailed(NOT_FINITE)
    coded = _coded(shards, center, metric)
    random = np.random.default_rng(runtime.seed)

    measure = storage.measure_of(metric)
    trained: Any = None
    lists = 0 if count <= section.exact_below else lists_for(count, len(training))
    index: Any = storage.exact_index(len(center), metric)
    if lists:
        index = faiss.IndexIVFFlat(faiss.IndexFlat(len(center), measure), len(center), lists, measure)
        index.cp.seed = runtime.seed
        index.cp.min_points_per_centroid = 1
        index.train(gather(coded, sample(training, SAMPLE_PER_LIST * lists, random), len(center)))
        trained = faiss.clone_index(index)
    for first, block in coded():
        index.add_with_ids(block, ids[first : first + len(block)])

    tuning, measured = (choose_queries(splits, name, random, count) for name in ("validation", "test"))
    if lists:
        target = (1 + section.min_recall) / 2  # halfway to 1: the test split shall not fall below by chance
        truth = exact_neighbours(coded, ids, tuning.positions, len(center), 10, measure)
        index.nprobe = 1
        while index.nprobe < lists and recall_of(index, truth, (10,))["10"] < target:
            index.nprobe *= 2
    recall = recall_of(index, exact_neighbours(coded, ids, measured.positions, len(center), 100, measure), (1, 10, 100))
    if lists and recall["10"] < section.min_recall:
        raise WorkFailed(
            f"recall@10 of the index is {recall['10']} ({len(measured.positions)} {measured.split} queries, nprobe "
            f"{index.nprobe} of {lists} lists), below index.min_recall {section.min_recall}: lower that, or raise "
            f"index.exact_below ({section.exact_below}) to {count} or more to search exactly."
        )
    facts = {
        "count": count,
        "dim": len(center),
        "metric": metric,
        "index": f"ivf{lists}" if lists else "exact",
        "nprobe": int(index.nprobe) if lists else None,
        "recall": recall,
        "recall_queries": {"split": measured.split, "count": len(measured.positions)},
    }
    if trained is not None:
        trained.nprobe = index.nprobe
    return Built(index, trained, center, facts)


def main() -> None:
    """Read the embeddings and the images' ids and splits; write the index, and its speed to the reports."""
    runtime, section = config.section(Runtime, "run"), config.section(IndexConfig, "index")
    images, embeddings = Images.open(), Embeddings.open()
    artifact.check_chain(images.manifest, embeddings.manifest)
    started = time.perf_counter()
    splits = {name: images.positions(name) for name in ("train", "validation", "test")}
    built = build(embeddings.shards, images.ids(), splits, section, runtime)
    seconds = time.perf_counter() - started

    model = Manifest("model", embeddings.manifest.sources["model"])
    sources = {"data": images.manifest, "model": model, "embeddings": embeddings.manifest}
    with artifact.writing(config.INDEX, "index", sources, built.facts) as directory:
        storage.save(directory, built.index, built.center, images.ids(), built.trained)
    size = (config.INDEX / storage.INDEX_FILE).stat().st_size
    some = choose_queries(splits, "test", np.random.default_rng(runtime.seed), images.count).positions
    report = {
        "build_seconds": round(seconds, 3),
        "bytes_per_vector": round(size / images.count, 1),
        "latency_ms": _latency(built.index, codes(embeddings.rows(some), built.center, section.metric)),
        "recall": built.facts["recall"],
    }
    Path(config.REPORTS).mkdir(parents=True, exist_ok=True)
    artifact.write_json(config.REPORTS / "index.json", report)
    manifest = artifact.read_manifest(config.INDEX, "index")
    probing = "" if built.facts["nprobe"] is None else f", nprobe {built.facts['nprobe']}"
    print(
        f"indexed {images.count:,} images ({section.metric}, {built.facts['index']}{probing}): "
        f"recall@10 {built.facts['recall']['10']}; index {manifest.digest[:12]}"
    )


def _coded(shards: Shards, center: np.ndarray, metric: Metric) -> Shards:
    """The same vectors as `codes`, at most BLOCK rows at a time."""

    def blocks() -> Iterator[tuple[int, np.ndarray]]:
        for first, shard in shards():
            for start in range(0, len(shard), BLOCK):
                block = np.asarray(shard[start : start + BLOCK])
                if not np.isfinite(block).all():
                    raise WorkFailed(NOT_FINITE)
                yield first + start, codes(block, center, metric)

    return blocks


def _latency(index: Any, queries: np.ndarray, k: int = 10, batch: int = 256) -> dict[str, float]:
    """Milliseconds of FAISS's own search: one query at a time, and a batch of 256 at a time."""

    def milliseconds(block: np.ndarray) -> float:
        started = time.perf_counter()
        index.search(block, k)
        return 1e3 * (time.perf_counter() - started)

    index.search(queries[:1], k)
    single = [milliseconds(queries[i % len(queries)][None]) for i in range(200)]
    full = np.resize(queries, (batch, queries.shape[1]))
    batched = [milliseconds(full) for _ in range(10)]
    named = {"single": single, "batch_of_256": batched}
    return {f"{name}_p{p}": round(float(np.percentile(times, p)), 4) for name, times in named.items() for p in (50, 95)}
