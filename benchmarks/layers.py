"""What each layer adds to a query: FAISS's own search of an index, `Searcher` over the same one, the command line.

FAISS is asked for the same neighbours of the same codes in the same process, of the very index that `Searcher` opened,
as widely probed; the codes it gets are prepared. They are asked in pairs, in random order.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from cloud import Cloud, opened, run
from engines import K

RUNS = 5
"""Of the command line."""
LEAST = 11
"""Pairs, however long they take."""
WARM = 20


class Pairs(NamedTuple):
    """Seconds of each pair, (n,)."""

    faiss: np.ndarray
    searcher: np.ndarray

    @property
    def added(self) -> tuple[float, float, float]:
        """Quartiles (25, 50, 75 %) of what Searcher takes longer, in seconds."""
        low, middle, high = np.percentile(self.searcher - self.faiss, (25, 50, 75)).tolist()
        return low, middle, high

    @property
    def share(self) -> tuple[float, float, float]:
        """The same as a share of what FAISS takes, pair by pair."""
        low, middle, high = np.percentile(self.searcher / self.faiss - 1, (25, 50, 75)).tolist()
        return low, middle, high


class Layers(NamedTuple):
    """What was measured of one index."""

    single: Pairs
    batched: Pairs
    batch: int
    command: Sequence[float]
    """Seconds of whole processes `python -m aecore query --id ID`."""
    imports: Sequence[float]
    """Of those, what a process that only imports FAISS and Arrow takes: nothing that it can do without."""


def paired(one: Callable[[int], Any], other: Callable[[int], Any], seconds: float, seed: int = 0) -> Pairs:
    """Time two functions of the number of their turn, one after the other in random order, for about `seconds`."""
    order, pairs = random.Random(seed), list[tuple[float, float]]()
    for turn in range(WARM if seconds else 1):
        one(turn), other(turn)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(pairs) < LEAST:
        taken = [0.0, 0.0]
        for place, function in order.sample([(0, one), (1, other)], 2):
            begun = time.perf_counter()
            function(len(pairs))
            taken[place] = time.perf_counter() - begun
        pairs.append((taken[0], taken[1]))
    return Pairs(*np.array(pairs).T)


def layers(cloud: Cloud, batch: int, threads: int, seconds: float) -> Layers:
    """Measure them, for about `seconds` a figure; the pairs in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        single, batched = pool.apply(_pairs, (cloud, batch, threads, seconds))
    ids = np.random.default_rng(0).choice(cloud.ids(), RUNS).tolist()
    command = [_taken(lambda item_id=item_id: run(cloud.folder, "query", "--id", str(item_id))) for item_id in ids]  # type: ignore[misc]
    bare = [sys.executable, "-c", "import faiss, pyarrow.parquet"]
    imports = [_taken(lambda: subprocess.run(bare, check=True, env=os.environ)) for _ in ids]
    return Layers(single, batched, batch, command, imports)


def rows(name: str, measured: Layers) -> list[list[str]]:
    """Lines of the table."""
    lines = []
    for layer, place in (("FAISS", 0), ("Searcher", 1)):
        batched, single = measured.batched[place], measured.single[place]
        rate = f"{measured.batch / float(np.median(batched)):,.0f}"
        middle, late = (1e6 * float(np.percentile(single, p)) for p in (50, 95))
        line = [name, layer, rate, "–", f"{middle:,.0f} µs", f"{late:,.0f} µs", "–"]
        if place:
            low, middle, high = measured.batched.share
            line[3] = f"{middle:+.1%} ({low:+.1%} to {high:+.1%})"
            low, middle, high = (1e6 * value for value in measured.single.added)
            line[6] = f"{middle:+,.0f} µs ({low:+,.0f} to {high:+,.0f})"
        lines.append(line)
    for layer, seconds in (
        ("command line, whole process", measured.command),
        ("of it, importing FAISS and Arrow", measured.imports),
    ):
        middle, worst = 1e3 * statistics.median(seconds), 1e3 * max(seconds)
        lines.append([name, layer, "–", "–", f"{middle:,.0f} ms", f"{worst:,.0f} ms", "–"])
    return lines


def columns(batch: int) -> tuple[str, ...]:
    """Titles of the table."""
    return ("index", "layer", f"queries/s, batches of {batch:,}", "added", "one query, p50", "p95", "added")


def _pairs(cloud: Cloud, batch: int, threads: int, seconds: float) -> tuple[Pairs, Pairs]:
    """Single queries, and batches."""
    import faiss

    faiss.omp_set_num_threads(threads)
    searcher = opened(cloud.folder)
    index, raw = searcher.base.index, cloud.queries()
    prepared = searcher.comparable(raw)

    def pairs(size: int) -> Pairs:
        starts = range(0, max(1, len(raw) - size + 1), size)

        def block(turn: int) -> slice:
            first = starts[turn % len(starts)]
            return slice(first, first + size)

        return paired(
            lambda turn: index.search(prepared[block(turn)], K),
            lambda turn: searcher.search(raw[block(turn)], K),
            seconds,
        )

    return pairs(1), pairs(batch)


def _taken(function: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun
