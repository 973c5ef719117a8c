"""`python -m flows.serve`: the refresh flow on a schedule, run by this process, one at a time.

It needs a Prefect server. Work pools and workers, for more than one machine, are in prefect.yaml.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import httpx
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.settings import PREFECT_API_URL

from flows.refresh import refresh

NIGHTLY = "0 3 * * *"


def main(arguments: list[str] | None = None) -> int:
    """Serve until ended; returns 2 where no server is configured, 1 where it does not answer."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.serve",
        description="Run the refresh flow on a schedule, in this process, one run at a time. "
        "Needs a Prefect server: `prefect server start`, and PREFECT_API_URL pointing at it.",
    )
    parser.add_argument("--cron", default=NIGHTLY, help="when, in cron's five fields (default: '%(default)s')")
    parser.add_argument("--no-publish", dest="publish", action="store_false", help="leave what is served alone")
    options = parser.parse_args(arguments)
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
    if not Path("dvc.yaml").is_file():
        print("flows.serve: run this from the project's folder, the one that holds dvc.yaml.", file=sys.stderr)
        return 2
    refresh.serve(
        name="served",
        cron=options.cron,
        parameters={"publish": options.publish},
        limit=1,
        global_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
