"""The flows under Prefect: on a temporary server, and on a real one by schedule. Trivial stages stand in for ours."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import ENDED, flow_runs, free_port, post, prefect_server, started, wait

ROOT = Path(__file__).resolve().parents[2]
DVC_YAML = """
stages:
  second:
    cmd: cp a.txt second.json
    deps: [a.txt]
    metrics: [second.json: {cache: false}]
  first:
    cmd: cp input a.txt
    deps: [input]
    outs: [a.txt]
"""
FAILING = "  third:\n    cmd: echo train.epochs is -1; exit 2\n    deps: [second.json]\n"
SLEEPING = "  third:\n    cmd: echo $$ > inner; sleep 100; true\n    deps: [second.json]\n    outs: [third]\n"

PROGRAM = """
import pathlib, sys
if sys.argv[1:] == ["check"]:
    print("in order")
    if pathlib.Path("wrong").exists():
        print("aecore check: train.epoch is not a known key", file=sys.stderr)
        sys.exit(2)
else:
    assert sys.argv[1:] == ["publish"]
    pathlib.Path("served").touch()
    print("published it")
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC project whose `python -m aecore` checks and publishes as a stand-in, and a Prefect home of its own."""
    folder = tmp_path / "project"
    (folder / "aecore").mkdir(parents=True)
    (folder / "aecore/__init__.py").touch()  # a package before ours, wherever that is found
    (folder / "aecore/__main__.py").write_text(PROGRAM)
    shutil.copytree(ROOT / "flows", folder / "flows")
    shutil.copy(ROOT / "prefect.yaml", folder)
    (folder / ".dvcignore").write_text("flows\naecore\n")
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "input").write_text('{"mse": 0.5}')
    monkeypatch.chdir(folder)
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, check=True, capture_output=True)
    return folder


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True, text=True, timeout=200, check=False, env=os.environ | environment,
    )  # fmt: skip


def test_help_names_the_choices(project: Path) -> None:
    shown = run("flows.refresh", "--help")
    assert shown.returncode == 0
    assert "--no-publish" in shown.stdout


def test_outside_a_project_every_flow_says_so_before_a_server_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    script = """
import sys
from flows import queries, refresh, serve
print(refresh.main([]), queries.main(["a", "--output", "a.parquet"]), serve.main([]))
try:
    queries.main(["a", "--output", "a.parquet", "-k", "0"])
except SystemExit as error:
    print(error.code)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout == "2 2 2\n2\n"
    said = "is not here: run this from the project's folder, the one that holds params.yaml."
    first = [f"refresh: dvc.yaml {said}", f"queries: params.yaml {said}", f"flows.serve: dvc.yaml {said}"]
    assert done.stderr.splitlines()[:3] == first
    assert "-k: it is '0'; expected a whole number, 1 or more" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_serve_without_a_server_says_what_to_do(project: Path) -> None:
    none = run("flows.serve")
    assert (none.returncode, none.stdout) == (2, "")
    assert "prefect server start" in none.stderr
    assert "Traceback" not in none.stderr
    url = f"http://127.0.0.1:{free_port()}/api"
    dead = run("flows.serve", PREFECT_API_URL=url)
    assert (dead.returncode, dead.stdout) == (1, "")
    assert f"{url} does not answer" in dead.stderr


@pytest.mark.slow
def test_refresh_without_a_server(project: Path) -> None:
    """The command people type: it runs, then runs nothing, then fails as the stage does."""
    first = run("flows.refresh")
    assert first.returncode == 0, first.stderr
    words = [line.split()[:2] for line in first.stdout.splitlines()]
    assert words == [["first", "ran"], ["second", "ran"], ["publish", "done"]]
    assert (project / "served").exists()

    (project / "served").unlink()
    (project / "dvc.yaml").write_text(DVC_YAML + FAILING)
    failed = run("flows.refresh", "--no-publish")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert "train.epochs is -1" in failed.stderr
    assert "Retr" not in failed.stderr
    assert not (project / "served").exists()


@pytest.mark.parametrize(("third", "told"), [("", "served None"), (FAILING, "failed 2")])
def test_a_failure_to_record_is_a_warning_only(project: Path, third: str, told: str) -> None:
    """Prefect's server is lost when the work is done, or has failed: the outcome is the work's all the same."""
    script = """
import contextlib, logging, pathlib
from flows import pipeline, refresh

def lost(*_, **__):
    raise ConnectionError("the server is gone")

refresh.create_table_artifact = refresh.create_markdown_artifact = lost
refresh.get_run_logger = logging.getLogger
refresh.stage = pipeline.repro
refresh.check_task = refresh.check_task.fn
refresh.publish_task = refresh.publish_task.fn
logging.getLogger().addHandler(logging.StreamHandler())
try:
    refresh.refresh.fn()
    print("served", None)
except pipeline.CommandFailed as error:
    assert error.__context__ is None
    print("failed", error.status)
"""
    (project / "dvc.yaml").write_text(DVC_YAML + third)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == told
    assert "ConnectionError: the server is gone" in done.stderr
    assert "Traceback" not in done.stderr
    assert (project / "served").exists() == (third == "")


