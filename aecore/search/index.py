"""The `index` stage: every code in one FAISS index of measured recall; `codes`, the one place that normalises."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from aecore import artifact, config
from aecore.artifact import Manifest
from aecore.config import Runtime, WorkFailed, require
from aecore.data.images import Images
from aecore.vectors import Embeddings

INDEX_FILE = "index.faiss"
CENTER_FILE = "center.npy"

BLOCK = 8_192
"""Codes in memory at a time, besides the index itself."""
QUERIES = 1_000
"""At most this many queries behind a recall."""
POINTS_PER_LIST = 39
"""FAISS's own minimum of training points for a list of an inverted file."""
SAMPLE_PER_LIST = 64
"""Training points taken for a list, at most."""

NOT_FINITE = "the embeddings hold values that are not finite: train again with a lower train.learning_rate."

Metric = Literal["cosine", "l2"]
Shards = Callable[[], Iterator[tuple[int, np.ndarray]]]
"""Gives (position of its first row, float32 (n_k, dim)) shard by shard, anew at every call."""


@dataclass(frozen=True)
class IndexConfig:
    """Section `index`."""

    metric: Metric
    """`cosine` of centred codes, or `l2`: Euclidean distance of the codes as they are."""
    exact_below: int
    """Search exactly up to this many images, by an inverted file (IVF) above."""
    min_recall: float
    """Recall@10 against exact search below which no index is written."""

    def __post_init__(self) -> None:
        require(self.exact_below >= 0, "exact_below", self.exact_below, "0 or more")
        require(0 < self.min_recall <= 1, "min_recall", self.min_recall, "a share above 0 and up to 1")


class Found(NamedTuple):
    """What FAISS answers."""

    scores: np.ndarray
    """float32 (q, k): inner products (larger is nearer) or squared Euclidean distances (smaller is nearer)."""
    ids: np.ndarray
    """int64 (q, k), nearest first; -1 where fewer were found."""


class Queries(NamedTuple):
    """Images whose neighbours are compared with the exact ones."""

    split: str
    """Where they come from."""
    positions: np.ndarray
    """int64 (q,), ascending."""


class Truth(NamedTuple):
    """Queries and their exact neighbours, themselves left out."""

    queries: np.ndarray
    """Codes, float32 (q, dim)."""
    own: np.ndarray
    """Their ids, int64 (q,)."""
    nearest: Found


class Built(NamedTuple):
    """A built index."""

    index: Any
    """faiss.Index over the codes, with the images' ids inside."""
    center: np.ndarray
    """float32 (dim,): mean of the training split."""
    facts: dict[str, Any]
    """For the manifest: count, dim, metric, kind of index, recall and how it was measured."""


def codes(vectors: np.ndarray, center: np.ndarray, metric: Metric) -> np.ndarray:
    """Vectors (n, dim) as they are indexed and compared, float32: centred and of length 1 for cosine, unchanged for l2.

    A vector that is the centre, to rounding, has no direction: it becomes zero, and its cosine with anything is 0.
    """
    if metric == "l2":
        return np.ascontiguousarray(vectors, dtype=np.float32)
    result = np.empty(vectors.shape, np.float32)
    for start in range(0, len(vectors), BLOCK):
        raw = vectors[start : start + BLOCK].astype(np.float64)
        centred = raw - center
        length = np.linalg.norm(centred, axis=1, keepdims=True)
        rounding = 1e-6 * np.linalg.norm(raw, axis=1, keepdims=True)
        np.divide(centred, length, out=centred, where=length > rounding)
        centred[length[:, 0] <= rounding[:, 0]] = 0
        result[start : start + BLOCK] = centred
    return result


def center_of(shards: Shards, positions: np.ndarray) -> np.ndarray:
    """Mean of the vectors at the ascending `positions`, summed in float64, as float32 (dim,)."""
    total: np.ndarray | float = 0.0
    for first, shard in shards():
        mine = positions[np.searchsorted(positions, first) : np.searchsorted(positions, first + len(shard))] - first
        for start in range(0, len(mine), BLOCK):
            total = total + shard[mine[start : start + BLOCK]].sum(axis=0, dtype=np.float64)
    return np.asarray(total / len(positions), dtype=np.float32)


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

    measure = faiss.METRIC_INNER_PRODUCT if metric == "cosine" else faiss.METRIC_L2
    flat = faiss.IndexFlat(len(center), measure)
    lists = 0 if count <= section.exact_below else lists_for(count, len(training))
    index: Any = faiss.IndexIVFFlat(flat, len(center), lists, measure) if lists else faiss.IndexIDMap2(flat)
    if lists:
        index.cp.seed = runtime.seed
        index.cp.min_points_per_centroid = 1
        index.train(_gather(coded, _sample(training, SAMPLE_PER_LIST * lists, random), len(center)))
    for first, block in coded():
        index.add_with_ids(block, ids[first : first + len(block)])

    tuning, measured = (_queries(splits, name, random, count) for name in ("validation", "test"))
    if lists:
        target = (1 + section.min_recall) / 2  # halfway to 1: the test split shall not fall below by chance
        truth = _exact(coded, ids, tuning.positions, len(center), 10, measure)
        index.nprobe = 1
        while index.nprobe < lists and _recall(index, truth, (10,))["10"] < target:
            index.nprobe *= 2
    recall = _recall(index, _exact(coded, ids, measured.positions, len(center), 100, measure), (1, 10, 100))
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
    return Built(index, center, facts)


