"""The queries flow, on the tiny workspace: without a server, and under a temporary one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from aecore import artifact, cli, config
from aecore.data.images import Images
from tests.servers import mlflow_server

ROOT = Path(__file__).resolve().parents[2]
SERVERLESS = """
import logging, sys
from flows import pipeline, queries

def kept(table, key, description):
    import json
    print(json.dumps({"key": key, "table": table, "description": description}))

logging.basicConfig(level="INFO", force=True)
queries.create_table_artifact = kept
queries.get_run_logger = logging.getLogger
queries.query = queries.query.fn
queries.queries = queries.queries.fn
sys.exit(queries.main(sys.argv[1:]))
"""


@pytest.fixture
def prefect(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return workspace


def script(text: str, *arguments: str, seconds: float = 100) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", text, *arguments], capture_output=True, text=True, timeout=seconds, check=False
    )


def test_a_batch_leaves_its_file_where_asked_and_a_table(prefect: Path) -> None:
    (prefect / "mixed").mkdir()
    (prefect / "mixed/a.png").write_bytes((prefect / "data/raw/shapes/disc/000.png").read_bytes())
    (prefect / "mixed/b|.png").write_bytes(b"no image")
    done = script(
        SERVERLESS, "mixed", "--all", "-k", "2", "--where", "split = 'test'", "--output", "near%20by/%Y/a`_*b*.parquet"
    )
    assert done.returncode == 0, done.stderr
    (made,) = prefect.glob("near%20by/2*/a`_[*]b[*].parquet")
    place = str(made.relative_to(prefect))
    count = Images.open().count
    assert pq.ParquetFile(made).metadata.num_rows == 2 * (count + 1)
    table, rejected = map(json.loads, done.stdout.splitlines()[:2])
    assert (table["key"], table["description"]) == ("queries", f"The neighbours are in ``{place}``")
    told = {row["what"]: row["value"] for row in table["table"]}
    assert (told["result"], told["queries"], told["rejected"]) == (place, str(count + 1), "1")
    assert (told["neighbours"], told["only among"]) == (str(2 * (count + 1)), "split = 'test'")
    assert told["answered by"] == "workspace ., cosine"
    assert told["digest of model"] == artifact.read_manifest(config.MODEL, "model").digest
    assert {"seconds", "of them in the index", "queries a second", f"ms a block of {count}"} <= set(told)
    assert rejected["table"] == [{"query": "mixed/b|.png", "reason": "not an image in a format that is read"}]
    assert rejected["description"].endswith(f"all are in ``{place.removesuffix('.parquet')}.rejected.parquet``")
    assert "asking the workspace" in done.stderr
    assert f"{'result':<24} {place}" in done.stdout


def test_another_model_is_refused_with_both_digests_and_what_mends_it(prefect: Path, set_params: Any) -> None:
    old = artifact.read_manifest(config.MODEL, "model").digest[:12]
    set_params(train={"epochs": 1})
    assert cli.main(["train"]) == 0
    new = artifact.read_manifest(config.MODEL, "model").digest[:12]
    done = script(SERVERLESS, "--all", "--output", "near.parquet")
    assert (done.returncode, done.stdout) == (1, "")
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("  aecore query: the ")]
    assert old in sentence
    assert new in sentence
    assert "run `dvc repro`" in sentence
    assert "Traceback" not in done.stderr
    assert not (prefect / "near.parquet").exists()


def test_a_wrong_request_and_a_lost_server(prefect: Path) -> None:
    done = script(SERVERLESS, "--output", "near.parquet")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is nothing to look for" in done.stderr
    lost = SERVERLESS.replace("    import json\n", "    raise ConnectionError('the server is gone')\n")
    done = script(lost, "--all", "--output", "near.parquet")
    assert done.returncode == 0, done.stderr
    assert "ConnectionError: the server is gone" in done.stderr
    assert (prefect / "near.parquet").exists()


def test_what_is_served(prefect: Path) -> None:
    text = """
import argparse, json
from flows import serve

asked = {"cron": "1 2 * * *", "publish": True, "images": None, "ids": None, "queries_cron": "3 4 * * *"}
for more in ({"queries": None}, {"queries": "a"}, {"queries": "a", "ids": "i.parquet"}):
    served = serve.deployments(argparse.Namespace(**asked | more))
    print(json.dumps([[d.flow_name, d.schedules[0].schedule.cron, d.parameters] for d in served]))
"""
    done = script(text)
    assert done.returncode == 0, done.stderr
    alone, graph, listed = map(json.loads, done.stdout.splitlines())
    assert alone == [["refresh", "1 2 * * *", {"publish": True}]]
    everything = {"output": "a", "images": None, "ids": None, "everything": True}
    assert graph == [*alone, ["queries", "3 4 * * *", everything]]
    assert listed == [*alone, ["queries", "3 4 * * *", everything | {"ids": "i.parquet", "everything": False}]]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_what_a_batch_leaves_in_prefect(prefect: Path, set_params: Any) -> None:
    text = """
import asyncio, sys
from flows.pipeline import CommandFailed
from flows.queries import queries
from prefect.testing.utilities import prefect_test_harness
from prefect.client.orchestration import get_client

async def read():
    async with get_client() as client:
        runs = await client.read_flow_runs()
        artifacts = await client.read_artifacts()
    print(sorted(run.state_name for run in runs), [a.key for a in artifacts if a.key])
    print([run.state.message for run in runs if run.state_name == "Failed"])

with prefect_test_harness(server_startup_timeout=120):
    queries(output="near.parquet", everything=True)
    try:
        queries(output="near.parquet", ids="nowhere.parquet")
    except CommandFailed as error:
        print(error.status)
    asyncio.run(read())
"""
    done = script(text, seconds=250)
    assert done.returncode == 0, done.stderr
    status, runs, message = done.stdout.splitlines()[-3:]
    assert (status, runs) == ("2", "['Completed', 'Failed'] ['queries']")
    assert "--ids nowhere.parquet is no file" in message


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_with_a_real_mlflow_server_and_without(
    prefect: Path, set_params: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What MLflow prints to standard output does not reach the JSON; a server that is down is told of in a sentence."""
    set_params(tracking={"mlflow": True})
    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "false")
    with mlflow_server(tmp_path / "mlflow") as (url, _):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        done = script(SERVERLESS, "--all", "--output", "near.parquet", seconds=250)
        assert done.returncode == 0, done.stderr
        assert "View run" in done.stderr
        table = json.loads(done.stdout.splitlines()[0])
        (run,) = [row["value"] for row in table["table"] if row["what"] == "MLflow run"]
        asked = httpx.get(f"{url}/api/2.0/mlflow/runs/get", params={"run_id": run}, timeout=60).raise_for_status()
        assert asked.json()["run"]["info"]["status"] == "FINISHED"
    before = (prefect / "near.parquet").read_bytes()
    done = script(SERVERLESS, "--all", "--output", "near.parquet", seconds=250)
    assert (done.returncode, done.stdout) == (1, "")
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("  aecore query: MLflow")]
    assert f"{url} cannot be used (Connection refused): " in sentence
    assert len(sentence) < 200
    assert (prefect / "near.parquet").read_bytes() == before
