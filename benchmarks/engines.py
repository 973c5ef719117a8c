"""Ways to find the nearest codes, each in a process of its own, asked in turns: what is measured of them, nothing else.

All but this program's own are given codes that are centred and of length 1 already: by inner products (or, which is the
same order, distances) they look for what it looks for.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import multiprocessing
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from cloud import Cloud, opened

K = 10
JUDGED = 1_000
"""Queries behind a recall."""
PRODUCTS = 2**26
"""Inner products that the numpy way holds at a time: 256 MB."""
PATIENCE = 7_200.0
"""Seconds that an engine may be silent: it may be building."""

Search = Callable[[np.ndarray, int], np.ndarray]
"""Of queries (q, dim) and a setting the K nearest, int64 (q, K): positions, or ids (see `Engine.own`)."""


@dataclass(frozen=True)
class Engine:
    """A way to search."""

    name: str
    build: Callable[[Cloud, int], Search]
    """From a cloud and a number of threads; a function of a module, as it is pickled."""
    settings: tuple[int, ...] = (0,)
    """What trades recall for speed; 0 where nothing does."""
    knob: str = ""
    """What the settings are of."""
    needs: str = "faiss"
    """The package that does the work."""
    most: int = 2_000_000
    """Codes beyond which it is left out: it would take hours."""
    own: bool = False
    """Whether it is this program: asked with raw codes, it answers ids."""
    gpu: bool = False

    def missing(self, count: int) -> str:
        """Why it does not take part; empty where it does."""
        if importlib.util.find_spec(self.needs) is None:
            return f"{self.needs} is not installed"
        if count > self.most:
            return f"left out above {self.most:,} codes"
        if self.gpu and not _gpus():
            return "no GPU"
        return ""

    def told(self, setting: int) -> str:
        """Its name with a setting."""
        return f"{self.name}, {self.knob} {setting}" if self.knob else self.name


def product(cloud: Cloud, threads: int) -> Search:
    """A matrix product and a partial sort, in blocks of PRODUCTS."""
    codes = np.array(cloud.prepared("codes"))
    step = max(1, PRODUCTS // len(codes))

    def search(queries: np.ndarray, setting: int) -> np.ndarray:
        found = []
        for start in range(0, len(queries), step):
            scores = queries[start : start + step] @ codes.T
            best = np.argpartition(scores, -K, axis=1)[:, -K:]
            order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1)
            found.append(np.take_along_axis(best, order, 1))
        return np.concatenate(found)

    return search


def brute(cloud: Cloud, threads: int) -> Search:
    """scikit-learn's NearestNeighbors; its threads are OpenMP's."""
    from sklearn.neighbors import NearestNeighbors

    neighbours = NearestNeighbors(n_neighbors=K, algorithm="brute").fit(np.array(cloud.prepared("codes")))
    return lambda queries, setting: neighbours.kneighbors(queries, return_distance=False)


def graph(cloud: Cloud, threads: int) -> Search:
    """hnswlib, as its README builds it."""
    import hnswlib

    index = hnswlib.Index("ip", cloud.dim)
    index.init_index(cloud.count, M=16, ef_construction=200, random_seed=0)
    index.set_num_threads(threads)
    index.add_items(cloud.prepared("codes"))

    def search(queries: np.ndarray, setting: int) -> np.ndarray:
        index.set_ef(setting)
        return index.knn_query(queries, K)[0].astype(np.int64)  # type: ignore[no-any-return]

    return search


def flat(cloud: Cloud, threads: int) -> Search:
    """FAISS's exact index."""
    import faiss

    index = faiss.IndexFlatIP(cloud.dim)
    index.add(cloud.prepared("codes"))
    return lambda queries, setting: index.search(queries, K)[1]


def inverted(cloud: Cloud, threads: int) -> Search:
    """FAISS's inverted file with its own defaults, as many lists as its guide says at least: 4 sqrt(n)."""
    import faiss

    index: Any = faiss.index_factory(cloud.dim, f"IVF{lists(cloud.count)},Flat", faiss.METRIC_INNER_PRODUCT)
    return _filled(index, cloud)


def flat_gpu(cloud: Cloud, threads: int) -> Search:
    """FAISS's exact index on a GPU."""
    import faiss

    index: Any = faiss.GpuIndexFlatIP(_resources(), cloud.dim)
    index.add(cloud.prepared("codes"))
    return lambda queries, setting: index.search(queries, K)[1]


def inverted_gpu(cloud: Cloud, threads: int) -> Search:
    """FAISS's inverted file on a GPU, as many lists."""
    import faiss

    on_gpu: Any = faiss.GpuIndexIVFFlat  # type: ignore[attr-defined]
    return _filled(on_gpu(_resources(), cloud.dim, lists(cloud.count), faiss.METRIC_INNER_PRODUCT), cloud)


def ours(cloud: Cloud, threads: int) -> Search:
    """This program, as the command built the index and as it tuned it."""
    searcher = opened(cloud.folder)
    return lambda queries, setting: searcher.search(queries, K).ids


def ours_gpu(cloud: Cloud, threads: int) -> Search:
    """The same with a copy of the index on a GPU, as batches are answered."""
    searcher = opened(cloud.folder, "cuda")
    return lambda queries, setting: searcher.search(queries, K).ids


