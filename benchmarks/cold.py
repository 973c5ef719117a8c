"""What a fresh process needs to open an index and ask it: memory beyond the libraries, and milliseconds.

    python benchmarks/cold.py                            5,000,000 clustered codes of 64 numbers, in a temporary folder
    python benchmarks/cold.py --folder DIR               made there once, opened again by the next run
    python benchmarks/cold.py --count 60000 --forget     what the kernel caches of the files is dropped before (Linux)

The artefacts are made by `cloud`, the index by the program's own command. Resident memory is the kernel's count
(/proc/self/status): what is the process's own (anonymous), and what of the files is mapped and was touched, which the
kernel takes back where memory is short. A batch touches most lists, and so maps most of the index.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from cloud import PROJECT, QUERIES_FILE, Cloud, clustered, make, opened
from engines import K, resident

SINGLES, BATCH = 100, 1_000
COLUMNS = ("moment", "took ms", "resident MB", "own", "of files", "beyond the libraries", "own")


class Moment(NamedTuple):
    """After a step."""

    name: str
    seconds: float
    """That the step took; not a number where that says nothing."""
    memory: dict[str, int]
    """As `engines.resident`."""


def moments(folder: str) -> list[Moment]:
    """Open and ask, in a process that has only imported what that needs."""
    import faiss
    import pyarrow.compute
    import pyarrow.parquet

    del faiss, pyarrow
    queries = np.load(Path(folder) / QUERIES_FILE)
    taken = [Moment("libraries imported", math.nan, resident())]

    def step(name: str, function: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        result = function()
        taken.append(Moment(name, time.perf_counter() - begun, resident()))
        return result

    searcher = step("opened", lambda: opened(Path(folder)))
    found = step("one query", lambda: searcher.search(queries[:1], K))
    shown = searcher.collection
    step("what its neighbours show", lambda: shown.items(shown.positions(found.ids[0]), ["id", "path", "label"]))
    step(f"{SINGLES} more, one by one", lambda: [searcher.search(queries[[i]], K) for i in range(1, 1 + SINGLES)])
    step(f"a batch of {BATCH:,}", lambda: searcher.search(queries[-BATCH:], K))
    return taken


def measure(cloud: Cloud, threads: int) -> list[Moment]:
    """The same in a process of its own."""
    path = os.pathsep.join([str(PROJECT), str(PROJECT / "benchmarks"), os.environ.get("PYTHONPATH", "")])
    code = f"import json, cold; print(json.dumps(cold.moments({str(cloud.folder)!r})))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"the process ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    return [Moment(*values) for values in json.loads(done.stdout)]


def rows(taken: Sequence[Moment]) -> list[list[str]]:
    """Lines of the table."""
    base = taken[0].memory
    lines = []
    for name, seconds, memory in taken:
        beyond = [memory[key] - base[key] for key in ("VmRSS", "RssAnon")]
        sizes = [memory["VmRSS"], memory["RssAnon"], memory["RssFile"], *beyond]
        took = "–" if math.isnan(seconds) else f"{1e3 * seconds:,.1f}"
        lines.append([name, took, *(f"{size / 1e6:,.0f}" for size in sizes)])
    return lines


def forget(folder: Path) -> None:
    """Have the kernel drop what it caches of the artefacts."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def main() -> None:
    """Make the artefacts where they are not there yet, measure and print."""
    from contest import markdown  # imports torch: nothing that the process measured shall hold

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5_000_000, help="of codes (default: 5,000,000)")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--min-recall", type=float, default=0.99, help="`index.min_recall` (default: 0.99)")
    parser.add_argument("--memory-mb", type=float, help="`index.memory_mb`: compress the codes to fit")
    parser.add_argument("--folder", type=Path, help="to make them in and to leave them in (default: a temporary one)")
    parser.add_argument("--forget", action="store_true", help="drop what the kernel caches of them first")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        made = Cloud.at(folder)
        if made is None or (made.count, made.dim) != (options.count, options.dim):
            folder.mkdir(parents=True, exist_ok=True)
            index = {"min_recall": options.min_recall, "memory_mb": options.memory_mb}
            made = make(folder, clustered(options.count, options.dim), options.threads, index)
        if options.forget:
            forget(folder)
        taken = measure(made, options.threads)
        facts = made.facts
    print(markdown(COLUMNS, rows(taken)))
    print(
        f"{options.count:,} clustered codes of {options.dim} numbers, {facts['index']}, k = {K}, {options.threads} "
        f"threads; MB are 10^6 bytes."
    )


if __name__ == "__main__":
    main()
