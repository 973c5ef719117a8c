"""Searching, side by side in one run: numpy, scikit-learn, hnswlib, FAISS by plain calls, and this project.

    python benchmarks/search.py --quick                       6,000 codes, short turns: a minute on two cores
    python benchmarks/search.py --output FOLDER               60,000 and 1,000,000 codes; FOLDER/search.md and .json
    python benchmarks/search.py --large                       and 10,000,000: 10 GB of disk, 10 GB of memory
    python benchmarks/search.py --workspace DIR               real codes: those of a workspace, its test images ask
    python benchmarks/search.py --workspace DIR --real 1000000   as many, by copies that are moved a little

Clustered codes are drawn from a mixture of Gaussians. Without `--workspace` the real ones are the 64 principal
components of the bundled images. Every engine has a process of its own (`engines`); in each round all of them, at all
their settings, take their turns in random order, batches and single queries apart. Recall is the share of the ten
nearest that were found; what is as near as the tenth, to rounding, counts. Then what each layer adds to a query
(`layers`). hnswlib takes part where it is installed, FAISS on a GPU where there is one (`--batch 10000` is for that).
"""

from __future__ import annotations

import argparse
import math
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cloud as clouds
import layers as layering
import numpy as np
from cloud import Cloud
from contest import markdown, write
from engines import ENGINES, EXACT, JUDGED, ON_GPU, TUNED, Engine, K, Process
from layers import Layers
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from aecore.analysis.figures import PALETTE, save
from aecore.config import UserError
from aecore.generate.sheet import GREY, INK

ROUNDING = 1e-6
"""Of an inner product of codes of length 1, in float32: nearer to the tenth than this is as near."""
DRAWN = 0.8
"""Recall from which on a point is drawn."""


@dataclass
class Measured:
    """An engine at one setting."""

    name: str
    engine: str
    build_seconds: float = 0.0
    resident: int = 0
    recall: float = 0.0
    rates: list[float] = field(default_factory=list)
    """Queries a second, of each turn."""
    latencies: list[float] = field(default_factory=list)
    """Seconds of single queries, of all turns."""
    failure: str = ""
    """Why there is nothing else."""


class Truth(NamedTuple):
    """The exact answers to the first queries."""

    queries: np.ndarray
    """As they are compared, float32 (q, dim)."""
    codes: np.ndarray
    """What is searched, memory-mapped float32 (n, dim)."""
    tenth: np.ndarray
    """Inner product with the K-th nearest, float64 (q,)."""

    @classmethod
    def of(cls, cloud: Cloud) -> Truth:
        """By comparison with every code."""
        import faiss

        queries, codes = np.array(cloud.prepared("queries")[:JUDGED]), cloud.prepared("codes")
        _, nearest = faiss.knn(queries, codes, min(K, len(codes)), metric=faiss.METRIC_INNER_PRODUCT)
        return cls(queries, codes, _products(queries, codes, nearest).min(axis=1))

    def recall(self, found: np.ndarray) -> float:
        """Of positions (q, K): the share that is among the nearest. A position counts once, -1 never."""
        near = _products(self.queries, self.codes, np.maximum(found, 0)) >= self.tenth[:, None] - ROUNDING
        ordered = np.sort(np.where(near, found, -1), axis=1)
        new = np.diff(ordered, axis=1, prepend=-1) != 0
        return float((new & (ordered >= 0)).mean())


def contest(
    cloud: Cloud, exact: Cloud | None, *, batch: int, threads: int, turns: int, seconds: float
) -> list[Measured]:
    """Build every engine, one after the other, then let them take turns."""
    entries = [(engine, cloud) for engine in (*ENGINES, TUNED, ON_GPU)]
    entries += [] if exact is None else [(EXACT, exact)]
    truth, ids = Truth.of(cloud), cloud.ids()
    results, processes = list[Measured](), list[Process]()
    places = list[tuple[Process, int, Measured]]()
    try:
        for engine, place in entries:
            if why := engine.missing(cloud.count):
                results.append(Measured(engine.name, engine.name, failure=why))
                continue
            process = Process(engine, place, threads, batch)
            processes.append(process)
            for setting in _settings(engine, place):
                result = Measured(_told(engine, setting, place), engine.name, failure=process.failure)
                result.build_seconds = place.command_seconds if engine.own else process.build_seconds
                found = process.answers(setting)
                if found is not None:
                    result.recall = truth.recall(_positions(ids, found) if engine.own else found)
                results.append(result)
                places.append((process, setting, result))
        order = random.Random(0)
        for _ in range(turns):
            kinds = [(*entry, single) for entry in places for single in (False, True)]
            for process, setting, result, single in order.sample(kinds, len(kinds)):
                if single and (times := process.latencies(setting, seconds)) is not None:
                    result.latencies += times.tolist()
                if not single and (rate := process.rate(setting, seconds)) is not None:
                    result.rates.append(rate)
        for process, _, result in places:
            result.resident, result.failure = process.resident(), process.failure
    except BaseException:
        for process in processes:
            process.failure = process.failure or "interrupted"
        raise
    finally:
        for process in processes:
            process.end()
    return results


