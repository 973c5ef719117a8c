"""The `index` stage: every code in one FAISS index of measured recall."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aecore import artifact, config
from aecore.artifact import Manifest
from aecore.config import Runtime, WorkFailed
from aecore.counted import counted
from aecore.data.images import Images
from aecore.search import kinds, storage
from aecore.search.filling import add_with_ids, fill
from aecore.search.gpu import Gpu, wanted
from aecore.search.metric import BLOCK, IndexConfig, Vectors, center_of, codes
from aecore.search.recall import Asked, Truth, choose_queries, exact_neighbours, exactly, recall_of, sample
from aecore.search.vector_index import NONE, VectorIndex
from aecore.vectors import Embeddings

SAMPLE_PER_LIST = 64
"""Training points taken for a list, at most."""
SAMPLE = 65_536
"""Training points taken at least, where there are as many: a compressed code needs them."""
COMPARED = 65_536
"""Codes that are compared with the queries behind a recall at a time."""
REFINED = (2, 4, 8, 16, 32)
"""How many times k candidates of compressed codes are compared anew: the first that suffices."""

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
    """For the manifest: count, dim, metric, kind of index, what was tried, recall and how it was measured."""


def build(
    vectors: Vectors,
    ids: np.ndarray,
    splits: Mapping[str, np.ndarray],
    section: IndexConfig,
    runtime: Runtime,
    folder: Path | None = None,
) -> Built:
    """Index the vectors; row i carries `ids[i]` (int64), `splits` are positions by name, ascending.

    With a `folder`, the lists of a large inverted file are put there (see `aecore.search.filling`).

    The first kind (see `aecore.search.kinds`) that fits `memory_mb` and reaches `min_recall` is taken. An inverted file
    is trained on a sample of the training split and probed as widely as the validation split needs; its recall is
    measured with the test split. Where a split is empty the one before it stands in.
    Raises WorkFailed for no vectors, for values that are not finite, for a memory that nothing fits into, and where no
    kind reaches `min_recall`.
    """
    import faiss

    faiss.omp_set_num_threads(runtime.threads)
    count, metric = len(ids), section.metric
    if not count:
        raise WorkFailed("there are no embeddings to index: run `python -m aecore prepare` on a source with images.")
    training = splits["train"] if len(splits["train"]) else np.arange(count)
    center = center_of(vectors, training)
    if not np.isfinite(center).all():
        raise WorkFailed(NOT_FINITE)
    dim, random = len(center), np.random.default_rng(runtime.seed)
    order = np.argsort(ids, kind="stable")
    lookup = np.stack([ids[order], order])

    def coded(size: int) -> Iterator[tuple[int, np.ndarray]]:
        """Blocks as they are compared, at most `size` rows at a time."""
        for first, shard in vectors.shards():
            for start in range(0, len(shard), size):
                block = np.asarray(shard[start : start + size])
                if not np.isfinite(block).all():
                    raise WorkFailed(NOT_FINITE)
                yield first + start, codes(block, center, metric)

    candidates = kinds.possible(count, dim, len(training), section)
    lists = max(kind.lists for kind in candidates)
    learnt = sample(training, max(SAMPLE_PER_LIST * lists, SAMPLE), random) if lists else NONE
    tuning, measured = (choose_queries(splits, name, random, count) for name in ("validation", "test"))
    asked = [Asked(codes(vectors.rows(chosen.positions), center, metric), ids[chosen.positions], k)
             for chosen, k in ((tuning, 10), (measured, 100))]  # fmt: skip
    gpu = Gpu() if wanted(runtime.device, count) else None
    knn = gpu.knn if gpu else faiss.knn
    tuned, tested = exact_neighbours(coded(COMPARED), ids, asked, storage.measure_of(metric), knn)
    if metric == "l2":  # FAISS's sums of squares cancel
        stored = VectorIndex(None, center, lookup, {"metric": metric}, vectors, NONE)
        tuned, tested = exactly(tuned, stored), exactly(tested, stored)

    tried: list[dict[str, Any]] = []
    for kind in candidates:
        index: Any = kinds.untrained(kind, dim, metric, runtime.seed)
        trained: Any = None
        if kind.lists:
            training_codes = codes(vectors.rows(learnt), center, metric)
            gpu.train(index, training_codes) if gpu else index.train(training_codes)
            trained = faiss.clone_index(index)
        add = gpu.adding(trained) if gpu and kind.lists else add_with_ids
        fill(index, kind, coded(BLOCK), ids, folder, add)
        facts = {"metric": metric, "index": kind.name, "refine": REFINED[-1] if kind.is_compressed else 1}
        searched = VectorIndex(index, center, lookup, facts, vectors, NONE)
        if kind.lists:
            _tune(searched, facts, tuned, (1 + section.min_recall) / 2)
        recall = recall_of(searched, tested, (1, 10, 100))
        found = {"index": kind.name, "nprobe": int(index.nprobe) if kind.lists else None, "refine": facts["refine"]}
        tried.append({**found, "bytes_per_vector": kind.bytes, "recall": recall})
        if recall["10"] >= section.min_recall:
            break
    else:
        best = max(tried, key=lambda attempt: float(attempt["recall"]["10"]))
        found_by = counted(len(measured.positions), measured.split + " query", measured.split + " queries")
        raise WorkFailed(
            f"recall@10 of the index is {best['recall']['10']} at best ({best['index']}, {found_by}; "
            f"tried: {', '.join(attempt['index'] for attempt in tried)}), below "
            f"index.min_recall {section.min_recall}: lower that, raise index.memory_mb ({section.memory_mb}), or raise "
            f"index.exact_below ({section.exact_below}) to {count} or more to search exactly."
        )
    if trained is not None:
        trained.nprobe = index.nprobe
    queried = {"split": measured.split, "count": len(measured.positions)}
    kept = {"count": count, "dim": dim, "metric": metric, **tried[-1], "recall_queries": queried, "tried": tried}
    return Built(index, trained, center, kept)


def _tune(searched: VectorIndex, facts: dict[str, Any], truth: Truth, target: float) -> None:
    """Set the fewest lists to probe, and of compressed codes the fewest candidates, that reach the target recall@10."""
    index = searched.index

    def reached(nprobe: int, wanted: float = target) -> bool:
        index.nprobe = nprobe
        return recall_of(searched, truth, (10,))["10"] >= wanted

    if "," in facts["index"]:
        everywhere = min(index.nlist, 64)
        for facts["refine"] in REFINED:
            if reached(everywhere, (1 + target) / 2):
                break
    most = 1
    while most < index.nlist and not reached(most):
        most *= 2
    most, least = min(most, index.nlist), most // 2  # `least` does not suffice
    while most - least > max(1, most // 16):
        middle = (most + least) // 2
        least, most = (least, middle) if reached(middle) else (middle, most)
    index.nprobe = most


def main() -> None:
    """Read the embeddings and the images' ids and splits; write the index, and its speed to the reports."""
    runtime, section = config.section(Runtime, "run"), config.section(IndexConfig, "index")
    images, embeddings = Images.open(), Embeddings.open()
    artifact.check_chain(images.manifest, embeddings.manifest)
    model = Manifest("model", embeddings.manifest.sources["model"])
    sources = {"data": images.manifest, "model": model, "embeddings": embeddings.manifest}
    splits = {name: images.positions(name) for name in ("train", "validation", "test")}
    facts: dict[str, Any] = {}
    started = time.perf_counter()
    with artifact.writing(config.INDEX, "index", sources, facts) as directory:
        built = build(embeddings, images.ids(), splits, section, runtime, directory)
        seconds = time.perf_counter() - started
        storage.save(directory, built.index, built.center, images.ids(), built.trained)
        facts |= built.facts
    size = sum((config.INDEX / name).stat().st_size for name in artifact.read_manifest(config.INDEX, "index").files)
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
        f"indexed {counted(images.count, 'image')} ({section.metric}, {built.facts['index']}{probing}): "
        f"recall@10 {built.facts['recall']['10']}; index {manifest.digest[:12]}"
    )


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
