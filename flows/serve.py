"""`python -m flows.serve`: the refresh flow, and queries where asked, on a schedule, run here one at a time.

It needs a Prefect server. Work pools and workers, for more than one machine, are in prefect.yaml.
"""

from __future__ import annotations

import argparse
import sys
from typing import cast

import httpx
from prefect import serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.settings import PREFECT_API_URL

from flows import pipeline
from flows.queries import queries
from flows.refresh import refresh

NIGHTLY = "0 3 * * *"
AFTER = "0 5 * * *"


def main(arguments: list[str] | None = None) -> int:
    """Serve until ended; returns 2 where no server is configured, 1 where it does not answer."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.serve",
        description="Run the refresh flow on a schedule, and queries where asked, in this process, one run at a time. "
        "Needs a Prefect server: `prefect server start`, and PREFECT_API_URL pointing at it.",
    )
    parser.add_argument("--cron", default=NIGHTLY, help="when, in cron's five fields (default: '%(default)s')")
    parser.add_argument("--no-publish", dest="publish", action="store_false", help="leave what is served alone")
    parser.add_argument("--queries", metavar="OUT.parquet", help="also write the nearest of every indexed image, or of "
                        "those below, on a schedule; may hold a date: near/%%Y-%%m-%%d.parquet")  # fmt: skip
    parser.add_argument(
        "--images", nargs="+", metavar="IMAGE", help="with --queries: of these files, folders, archives"
    )
    parser.add_argument("--ids", metavar="FILE.parquet", help="with --queries: of those its column `id` names")
    parser.add_argument("--queries-cron", default=AFTER, help="when (default: '%(default)s')")
    options = parser.parse_args(arguments)
    if wrong := pipeline.outside():
        print(f"flows.serve: {wrong}", file=sys.stderr)
        return 2
    url = PREFECT_API_URL.value()
    if not url:
        print(
            "flows.serve: there is no Prefect server to take the schedule from: run `prefect server start` and "
            "set PREFECT_API_URL=http://127.0.0.1:4200/api. (`python -m flows.refresh` needs no server.)",
            file=sys.stderr,
        )
        return 2
    try:
        httpx.get(f"{url.rstrip('/')}/health", timeout=10).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        print(f"flows.serve: the Prefect server at {url} does not answer ({error}): start it first.", file=sys.stderr)
        return 1
    serve(*deployments(options), limit=1)
    return 0


def deployments(options: argparse.Namespace) -> list[RunnerDeployment]:
    """What is served by these options of the command line."""
    alone = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    served = [
        refresh.to_deployment(
            "served", cron=options.cron, parameters={"publish": options.publish}, concurrency_limit=alone
        )
    ]
    if options.queries:
        asked = {"images": options.images, "ids": options.ids, "everything": not (options.images or options.ids)}
        parameters = {"output": options.queries, **asked}
        served.append(
            queries.to_deployment("served", cron=options.queries_cron, parameters=parameters, concurrency_limit=alone)
        )
    return cast(list[RunnerDeployment], served)  # Prefect's types allow for a coroutine


if __name__ == "__main__":
    sys.exit(main())