PROBES = (1, 2, 4, 8, 16, 32)
ENGINES = [
    Engine("numpy", product, needs="numpy"),
    Engine("scikit-learn, brute", brute, needs="sklearn"),
    Engine("hnswlib", graph, (10, 20, 40, 80, 160), "ef", "hnswlib"),
    Engine("FAISS, flat", flat),
    Engine("FAISS, IVF", inverted, PROBES, "nprobe", most=10**9),
    Engine("FAISS on a GPU, flat", flat_gpu, most=10**9, gpu=True),
    Engine("FAISS on a GPU, IVF", inverted_gpu, PROBES, "nprobe", most=10**9, gpu=True),
]
TUNED = Engine("aecore", ours, most=10**9, own=True)
ON_GPU = Engine("aecore on a GPU", ours_gpu, most=10**9, gpu=True, own=True)
EXACT = Engine("aecore, exact", ours, own=True)


def lists(count: int) -> int:
    """Of an inverted file of `count` codes."""
    return max(1, round(4 * math.sqrt(count)))


class Process:
    """An engine's process, and the line to it; whatever fails there ends up in `failure`."""

    def __init__(self, engine: Engine, cloud: Cloud, threads: int, batch: int) -> None:
        """Start it and wait until it is built; `batch` queries are asked at a time."""
        self.engine, self.failure = engine, ""
        context = multiprocessing.get_context("spawn")
        self._line, theirs = context.Pipe()
        self._process = context.Process(target=_attend, args=(theirs, engine, cloud, threads, batch))
        self._process.start()
        theirs.close()
        self.build_seconds = float(self._hear() or 0)

    def answers(self, setting: int) -> np.ndarray | None:
        """What it answers to the first JUDGED queries, (q, K); warms it up, too. None once it has failed."""
        return self._ask("answers", setting, 0)  # type: ignore[no-any-return]

    def rate(self, setting: int, seconds: float) -> float | None:
        """Queries a second of a turn of about so many seconds, a batch at a time."""
        return self._ask("rate", setting, seconds)  # type: ignore[no-any-return]

    def latencies(self, setting: int, seconds: float) -> np.ndarray | None:
        """Seconds of each single query of such a turn."""
        return self._ask("latencies", setting, seconds)  # type: ignore[no-any-return]

    def resident(self) -> int:
        """Bytes by which it grew since its package was imported, what it mapped and touched among them."""
        return int(self._ask("resident", 0, 0) or 0)

    def end(self) -> None:
        """Leave no process behind."""
        if not self.failure:
            self._line.send(None)
        else:
            self._process.kill()
        self._process.join()
        self._line.close()

    def _ask(self, *question: Any) -> Any:
        if self.failure:
            return None
        self._line.send(question)
        return self._hear()

    def _hear(self) -> Any:
        try:
            said = self._line.recv() if self._line.poll(PATIENCE) else f"silent for {PATIENCE:.0f} s"
        except (EOFError, ConnectionResetError):
            self._process.join()
            said = f"died with exit status {self._process.exitcode}"
        if isinstance(said, str):
            self.failure = said
            return None
        return said


def resident() -> dict[str, int]:
    """Bytes of this process in main memory: `VmRSS`, and what of it is its own (`RssAnon`) or of files (`RssFile`)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {key: int(lines[key].split()[0]) * 1024 for key in ("VmRSS", "RssAnon", "RssFile")}


def _attend(line: Connection, engine: Engine, cloud: Cloud, threads: int, batch: int) -> None:
    """The whole life of an engine's process."""
    try:
        import faiss

        importlib.import_module(engine.needs)
        faiss.omp_set_num_threads(threads)
        before = resident()["VmRSS"]
        started = time.perf_counter()
        search = engine.build(cloud, threads)
        line.send(time.perf_counter() - started)
        queries = cloud.queries() if engine.own else np.array(cloud.prepared("queries"))
        next_batch = next_single = 0
        while (question := line.recv()) is not None:
            kind, setting, seconds = question
            if kind == "answers":
                line.send(search(queries[:JUDGED], setting))
            elif kind == "resident":
                line.send(resident()["VmRSS"] - before)
            elif kind == "rate":
                asked, begun = 0, time.perf_counter()
                while (taken := time.perf_counter() - begun) < seconds or not asked:
                    search(_some(queries, next_batch, batch), setting)
                    next_batch, asked = next_batch + batch, asked + batch
                line.send(asked / taken)
            else:
                times, end = list[float](), time.perf_counter() + seconds
                while not times or time.perf_counter() < end:
                    query = queries[next_single % len(queries)][None]
                    begun = time.perf_counter()
                    search(query, setting)
                    times.append(time.perf_counter() - begun)
                    next_single += 1
                line.send(np.array(times))
    except Exception as error:
        traceback.print_exc()
        line.send(" ".join(f"{type(error).__name__}: {error}".split())[:200])


def _some(queries: np.ndarray, first: int, count: int) -> np.ndarray:
    """`count` queries, from the `first` on, then from the beginning again."""
    first %= len(queries)
    if first + count <= len(queries):
        return queries[first : first + count]
    return queries[np.arange(first, first + count) % len(queries)]


def _filled(index: Any, cloud: Cloud) -> Search:
    """Train and fill an inverted file; the setting is how many of its lists are probed."""
    codes = cloud.prepared("codes")
    index.train(codes)
    index.add(codes)

    def search(queries: np.ndarray, setting: int) -> np.ndarray:
        index.nprobe = setting
        return index.search(queries, K)[1]  # type: ignore[no-any-return]

    return search


def _gpus() -> int:
    import faiss

    return faiss.get_num_gpus()


def _resources() -> Any:
    """What FAISS needs on a GPU, with less scratch memory than it would take."""
    import faiss

    resources = faiss.StandardGpuResources()
    resources.setTempMemory(512 * 2**20)
    return resources
