"""The refresh flow: the request checked, every stage of dvc.yaml in order, then the publication of what came out.

`python -m flows.refresh` runs it here and now, with or without a Prefect server. DVC is the cache, so a stage whose
inputs did not change takes a second.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from flows import checkout, pipeline
from flows.pipeline import CommandFailed, Interrupted, Locked, Result


def worth_retrying(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether a failed task may do better next time: the project was locked, or a signal ended the stage."""
    return isinstance(state.result(raise_on_failure=False), Locked | Interrupted)


@task(
    task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False,
    retries=3, retry_delay_seconds=[10, 60, 300], retry_condition_fn=worth_retrying,
)  # fmt: skip
def stage(name: str) -> Result:
    """Bring one stage up to date."""
    return pipeline.repro(name, get_run_logger().info)


@task(task_run_name="check", cache_policy=NO_CACHE, persist_result=False)
def check_task() -> Result:
    """See, before anything runs, that params.yaml is right and DVC can watch the data."""
    return pipeline.command("check", ["aecore", "check"], get_run_logger().info)


@task(task_run_name="publish", cache_policy=NO_CACHE, persist_result=False)
def publish_task() -> Result:
    """Verify the artefacts and serve a copy of them."""
    return pipeline.command("publish", ["aecore", "publish"], get_run_logger().info)


@flow(name="refresh", persist_result=False)
def refresh(publish: bool = True) -> list[Result]:
    """Check, bring every stage up to date, then publish, unless told not to; what was done is kept as artifacts."""
    results: list[Result] = []
    if told := checkout.settle():
        get_run_logger().info(told)
    try:
        check_task()
        for name in pipeline.stages():
            results.append(stage(name))
        if publish:
            results.append(publish_task())
    except Exception:
        record(results)
        raise
    record(results)
    return results


def record(results: list[Result]) -> None:
    """Keep what became of each stage, the graph, and the metrics, as artifacts of the flow run.

    What goes wrong here is a warning in the log: the work itself is done, or has failed for a reason of its own.
    """
    try:
        create_table_artifact(
            [
                {"stage": r.name, "outcome": r.outcome, "seconds": round(r.seconds, 1), "last line": r.last}
                for r in results
            ],
            key="stages",
            description="What ran, and what was there already",
        )
        graph = pipeline.ask("dag", "--md", pipeline.PIPELINE).strip()
        create_markdown_artifact(graph, key="pipeline", description="The stages, from DVC")
        create_table_artifact(metrics(), key="metrics", description="`dvc metrics show`")
    except Exception as error:
        get_run_logger().warning(
            "Not everything that this run did is kept as artifacts: %s: %s", type(error).__name__, error
        )


def metrics() -> list[dict[str, Any]]:
    """DVC's metrics as rows of file, metric and value."""
    shown = json.loads(pipeline.ask("metrics", "show", "--json"))
    files = shown.get("", {}).get("data", {})
    return [
        {"file": file, "metric": name, "value": value}
        for file, content in files.items()
        for name, value in _leaves(content.get("data", {}))
    ]


def _leaves(values: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(values, dict):
        return [(prefix, values)]
    return [leaf for key, value in values.items() for leaf in _leaves(value, f"{prefix}.{key}" if prefix else key)]


def main(arguments: list[str] | None = None) -> int:
    """Run the flow once; returns 0, or 1 (2: the request was wrong) after a sentence that says what failed."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.refresh",
        description="Bring every stage of dvc.yaml up to date and publish the result, as a Prefect flow. "
        "Without PREFECT_API_URL a temporary server is started, which takes some ten seconds.",
    )
    parser.add_argument("--no-publish", dest="publish", action="store_false", help="leave what is served alone")
    options = parser.parse_args(arguments)
    if wrong := pipeline.outside():
        print(f"refresh: {wrong}", file=sys.stderr)
        return 2
    # Prefect ends the run and hands SIGTERM on; an ordinary exit then lets its temporary server end too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        results = refresh(publish=options.publish)
    except (CommandFailed, Locked) as error:
        print(f"refresh: {error}", file=sys.stderr)
        return 2 if isinstance(error, CommandFailed) and error.status == 2 else 1
    for result in results:
        print(f"{result.name:<12} {result.outcome:<10} {result.seconds:7.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
