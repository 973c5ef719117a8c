"""The queries flow: the nearest of many images, as a Parquet file where a parameter says.

`python -m flows.queries FOLDER --output near.parquet` runs it here and now, with or without a Prefect server. The
published copy answers where there is one; artefacts that do not belong together are refused, and the flow fails.
"""

from __future__ import annotations

import argparse
import datetime
import io
import re
import signal
import sys
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows import pipeline
from flows.pipeline import CommandFailed
from flows.refresh import worth_retrying


@task(
    task_run_name="query", cache_policy=NO_CACHE, persist_result=False,
    retries=3, retry_delay_seconds=[10, 60, 300], retry_condition_fn=worth_retrying,
)  # fmt: skip
def query(arguments: list[str]) -> dict[str, Any]:
    """Look for them all; returns what `query --parquet --json` tells."""
    told: dict[str, Any] = pipeline.answer("query", ["aecore", "query", "--json", *arguments], get_run_logger().info)
    return told


@flow(name="queries", persist_result=False)
def queries(
    output: str, images: list[str] | None = None, ids: str | None = None, everything: bool = False, k: int = 10,
    where: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write the `k` nearest images of each query to the Parquet file `output`; counts and speed become an artifact.

    Args:
        output: The file; a date such as `near/%Y-%m-%d.parquet` is that of the run's schedule, in UTC.
        images: Image files, folders and archives to look for.
        ids: A Parquet file whose column `id` names indexed images to look for.
        everything: Look for every indexed image.
        k: Neighbours of each.
        where: A condition that neighbours must meet, in SQL over the images' table.
    """
    place = Path(dated(output, flow_run.scheduled_start_time))
    place.parent.mkdir(parents=True, exist_ok=True)
    arguments = [f"--parquet={place}", f"-k={k}"]
    arguments += [f"--ids={ids}"] if ids else []
    arguments += ["--all"] if everything else []
    arguments += [f"--where={where}"] if where else []
    told = query([*arguments, "--", *(images or [])])
    record(told)
    return told


def dated(output: str, when: datetime.datetime) -> str:
    """`output` with the date in place of %Y, %m and the like; %% is a percent sign, and so is one before no letter."""
    return re.sub("%([A-Za-z%])", lambda found: when.strftime(found.group()), output)


def record(told: dict[str, Any]) -> None:
    """Keep what a batch came to as artifacts of the flow run; what goes wrong here is a warning in the log."""
    try:
        create_table_artifact(
            summary(told), key="queries", description=f"The neighbours are in {literal(told['parquet'])}"
        )
        if told["rejected"]["count"]:
            create_table_artifact(
                [{"query": one["path"] or one["id"], "reason": one["reason"]} for one in told["rejected"]["first"]],
                key="queries-rejected",
                description="The first that could not be looked for; all are in "
                f"{literal(told['rejected']['parquet'])}",
            )
    except Exception as error:
        get_run_logger().warning("What this run did is not kept as artifacts: %s: %s", type(error).__name__, error)


def summary(told: dict[str, Any]) -> list[dict[str, str]]:
    """What `query --parquet --json` tells, as rows for people."""
    source, block = told["source"], told["block"]
    rows = {
        "result": told["parquet"],
        "queries": f"{told['queries']:,}",
        "rejected": f"{told['rejected']['count']:,}",
        "neighbours": f"{told['neighbours']:,}",
        "neighbours each": str(told["k"]),
        "only among": told["where"] or "all",
        "seconds": f"{told['seconds']:.1f}",
        "of them in the index": f"{told['search_seconds']:.1f}",
        "queries a second": f"{told['queries_per_second']:,.0f}",
        f"ms a block of {block['queries']:,}": f"p50 {block['p50_ms']:.0f}, p95 {block['p95_ms']:.0f}",
        "answered by": f"{source['kind']} {source['path']}, {told['metric']}",
        **{f"digest of {kind}": digest for kind, digest in source["digests"].items()},
    }
    if source["growth"]:
        rows["since published"] = f"{source['growth']['added']:,} added, {source['growth']['removed']:,} removed"
    if told["mlflow_run"]:
        rows["MLflow run"] = told["mlflow_run"]
    return [{"what": name, "value": value} for name, value in rows.items()]


def _neighbours(text: str) -> int:
    """A whole number from 1; what is none is refused before a server is started."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"it is {text!r}; expected a whole number, 1 or more")
    return int(text)


def literal(text: str) -> str:
    """Markdown that shows `text` as it is: code, whatever it holds."""
    text = pipeline.legible(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if "`" in (text[:1], text[-1:]) else ""
    return f"{fence}{space}{text}{space}{fence}"


def main(arguments: list[str] | None = None) -> int:
    """Run the flow once; returns 0, or 1 (2: the request was wrong) after a sentence that says what failed."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.queries",
        description="Write the nearest images of many queries to a Parquet file, as a Prefect flow. "
        "Without PREFECT_API_URL a temporary server is started, which takes some ten seconds.",
    )
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="image files, folders, archives to look for")
    parser.add_argument("--ids", metavar="FILE.parquet", help="look for the indexed images its column `id` names")
    parser.add_argument("--all", dest="everything", action="store_true", help="look for every indexed image")
    parser.add_argument(
        "--output", required=True, metavar="OUT.parquet", help="may hold a date: near/%%Y-%%m-%%d.parquet"
    )
    parser.add_argument("-k", type=_neighbours, default=10, help="neighbours each (default: 10)")
    parser.add_argument("--where", metavar="CONDITION", help="only among images that meet it, in SQL")
    options = parser.parse_args(arguments)
    if wrong := pipeline.outside("params.yaml"):
        print(f"queries: {wrong}", file=sys.stderr)
        return 2
    # Prefect ends the run and hands SIGTERM on; an ordinary exit then lets its temporary server end too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        told = queries(**vars(options))
    except CommandFailed as error:
        print(f"queries: {error}", file=sys.stderr)
        return 2 if error.status == 2 else 1
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not be UTF-8, and paths are anything
    for row in summary(told):
        print(f"{row['what']:<24} {pipeline.legible(row['value'])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
