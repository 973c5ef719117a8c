"""Growing without a rebuild: a published index that is added to batch by batch, beside a fresh build of the same codes.

    python benchmarks/grow.py                            100,000 codes published, 1,000,000 added in batches of 10,000
    python benchmarks/grow.py --base 5000 --adds 50000 --batch 1000

The codes are a mixture of Gaussians (see `cloud`), the images a pixel each: decoding and encoding are not in it. A row
is taken whenever the index has grown by a fifth of what is added; the last is a fresh build by the command `index`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from cloud import Cloud, clustered, make, opened

from aecore.search import drift
from aecore.search.growth import growth_folder
from aecore.search.metric import IndexConfig
from aecore.search.searcher import PARTS, Searcher, Source
from aecore.serve.segments import append, tidied

K, SINGLES, BATCH = 10, 200, 1_000
SECTION = IndexConfig("cosine", 0, None, 0.99)
COLUMNS = ("index", "images", "segments", "added/s", "slowest batch s", "recall@10", "queries/s", "one query ms",
           "work", "MB on disk")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Publish, add, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=int, default=100_000, help="codes published (default: 100000)")
    parser.add_argument("--adds", type=int, default=1_000_000, help="codes added (default: 1000000)")
    parser.add_argument("--batch", type=int, default=10_000, help="codes added at a time (default: 10000)")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    total = options.base + options.adds
    print("| " + " | ".join(COLUMNS) + " |\n|" + " --- |" * len(COLUMNS))
    with tempfile.TemporaryDirectory() as scratch:
        codes = clustered(total, options.dim)
        vectors = np.concatenate(list(codes.shards))
        first = codes._replace(sizes=[options.base], shards=[vectors[: options.base]])
        base = make(Path(scratch) / "base", first, options.threads, {"min_recall": SECTION.min_recall})
        source = _published(base, Path(scratch) / "serving/0123456789ab")
        searcher = Searcher.open(source)
        print(_row("published", searcher, codes.queries, source, [], 0))
        steps: list[float] = []
        shown = max(1, options.adds // options.batch // 5)
        for number, start in enumerate(range(options.base, total, options.batch), start=1):
            block = vectors[start : start + options.batch]
            begun = time.perf_counter()
            ids = 2**62 + np.arange(start, start + len(block))
            append(source, searcher, _items(searcher, ids), [(np.zeros((len(block), 1, 1, 1), np.uint8), block)])
            del searcher  # what it holds cannot be tidied away
            searcher = tidied(source)
            steps.append(time.perf_counter() - begun)
            if number % shown == 0:
                print(_row("grown", searcher, codes.queries, source, steps, options.batch), flush=True)
        whole = codes._replace(shards=np.split(vectors, np.cumsum(codes.sizes)[:-1]))
        fresh = make(Path(scratch) / "fresh", whole, options.threads, {"min_recall": SECTION.min_recall})
        print(_row(f"fresh ({fresh.seconds:.1f} s)", opened(fresh.folder), codes.queries, None, [], 0))


def _published(cloud: Cloud, copy: Path) -> Source:
    """The artefacts of a workspace as a published copy has them."""
    copy.mkdir(parents=True)
    for kind, path in PARTS.items():
        (copy / kind).symlink_to(cloud.folder / path)
    return Source("published", copy)


def _items(searcher: Searcher, ids: np.ndarray) -> pa.Table:
    """A table with the base's columns, empty but for what has to be there."""
    text = [str(item_id) for item_id in ids.tolist()]
    known = {"id": ids, "path": text, "pixel_hash": text, "batch": [""] * len(ids), "split": ["added"] * len(ids)}
    schema = searcher.base.images.schema
    return pa.table({
        field.name: pa.array(known[field.name], field.type) if field.name in known else pa.nulls(len(ids), field.type)
        for field in schema
    })  # fmt: skip


def _row(
    name: str, searcher: Searcher, queries: np.ndarray, source: Source | None, steps: list[float], batch: int
) -> str:
    found = drift.measure(searcher, SECTION)
    searcher.search(queries[:BATCH], K)
    begun = time.perf_counter()
    for start in range(0, 5 * BATCH, BATCH):
        searcher.search(queries[start : start + BATCH], K)
    rate = 5 * BATCH / (time.perf_counter() - begun)
    singles = []
    for number in range(SINGLES):
        begun = time.perf_counter()
        searcher.search(queries[number : number + 1], K)
        singles.append(time.perf_counter() - begun)
    grown = growth_folder(source.directory) if source is not None else Path("nowhere")
    size = sum(file.stat().st_size for file in grown.rglob("*") if file.is_file()) / 2**20
    cells = (name, f"{searcher.count:,}", str(len(searcher.collection.segments)),
             f"{len(steps) * batch / sum(steps):,.0f}" if steps else "", f"{max(steps):.1f}" if steps else "",
             str(found.recall), f"{rate:,.0f}", f"{1e3 * float(np.median(singles)):.2f}", str(found.work),
             f"{size:,.0f}")  # fmt: skip
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
