"""The `query --parquet` command: the nearest of very many images, a block at a time, as a table in a file.

OUT.parquet is the table that `aecore.search.table` describes. Files come first, then ids, in the order given. An image
that is indexed is its own first neighbour (`id != query_id` leaves it out). The same queries to the same artefacts give
the same bytes.

`--json` prints one object, stable for other programs:

    {"parquet": path, "source", "metric", "where", "k": as `query --json` has them, and the metadata of the table,
     "queries": how many have neighbours, "neighbours": how many in all,
     "rejected": {"count": how many have none, "parquet": the file that lists them, or null where there are none,
                  "first": [{"path": …, "id": …, "reason": …}, …] ten at most},
     "seconds": from the first query read to the file in its place, "search_seconds": of them in the index,
     "queries_per_second": number,
     "block": {"queries": of the largest, "p50_ms": …, "p95_ms": to read, encode, search and write one},
     "mlflow_run": id, or null where runs are not recorded}

In memory are a block of queries at a time, and of the whole collection its paths and label names.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aecore import config, tracking
from aecore.config import Runtime, UserError
from aecore.counted import counted
from aecore.names import legible
from aecore.output import tell
from aecore.search.collection import parse_id
from aecore.search.montage import check_writable
from aecore.search.queries import Block, Queries, Rejected
from aecore.search.query import let_through
from aecore.search.searcher import Searcher, Source
from aecore.search.table import COLUMNS, Names, Write, keep_rejected, tabulate, writing

if TYPE_CHECKING:
    from aecore.embedding import Encoder

BLOCK = 4_096
"""Queries of a block, at most."""
ROWS = 2**20
"""Neighbours of a block, at most; but always one query's."""
NAMED = 10
"""Rejected queries that are named."""


@dataclasses.dataclass
class Outcome:
    """What a batch came to."""

    queries: int = 0
    neighbours: int = 0
    rejected: list[Rejected] = dataclasses.field(default_factory=list)
    search_seconds: float = 0.0
    block_ms: list[float] = dataclasses.field(default_factory=list)
    """Of each block, to read, encode, search and write it."""
    largest: int = 0
    """Queries of the largest block."""

    def told(self, seconds: float, listed: Path | None) -> dict[str, Any]:
        """For JSON, of a batch that took so long; `listed` is where the rejected are."""
        p50, p95 = (round(float(value), 3) for value in np.percentile(self.block_ms, [50, 95]))
        first = [{**one._asdict(), "id": None if one.id is None else str(one.id)} for one in self.rejected[:NAMED]]
        return {
            "queries": self.queries,
            "neighbours": self.neighbours,
            "rejected": {"count": len(self.rejected), "parquet": listed and str(listed), "first": first},
            "seconds": round(seconds, 3),
            "search_seconds": round(self.search_seconds, 3),
            "queries_per_second": round(self.queries / seconds, 1),
            "block": {"queries": self.largest, "p50_ms": p50, "p95_ms": p95},
        }


def answer(searcher: Searcher, blocks: Iterable[Block], k: int, among: np.ndarray | None, write: Write) -> Outcome:
    """Search for every block of queries, and `write` a table of what was found.

    `k` and `among` as in `Searcher.search`.
    """
    names, outcome, begun = Names(searcher.collection), Outcome(), time.perf_counter()
    for block in blocks:
        asked = time.perf_counter()
        found = searcher.search(block.vectors, k, among)
        outcome.search_seconds += time.perf_counter() - asked
        write(tabulate(block, found, names))
        outcome.queries += len(block.vectors)
        outcome.neighbours += found.ids.size
        outcome.rejected += block.rejected
        outcome.largest = max(outcome.largest, len(block.vectors))
        outcome.block_ms.append(1000 * (time.perf_counter() - begun))
        begun = time.perf_counter()
    return outcome