def test_what_is_wrong_is_told_before_any_stage_runs(project: Path) -> None:
    script = """
import logging
from flows import pipeline, refresh

refresh.get_run_logger = logging.getLogger
refresh.record = lambda results: print("recorded", results)
refresh.check_task = refresh.check_task.fn
refresh.stage = refresh.publish_task = None
try:
    refresh.refresh.fn()
except pipeline.CommandFailed as error:
    print(error.status, error)
"""
    (project / "wrong").touch()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["recorded []", "2 check failed (exit status 2):"]
    assert "train.epoch is not a known key" in done.stdout
    assert not (project / "a.txt").exists()


@pytest.mark.slow
def test_sigterm_to_refresh_ends_the_stage(project: Path) -> None:
    (project / "dvc.yaml").write_text(DVC_YAML + SLEEPING)
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.refresh"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    inner = wait(lambda: (project / "inner").exists() and (project / "inner").read_text().strip(), 120)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    wait(lambda: not Path(f"/proc/{inner}").exists() or " Z " in Path(f"/proc/{inner}/stat").read_text(), 20)
    wait(lambda: not still_here(project.parent / "prefect"), 30)  # nor does Prefect's temporary server stay


def still_here(prefect_home: Path) -> list[str]:
    """Processes that work with this Prefect home."""
    mine = f"PREFECT_HOME={prefect_home}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.name != str(os.getpid()) and mine in (process / "environ").read_bytes().split(b"\0"):
                found.append(process.name)
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_what_a_refresh_leaves_in_prefect(project: Path) -> None:
    script = """
import asyncio
from flows.refresh import refresh
from prefect.testing.utilities import prefect_test_harness
from prefect.client.orchestration import get_client

async def read():
    async with get_client() as client:
        runs = await client.read_flow_runs()
        tasks = await client.read_task_runs()
        artifacts = await client.read_artifacts()
    print(sorted((task.name, task.state_name) for task in tasks), runs[0].state_name)
    for artifact in sorted(artifacts, key=lambda a: a.key):
        print(artifact.key, artifact.data)

with prefect_test_harness(server_startup_timeout=120):
    refresh(publish=False)
    asyncio.run(read())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    tasks, (metrics, pipeline, stages) = done.stdout.splitlines()[0], sections(done.stdout)
    assert tasks == "[('check', 'Completed'), ('first', 'Completed'), ('second', 'Completed')] Completed"
    assert '"metric": "mse", "value": 0.5' in metrics
    assert "```mermaid" in pipeline
    assert '"stage": "first", "outcome": "ran"' in stages


def sections(text: str) -> list[str]:
    """What follows each artifact's key, the keys in order."""
    starts = [text.index(f"\n{key} ") for key in ("metrics", "pipeline", "stages")]
    return [text[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]


@pytest.fixture
def server(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with prefect_server(project.parent / "server", os.environ) as url:
        monkeypatch.setenv("PREFECT_API_URL", url)
        yield url


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_served_schedule_runs_the_flow(project: Path, server: str) -> None:
    """A real server, `python -m flows.serve` with a cron of every minute, and a run that the schedule started."""
    with started(["flows.serve", "--cron", "* * * * *"], project.parent / "log"):
        wait(lambda: (project / "served").exists(), 180)
        runs = wait(lambda: [r for r in flow_runs(server) if r["state_type"] == "COMPLETED"], 60)
        assert runs[0]["auto_scheduled"]
    (deployment,) = post(server, "deployments/filter", {})
    assert deployment["name"] == "served"
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_prefect_yaml_deploys_and_a_worker_runs_it(project: Path, server: str) -> None:
    prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
    made = [["work-pool", "create", "gpu", "--type", "process"], ["work-pool", "set-concurrency-limit", "gpu", "1"],
            ["deploy", "--all"], ["deployment", "run", "refresh/by-hand"]]  # fmt: skip
    for arguments in made:
        done = subprocess.run([*prefect, *arguments], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    deployments = {d["name"]: d for d in post(server, "deployments/filter", {})}
    assert sorted(deployments) == ["batch", "by-hand", "nightly"]
    assert [s["active"] for s in deployments["batch"]["schedules"]] == [False]
    assert [s["schedule"]["cron"] for s in deployments["nightly"]["schedules"]] == ["0 3 * * *"]
    assert deployments["nightly"]["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"

    worker = ["prefect", "--no-prompt", "worker", "start", "--pool", "gpu"]
    with started(worker, project.parent / "worker", cwd=Path("/")):
        (ended,) = wait(lambda: [r for r in flow_runs(server) if r["state_type"] in ENDED], 150)
        assert ended["state_type"] == "COMPLETED", (project.parent / "worker").read_text()
        assert (project / "second.json").exists()
        assert not (project / "served").exists()