def rows(results: Sequence[Measured], count: int, base: float) -> list[list[str]]:
    """Lines of the table; `base` queries/s is one."""
    lines = []
    for result in results:
        line = [result.name, result.failure]
        if not result.failure:
            rate = statistics.median(result.rates)
            spread = (max(result.rates) - min(result.rates)) / 2 / rate
            middle, late = (1e3 * float(np.percentile(result.latencies, p)) for p in (50, 95))
            ratio = "–" if math.isnan(base) else f"{rate / base:.2f}"
            line[1:] = [
                f"{result.build_seconds:,.1f}", f"{result.resident / 1e6:,.0f}", f"{result.resident / count:,.0f}",
                f"{result.recall:.4f}", f"{rate:,.0f} ± {spread:.0%}", ratio, f"{middle:.3f}", f"{late:.3f}",
            ]  # fmt: skip
        lines.append(line)
    return lines


def columns(batch: int) -> tuple[str, ...]:
    """Titles of the table."""
    return ("engine", "build s", "resident MB", "bytes a code", f"recall@{K}", f"queries/s, batches of {batch:,}",
            f"times {ENGINES[0].name}", "one query ms, p50", "p95")  # fmt: skip


def base_rate(results: Sequence[Measured]) -> float:
    """Queries a second that count as one: numpy's, or not a number where it was left out."""
    first = results[0]
    return statistics.median(first.rates) if first.rates and not first.failure else math.nan


def draw(contests: Sequence[tuple[str, Sequence[Measured]]]) -> Figure:
    """Queries a second over recall from DRAWN on, an engine a line, a set of codes a panel."""
    figure = Figure(figsize=(5.2 * len(contests), 4), layout="constrained")
    names = [engine.name for engine in (*ENGINES, TUNED, ON_GPU, EXACT)]
    for axes, (title, results) in zip(figure.subplots(1, len(contests), squeeze=False)[0], contests, strict=True):
        for number, name in enumerate(names):
            able = [r for r in results if r.engine == name and not r.failure and r.recall >= DRAWN]
            points = [(r.recall, statistics.median(r.rates)) for r in able]
            if points:
                own = name.startswith(TUNED.name)
                axes.plot(*zip(*points, strict=True), "*-" if own else "o-", color=PALETTE[number], label=name,
                          markersize=12 if own else 4)  # fmt: skip
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title(title.replace(" (", "\n("), fontsize=9, color=INK, loc="left")
        axes.set_xlabel(f"recall@{K}", fontsize=8, color=GREY)
        axes.set_ylabel("queries/s", fontsize=8, color=GREY)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8, colors=GREY)
        axes.legend(fontsize=7, frameon=False)
    return figure