def run(
    images: Sequence[str | Path], ids: Sequence[str | int], parquet: Path | None, k: int = 10,
    where: str | None = None, table: Path | None = None, everything: bool = False, as_json: bool = False,
    root: Path = Path(),
) -> None:  # fmt: skip
    """Write the `k` nearest of all images at `images`, and of indexed images, to the file `parquet`.

    Which: see `Queries`. Prints how many there were and how fast, and records that with MLflow.

    Raises UserError for nothing to look for, k below 1, a condition `where` that is none or that no image meets, a path
    that is missing, and where no query can be looked for; WorkFailed for artefacts that do not belong together.
    `parquet` is then what it was.
    """
    if parquet is None:
        raise UserError("--ids and --all look for very many: --parquet OUT.parquet says where the neighbours go.")
    if k < 1:
        raise UserError(f"-k is {k}; expected 1 or more.")
    check_writable(parquet, (".parquet", ".pq"))
    queries = Queries([Path(path) for path in images], [parse_id(item_id) for item_id in ids], table, everything)
    queries.check()
    runtime = config.section(Runtime, "run", root / config.PARAMS)
    track = config.section(tracking.TrackingConfig, "tracking", root / config.PARAMS)
    source = Source.find(root)
    print(f"aecore query: asking {source}", file=sys.stderr)
    encoder = _encoder(source, runtime) if images else None
    searcher = Searcher.open(source, encoder.manifest if encoder else None, runtime.device)
    among = let_through(searcher, where)
    k = min(k, searcher.count if among is None else len(among))
    about = {"source": searcher.told(), "metric": searcher.metric, "where": where, "k": k}
    with _recorded(queries, about, parquet, track) as record:
        begun, size = time.perf_counter(), max(1, min(BLOCK, ROWS // k))
        every = queries.blocks(searcher.collection, encoder, size, runtime.threads)
        with (
            writing(parquet, COLUMNS, about) as write,
            closing(every) as blocks,
        ):  # the bar ends before an error is told
            outcome = answer(searcher, blocks, k, among, write)
            if not outcome.queries:
                why = "".join(f" ({one})" for one in outcome.rejected[:1])
                raise UserError(f"none of the queries can be looked for{why}; {parquet} was not written.")
            listed = keep_rejected(parquet, outcome.rejected, about)
        told = outcome.told(time.perf_counter() - begun, listed)
        record.log(_numbers(told))
    for one in outcome.rejected[:NAMED]:
        print(f"aecore query: passed over {legible(one)}", file=sys.stderr)
    if listed:
        print(
            f"aecore query: {legible(listed)} lists all {len(outcome.rejected):,} that were passed over",
            file=sys.stderr,
        )
    told = {"parquet": str(parquet), **about, **told, "mlflow_run": record.id or None}
    if as_json:
        tell(told)
    else:
        print(_sentence(told))


def _encoder(source: Source, runtime: Runtime) -> Encoder:
    import torch

    from aecore.embedding import Encoder

    torch.set_num_threads(runtime.threads)
    return Encoder.load(source.path("model"), runtime.device)


def _recorded(
    queries: Queries, about: dict[str, Any], parquet: Path, track: tracking.TrackingConfig
) -> AbstractContextManager[tracking.Run]:
    """A run in an experiment of its own: batches that come every night would hide the trainings."""
    parameters = dataclasses.asdict(queries) | {"images": [str(path) for path in queries.images],
                  "ids": len(queries.ids), "table": str(queries.table or ""), "parquet": str(parquet),
                  "where": about["where"], "k": about["k"]}  # fmt: skip
    digests = about["source"]["digests"]
    tags = {f"aecore.{kind}": digests[kind] for kind in ("data", "index")} | {"aecore.weights": digests["model"]}
    track = dataclasses.replace(track, experiment=f"{track.experiment}-queries")
    return tracking.run("query", parameters, tags, track)


def _numbers(told: dict[str, Any]) -> dict[str, float]:
    """What of `told` MLflow keeps."""
    kept = ("queries", "neighbours", "seconds", "search_seconds", "queries_per_second")
    block = {f"block.{name}": value for name, value in told["block"].items()}
    return {name: told[name] for name in kept} | {"rejected": told["rejected"]["count"]} | block


def _sentence(told: dict[str, Any]) -> str:
    block, rejected = told["block"], told["rejected"]["count"]
    return (
        f"{counted(told['queries'], 'query', 'queries')}{f', {rejected:,} rejected' if rejected else ''}: "
        f"{counted(told['neighbours'], 'neighbour')} -> {legible(told['parquet'])}\n"
        f"{told['seconds']:.1f} s, of them {told['search_seconds']:.1f} s in the index; "
        f"{told['queries_per_second']:,.0f} queries/s; a block of {block['queries']:,} takes "
        f"{block['p50_ms']:.0f} ms (p50), {block['p95_ms']:.0f} ms (p95)"
    )