def recall_at(k: int, found: Found, truth: Found, sign: int, tolerance: float) -> float:
    """Share of the k exact nearest that were found, averaged over queries; what ties with the k-th nearest counts.

    `sign` is 1 where larger scores are nearer, else -1; scores closer than `tolerance` tie.
    """
    k = min(k, truth.ids.shape[1])
    if not k:
        return 1.0
    same = (found.ids[:, :k, None] == truth.ids[:, None, :k]).any(axis=2)
    as_near = sign * found.scores[:, :k] >= sign * truth.scores[:, k - 1 : k] - tolerance
    return float(((same | as_near) & (found.ids[:, :k] >= 0)).mean())


def main() -> None:
    """Read the embeddings and the images' ids and splits; write the index, and its speed to the reports."""
    import faiss

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
        faiss.write_index(built.index, str(directory / INDEX_FILE))
        np.save(directory / CENTER_FILE, built.center)
    size = (config.INDEX / INDEX_FILE).stat().st_size
    some = _queries(splits, "test", np.random.default_rng(runtime.seed), images.count).positions
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


def _gather(coded: Shards, positions: np.ndarray, dim: int) -> np.ndarray:
    result = np.empty((len(positions), dim), np.float32)
    for first, block in coded():
        here = (positions >= first) & (positions < first + len(block))
        result[here] = block[positions[here] - first]
    return result


def _sample(positions: np.ndarray, most: int, random: np.random.Generator) -> np.ndarray:
    if len(positions) <= most:
        return positions
    return np.sort(random.choice(positions, most, replace=False))


def _queries(splits: Mapping[str, np.ndarray], name: str, random: np.random.Generator, count: int) -> Queries:
    order = ["test", "validation", "train"]
    for split in order[order.index(name) :]:
        if len(splits[split]):
            return Queries(split, _sample(splits[split], QUERIES, random))
    return Queries("all", _sample(np.arange(count), QUERIES, random))


def _exact(coded: Shards, ids: np.ndarray, positions: np.ndarray, dim: int, k: int, measure: int) -> Truth:
    """The k nearest of the vectors at `positions`, by comparison with every vector but themselves, block by block."""
    import faiss

    queries, own = _gather(coded, positions, dim), ids[positions]
    sign = -1 if measure == faiss.METRIC_INNER_PRODUCT else 1
    wide = min(k + 1, len(ids))
    scores, names = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    for first, block in coded():
        near, rows = faiss.knn(queries, block, min(wide, len(block)), metric=measure)
        scores, names = np.hstack([scores, near]), np.hstack([names, ids[first + rows]])
        order = np.argsort(sign * scores, axis=1, kind="stable")[:, :wide]
        scores, names = np.take_along_axis(scores, order, 1), np.take_along_axis(names, order, 1)
    return Truth(queries, own, _without(own, Found(scores, names)))


def _without(own: np.ndarray, found: Found) -> Found:
    """One neighbour fewer: the query's `own` id (q,), or the last where it was not found."""
    order = np.argsort(found.ids == own[:, None], axis=1, kind="stable")[:, :-1]
    return Found(np.take_along_axis(found.scores, order, 1), np.take_along_axis(found.ids, order, 1))


def _recall(index: Any, truth: Truth, ks: tuple[int, ...]) -> dict[str, float]:
    import faiss

    found = _without(truth.own, Found(*index.search(truth.queries, truth.nearest.ids.shape[1] + 1)))
    tolerance = 1e-6 * float((truth.queries**2).sum(axis=1).max())  # float32 rounding of what FAISS sums
    sign = 1 if index.metric_type == faiss.METRIC_INNER_PRODUCT else -1
    return {str(k): round(recall_at(k, found, truth.nearest, sign, tolerance), 4) for k in ks}


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
