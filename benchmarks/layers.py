"""What each layer adds to a query: FAISS's own search of an index, mapping it, `Searcher` over it, the command line.

FAISS is asked for the same neighbours of the same codes in the same process, of the very index that `Searcher` opened,
as widely probed; the codes it gets are prepared. And of the same lists in memory, where an exact index always is.
They are asked one after the other, in random order. Of compressed codes FAISS answers roughly, and of candidates only
`Searcher` compares the codes themselves: what it adds is then work of its own.
"""

from __future__ import annotations

import itertools
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

from aecore import config
from aecore.search import storage

RUNS = 5
"""Of the command line."""
LEAST = 11
"""Turns, however long they take."""
WARM = 0.1
"""Of the seconds are spent on turns that are not timed, one at least."""


class Times(NamedTuple):
    """Seconds of each turn, (n,)."""

    memory: np.ndarray
    """FAISS, of the index in memory."""
    faiss: np.ndarray
    """FAISS, of the index as it is opened."""
    searcher: np.ndarray

    def added(self, layer: int) -> tuple[float, float, float]:
        """Quartiles (25, 50, 75 %) of what a layer takes longer than the one before, in seconds, turn by turn."""
        low, middle, high = np.percentile(self[layer] - self[layer - 1], (25, 50, 75)).tolist()
        return low, middle, high

    def share(self, layer: int) -> tuple[float, float, float]:
        """The same as a share of what the one before takes."""
        low, middle, high = np.percentile(self[layer] / self[layer - 1] - 1, (25, 50, 75)).tolist()
        return low, middle, high


class Layers(NamedTuple):
    """What was measured of one index."""

    single: Times
    batched: Times
    batch: int
    command: Sequence[float]
    """Seconds of whole processes `python -m aecore query --id ID`."""
    imports: Sequence[float]
    """Of those, what a process that only imports FAISS and Arrow takes: nothing that it can do without."""


def in_turns(functions: Sequence[Callable[[int], Any]], seconds: float, seed: int = 0) -> np.ndarray:
    """Seconds, float64 (functions, turns), of functions of the number of their turn, in random order in each turn.

    For about `seconds` in all, after some turns that are not timed.
    """
    order, places, turns = random.Random(seed), range(len(functions)), list[list[float]]()
    end = time.perf_counter() + WARM * seconds
    for turn in itertools.count():
        for function in functions:
            function(turn)
        if time.perf_counter() >= end:
            break
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(turns) < LEAST:
        taken = [0.0] * len(functions)
        for place in order.sample(places, len(places)):
            begun = time.perf_counter()
            functions[place](len(turns))
            taken[place] = time.perf_counter() - begun
        turns.append(taken)
    return np.array(turns).T


def in_memory(index: Any, trained: Any) -> Any:
    """The inverted file `trained`, as it was before anything was added, with the codes of `index`, as widely probed."""
    index.copy_subset_to(trained, 0, 0, 2**63 - 1)  # 0: those with ids in a range
    trained.nprobe = index.nprobe
    return trained


def layers(cloud: Cloud, batch: int, threads: int, seconds: float) -> Layers:
    """Measure them, for about `seconds` a figure; all but the command line in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        single, batched = pool.apply(_times, (cloud, batch, threads, seconds))
    ids = np.random.default_rng(0).choice(cloud.ids(), RUNS).tolist()
    command = [_taken(lambda item_id=item_id: run(cloud.folder, "query", "--id", str(item_id))) for item_id in ids]  # type: ignore[misc]
    bare = [sys.executable, "-c", "import faiss, pyarrow.parquet"]
    imports = [_taken(lambda: subprocess.run(bare, check=True, env=os.environ)) for _ in ids]
    return Layers(single, batched, min(batch, len(cloud.queries())), command, imports)


def rows(name: str, measured: Layers) -> list[list[str]]:
    """Lines of the table."""
    lines = []
    for place, layer in enumerate(("FAISS, in memory", "FAISS, as opened", "Searcher")):
        batched, single = measured.batched[place], measured.single[place]
        rate = f"{measured.batch / float(np.median(batched)):,.0f}"
        middle, late = (1e6 * float(np.percentile(single, p)) for p in (50, 95))
        line = [name, layer, rate, "–", f"{middle:,.0f} µs", f"{late:,.0f} µs", "–"]
        if place:
            low, middle, high = measured.batched.share(place)
            line[3] = f"{middle:+.1%} ({low:+.1%} to {high:+.1%})"
            low, middle, high = (1e6 * value for value in measured.single.added(place))
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


def _times(cloud: Cloud, batch: int, threads: int, seconds: float) -> tuple[Times, Times]:
    """Single queries, and batches."""
    import faiss

    faiss.omp_set_num_threads(threads)
    searcher = opened(cloud.folder)
    index, raw = searcher.base.index, cloud.queries()
    memory = index if searcher.base.is_exact else in_memory(index, storage.load_trained(cloud.folder / config.INDEX))
    prepared = searcher.comparable(raw)

    def times(size: int) -> Times:
        starts = range(0, max(1, len(raw) - size + 1), size)

        def asked(queries: np.ndarray, turn: int) -> np.ndarray:
            first = starts[turn % len(starts)]
            return queries[first : first + size]

        ways = [
            lambda turn: memory.search(asked(prepared, turn), K),
            lambda turn: index.search(asked(prepared, turn), K),
            lambda turn: searcher.search(asked(raw, turn), K),
        ]
        return Times(*in_turns(ways, seconds))

    return times(1), times(min(batch, len(raw)))


def _taken(function: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun
