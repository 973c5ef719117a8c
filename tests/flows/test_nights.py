"""Whole nights: a clone of this repository, photographs without labels, real servers, the deployments of prefect.yaml.

The first night is shared: what comes after it stands in tests that follow, in order, on the same place.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from ruamel.yaml import YAML

from tests.conftest import write_params
from tests.servers import flow_runs, mlflow_server, prefect_server, started

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

SHIPPED = ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "hubble_deep_field",
           "immunohistochemistry", "moon", "retina", "rocket")  # fmt: skip
"""Photographs inside scikit-image's wheel: nothing is downloaded."""
EACH = 16
CHANGES = {
    "run": {"threads": 1, "device": "cpu"},
    "data": {"source": "folder", "path": "data/raw/photographs"},
    "prepare": {"size": 24, "channels": 3},
    "train": {"latent_dim": 8, "epochs": 2, "batch_size": 32, "overrides": {"widths": [8, 16]}},
    "cluster": {"clusters": 4},
    "evaluate": {"bootstrap": 50},
}
DATA = "data/raw/photographs.dvc"
ADVICE = ("dvc push", "git add", "lock file", "autostage", "To track", "MLflow", "http://")


def cut_photographs(folder: Path) -> int:
    """Write crops of real photographs into `folder` as JPEG, side by side, without any label; returns how many."""
    import skimage.data
    from sklearn.datasets import load_sample_images

    photographs = [*load_sample_images().images, *(getattr(skimage.data, name)() for name in SHIPPED)]
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number, pixels in enumerate(photographs):
        for crop in range(EACH):
            side = int(rng.integers(60, 200))
            top, left = (int(rng.integers(0, length - side)) for length in pixels.shape[:2])
            cut = Image.fromarray(pixels[top : top + side, left : left + side])
            cut.save(folder / f"{number:02d}-{crop:02d}.jpg", quality=90)
    return len(photographs) * EACH


@dataclass
class Place:
    """A clone with photographs of its own, and the servers that its flows run under."""

    folder: Path
    images: int
    prefect: str
    mlflow: str
    environment: dict[str, str]
    worker: Path
    """Where the worker's log is."""

    def call(self, *command: str, seconds: float = 600) -> str:
        """Run `python -m …` here; returns its standard output."""
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=self.folder, env=self.environment, capture_output=True, text=True,
            timeout=seconds, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.worker.read_text()[-5000:]}"
        return done.stdout

    def run(self, deployment: str) -> None:
        """Run a deployment as people do, and see it completed by the worker."""
        self.call("prefect", "deployment", "run", deployment, "--watch")
        (last,) = sorted(flow_runs(self.prefect), key=lambda run: run["created"])[-1:]
        assert last["state_type"] == "COMPLETED", self.worker.read_text()[-5000:]

    def table(self, key: str) -> list[dict[str, Any]]:
        """The newest table artifact of this key."""
        found = httpx.get(f"{self.prefect}/artifacts/{key}/latest", timeout=60).raise_for_status().json()
        return list(json.loads(found["data"]))

    def nearest(self, photograph: Path) -> dict[str, str]:
        """All images that answer, the nearest first: the path of each by its id."""
        told = json.loads(self.call("aecore", "query", str(photograph), "-k", str(self.images), "--json"))
        return {row["id"]: row["path"] for row in told["queries"][0]["neighbours"]}

    def night(self) -> dict[str, dict[str, Any]]:
        """Run the nightly refresh; returns what the table of stages says of each, in order."""
        self.run("refresh/nightly")
        return {row["stage"]: row for row in self.table("stages")}

    def stages(self) -> list[str]:
        """What a night should do, by the files themselves."""
        return [DATA, *YAML(typ="safe").load(self.folder / "dvc.yaml")["stages"], "publish"]

    def recorded(self, experiment: str) -> list[dict[str, Any]]:
        """The runs that the MLflow server knows."""
        ask = f"{self.mlflow}/api/2.0/mlflow"
        name = {"experiment_name": experiment}
        found = httpx.get(f"{ask}/experiments/get-by-name", params=name, timeout=60).raise_for_status().json()
        ids = {"experiment_ids": [found["experiment"]["experiment_id"]]}
        return list(httpx.post(f"{ask}/runs/search", json=ids, timeout=60).raise_for_status().json()["runs"])