def measure(cloud: Cloud, exact: Cloud | None, options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """All of one set of codes: what is printed, and what was measured."""
    clouds.prepare(cloud)
    results = contest(
        cloud, exact, batch=options.batch, threads=options.threads, turns=options.turns, seconds=options.seconds
    )
    text = f"## {cloud.told}\n\n" + markdown(columns(options.batch), rows(results, cloud.count, base_rate(results)))
    added = {}
    for each in [cloud] if exact is None else [cloud, exact]:
        name = each.facts["index"]
        added[name] = layering.layers(each, options.batch, options.threads, options.seconds * options.turns)
    lines = [line for name, layers in added.items() for line in layering.rows(name, layers)]
    text += f"\n{notes(cloud, options)}\n\n{markdown(layering.columns(options.batch), lines)}"
    record = {"codes": cloud.told, "count": cloud.count, "facts": cloud.facts, "index_bytes": cloud.index_bytes}
    record |= {"index_seconds": cloud.seconds, "engines": [asdict(result) for result in results]}
    return text, record | {"layers": {name: _told_layers(layers) for name, layers in added.items()}}


def notes(cloud: Cloud, options: argparse.Namespace) -> str:
    """What stands below the table."""
    facts = cloud.facts
    probing = f", nprobe {facts['nprobe']}" if facts.get("nprobe") else ""
    return (
        f"k = {K}, {options.threads} threads; recall over {min(JUDGED, len(cloud.queries())):,} queries that are not "
        f"indexed. ± is half the range of {options.turns} turns. Resident: by how much a process grew, what it mapped "
        f"and touched included. Build: of aecore the whole command `index`, from the artefacts on disk to the index on "
        f"disk, its own recall measured; {cloud.seconds:.1f} s of {cloud.command_seconds:.1f} without starting and "
        f"writing. It chose {facts['index']}{probing} for a recall of {options.min_recall}; "
        f"{cloud.index_bytes / cloud.count:,.0f} bytes a code on disk."
    )


def sets(folder: Path, options: argparse.Namespace) -> Iterator[Cloud]:
    """Make one cloud after the other, each in a folder of its own."""
    index = {"min_recall": options.min_recall, "memory_mb": options.memory_mb}
    for count in options.counts:
        codes = clouds.clustered(count, options.dim)
        yield clouds.make(_new(folder / f"clustered-{count}"), codes, options.threads, index)
    workspace = options.workspace or clouds.embedded(_new(folder / "bundled"), options.dim, options.threads)
    try:
        codes = clouds.real(workspace, options.real)
    except UserError as error:
        sys.exit(f"--workspace: {error}")
    if options.workspace is None:
        codes = codes._replace(told=codes.told.replace(str(workspace), f"PCA-{options.dim} of the bundled images"))
    yield clouds.make(_new(folder / "real"), codes, options.threads, index)


def main() -> None:
    """Measure and print the tables, each as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few codes, short turns")
    parser.add_argument("--large", action="store_true", help="10,000,000 clustered codes as well")
    parser.add_argument("--counts", nargs="*", type=int, help="of clustered codes (default: 60000 1000000)")
    parser.add_argument("--workspace", type=Path, help="whose embeddings are the real codes")
    parser.add_argument("--real", type=int, help="how many real codes, beyond those there are by moved copies")
    parser.add_argument("--dim", type=int, default=64, help="of codes made here (default: 64)")
    parser.add_argument("--min-recall", type=float, default=0.99, help="`index.min_recall` (default: 0.99)")
    parser.add_argument("--memory-mb", type=float, help="`index.memory_mb`: compress the codes to fit")
    parser.add_argument("--batch", type=int, default=1_000, help="queries asked at a time (default: 1,000)")
    parser.add_argument("--turns", type=int, help="of each engine and setting (default: 5; with --quick 3)")
    parser.add_argument("--seconds", type=float, help="of a turn (default: 1; with --quick 0.1)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, help="on the disk to be used (default: a temporary one)")
    parser.add_argument("--figure", type=Path, help="where to draw recall against queries/s, a PNG")
    parser.add_argument("--output", type=Path, help="folder for search.md and search.json")
    options = parser.parse_args()
    if options.counts is None:
        options.counts = [6_000] if options.quick else [60_000, 1_000_000]
    options.counts += [10_000_000] if options.large else []
    options.turns = options.turns or (3 if options.quick else 5)
    options.seconds = options.seconds or (0.1 if options.quick else 1.0)
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = str(options.threads)  # read by the processes to come

    texts, records = list[str](), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        for cloud in sets(Path(name), options):
            within = cloud.count <= EXACT.most
            exact = clouds.exactly(cloud, _new(Path(f"{cloud.folder}-exact")), options.threads) if within else None
            text, record = measure(cloud, exact, options)
            print(text, flush=True)
            texts.append(text)
            records.append(record)
    if options.output is not None:
        write(options.output, "search", "\n".join(texts), {"threads": options.threads, "sets": records})
    if options.figure is not None:
        save(draw([(r["codes"], [Measured(**e) for e in r["engines"]]) for r in records]), options.figure)


def _products(queries: np.ndarray, codes: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Inner products, float64 (q, K), of queries (q, dim) with the codes at positions (q, K)."""
    products: np.ndarray = np.einsum("qd,qkd->qk", queries.astype(np.float64), codes[positions].astype(np.float64))
    return products


def _positions(ids: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Places among ids, ascending, of those found; -1 where there is none."""
    return np.where(found < 0, -1, np.searchsorted(ids, found))


def _settings(engine: Engine, cloud: Cloud) -> tuple[int, ...]:
    """Its settings; of this program that which the command chose."""
    return (cloud.facts.get("nprobe") or 0,) if engine.own else engine.settings


def _told(engine: Engine, setting: int, cloud: Cloud) -> str:
    """Its name in the table."""
    if not engine.own or engine is EXACT:
        return engine.told(setting)
    return f"{engine.name}, {cloud.facts['index']}" + (f", nprobe {setting}" if setting else "")


def _told_layers(layers: Layers) -> dict[str, Any]:
    """For JSON: median seconds of each layer, and quartiles of what `Searcher` adds."""
    told: dict[str, Any] = {"batch": layers.batch, "command": layers.command, "imports": layers.imports}
    for name, times in {"single": layers.single, "batched": layers.batched}.items():
        told |= {f"{name}_{layer}": float(np.median(seconds)) for layer, seconds in times._asdict().items()}
        told |= {f"{name}_added": times.added(2), f"{name}_share": times.share(2)}
    return told


def _new(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


if __name__ == "__main__":
    main()