@pytest.fixture(scope="module")
def place(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The clone, its servers and a worker, everything deployed and nothing run yet."""
    above = tmp_path_factory.mktemp("nights")
    folder = above / "aecore"
    subprocess.run(["git", "clone", "-q", str(checkout), str(folder)], check=True)
    images = cut_photographs(folder / "data/raw/photographs")
    write_params(folder, CHANGES)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    environment |= {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(folder),
        "PREFECT_HOME": str(above / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "false",  # let it print where it can
    }
    with ExitStack() as stack:
        mlflow, _ = stack.enter_context(mlflow_server(above / "mlflow"))
        prefect = stack.enter_context(prefect_server(above / "server", environment))
        environment |= {"PREFECT_API_URL": prefect, "MLFLOW_TRACKING_URI": mlflow}
        here = Place(folder, images, prefect, mlflow, environment, above / "worker")
        here.call("dvc", "add", "--quiet", "data/raw/photographs")
        here.call("prefect", "--no-prompt", "work-pool", "create", "gpu", "--type", "process")
        here.call("prefect", "--no-prompt", "work-pool", "set-concurrency-limit", "gpu", "1")
        here.call("prefect", "--no-prompt", "deploy", "--all")
        worker = ["prefect", "--no-prompt", "worker", "start", "--pool", "gpu"]
        stack.enter_context(started(worker, here.worker, environment, cwd=Path("/")))
        yield here


@pytest.fixture(scope="module")
def first_night(place: Place) -> dict[str, dict[str, Any]]:
    """What became of each stage in the first night."""
    return place.night()


def test_the_first_night_runs_the_pipeline_and_nothing_else(
    place: Place, first_night: dict[str, dict[str, Any]]
) -> None:
    assert next(iter(first_night)) == DATA
    assert sorted(first_night) == sorted(place.stages())
    outcomes = {stage: row["outcome"] for stage, row in first_night.items()}
    assert outcomes == dict.fromkeys(place.stages(), "ran") | {DATA: "unchanged", "publish": "done"}
    last = {stage: row["last line"] for stage, row in first_night.items()}
    assert last["prepare"].startswith(f"prepared {place.images} images")
    assert last["train"].startswith("trained conv_nearest")
    assert last["publish"].startswith("published serving/")
    assert [line for stage, line in last.items() if any(word in line for word in ADVICE)] == []
    assert [stage for stage, line in last.items() if not line] == [DATA]
    assert sorted(r["data"]["tags"]["aecore.stage"] for r in map(tagged, place.recorded("aecore"))) == [
        "evaluate", "train"
    ]  # fmt: skip


def test_queries_by_their_deployment(place: Place, first_night: dict[str, dict[str, Any]]) -> None:
    place.run("queries/batch")
    told = {row["what"]: row["value"] for row in place.table("queries")}
    assert pq.ParquetFile(place.folder / told["result"]).metadata.num_rows == 10 * place.images
    (run,) = place.recorded("aecore-queries")
    assert (run["info"]["run_id"], run["info"]["status"]) == (told["MLflow run"], "FINISHED")
    assert told["answered by"].startswith("published serving/")


def test_the_second_night_reruns_nothing(place: Place, first_night: dict[str, dict[str, Any]]) -> None:
    before = len(place.recorded("aecore"))
    second = place.night()
    outcomes = {stage: row["outcome"] for stage, row in second.items()}
    assert outcomes == dict.fromkeys(place.stages(), "unchanged") | {"publish": "done"}
    assert second["publish"]["last line"].endswith("is published and current already: nothing to do")
    assert len(place.recorded("aecore")) == before


def test_a_removal_holds_without_a_rerun_over_a_third_night_and_over_rollback(
    place: Place, first_night: dict[str, dict[str, Any]]
) -> None:
    photograph = place.folder / "data/raw/photographs/03-05.jpg"
    before = place.nearest(photograph)
    gone = next(item_id for item_id, path in before.items() if path == photograph.name)
    place.call("aecore", "remove", gone)
    assert gone not in place.nearest(photograph)
    place.call("aecore", "publish")
    assert gone not in place.nearest(photograph)

    third = place.night()
    ran = dict.fromkeys(place.stages(), "ran") | {DATA: "unchanged", "publish": "done"}
    assert {stage: row["outcome"] for stage, row in third.items()} == ran
    assert third["prepare"]["last line"].startswith(f"prepared {place.images - 1} images")
    assert third["prepare"]["last line"].endswith(", 1 passed over since data/removed.csv names them")
    assert gone not in place.nearest(photograph)
    assert len(place.nearest(photograph)) == place.images - 1

    place.call("aecore", "rollback")
    assert gone not in place.nearest(photograph)
    assert len(place.nearest(photograph)) == place.images - 1
    place.call("aecore", "publish")
    assert gone not in place.nearest(photograph)
    place.call("aecore", "remove", "--withdraw", gone)
    place.call("aecore", "add", str(photograph))
    assert gone in place.nearest(photograph)


def tagged(run: dict[str, Any]) -> dict[str, Any]:
    """An MLflow run with its tags as a mapping."""
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    return run | {"data": run["data"] | {"tags": tags}}
