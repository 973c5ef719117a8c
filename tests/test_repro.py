"""DVC as its users use it, in a real checkout of this project with a tiny data set."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.conftest import SMALL, copy_project, draw_shapes, write_params

ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "DO_NOT_TRACK": "1",
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.org",
}  # fmt: skip

pytestmark = pytest.mark.slow


def call(folder: Path, *command: str, status: int = 0) -> str:
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def ran(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def lock(folder: Path) -> dict[str, dict[str, str]]:
    stages = YAML(typ="safe").load(folder / "dvc.lock")["stages"]
    return {name: {out["path"]: out["md5"] for out in stage["outs"]} for name, stage in stages.items()}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    copy_project(folder)
    write_params(folder, SMALL)
    draw_shapes(folder / "data/raw/shapes")
    call(folder, "git", "init", "-q")
    call(folder, "dvc", "add", "data/raw/shapes")
    call(folder, "git", "add", "-A")
    call(folder, "git", "commit", "-qm", "start")
    call(folder, "dvc", "repro")
    call(folder, "git", "add", "-A")
    call(folder, "git", "commit", "-qm", "first run")
    return folder


def test_nothing_changed_runs_nothing(project: Path) -> None:
    assert ran(call(project, "dvc", "repro")) == []
    assert call(project, "git", "status", "--porcelain") == ""


def test_an_index_parameter_reruns_the_index_and_its_readers_only(project: Path) -> None:
    write_params(project, {"index": {"exact_below": 40_000}})
    assert ran(call(project, "dvc", "repro")) == [
        "index",
        "report",
    ]  # the same index; the page lists parameters
    write_params(project, {"index": {"exact_below": 50}})  # now an inverted file
    assert ran(call(project, "dvc", "repro")) == ["index", "evaluate", "report"]
    write_params(project, {"index": {"exact_below": 50_000}})
    back = call(project, "dvc", "repro")
    assert ran(back) == []
    assert "Stage 'index' is cached" in back


def test_twice_from_nothing_gives_equal_hashes(project: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    call(tmp_path, "git", "clone", "-q", str(project), str(other))
    draw_shapes(other / "data/raw/shapes")
    call(other, "dvc", "repro", "--force", "--no-run-cache")
    here, there = lock(project), lock(other)
    measured = {"reports/train.json", "reports/index.json", "reports/report.html"}  # these hold durations
    for stage, outs in here.items():
        assert {p: d for p, d in outs.items() if p not in measured} == {
            p: d for p, d in there[stage].items() if p not in measured
        }
    marked = re.compile(r'<span class="measured">[^<]*</span>')  # the duration, and the commit
    pages = [(folder / "reports/report.html").read_text() for folder in (project, other)]
    assert [len(marked.findall(page)) for page in pages] == [4, 4]
    assert marked.sub("", pages[0]) == marked.sub("", pages[1])


def test_an_experiment_with_another_recipe(project: Path) -> None:
    output = call(project, "dvc", "exp", "run", "--temp", "-n", "fully", "-S", "train.recipe=linear",
                  "-S", "train.overrides.widths=[]")  # fmt: skip
    assert "Reproduced experiment" in output or "Ran experiment" in output
    shown = json.loads(call(project, "dvc", "metrics", "diff", "--json", "HEAD", "fully"))
    assert shown["reports/metrics.json"]["model.mse"]["diff"] != 0
    changed = json.loads(call(project, "dvc", "params", "diff", "--json", "HEAD", "fully"))
    assert changed["params.yaml"]["train.recipe"] == {"old": "conv_nearest", "new": "linear"}
    call(project, "dvc", "exp", "remove", "fully")


def test_plots_show_the_curve(project: Path) -> None:
    call(project, "dvc", "plots", "show", "-o", "plots")
    page = (project / "plots" / "index.html").read_text()
    assert "validation_mse" in page
    shutil.rmtree(project / "plots")


def test_push_here_pull_there(project: Path, tmp_path: Path) -> None:
    call(project, "dvc", "remote", "add", "-f", "--local", "-d", "store", str(tmp_path / "store"))
    call(project, "dvc", "push")
    other = tmp_path / "other"
    call(tmp_path, "git", "clone", "-q", str(project), str(other))
    call(other, "dvc", "remote", "add", "-f", "--local", "-d", "store", str(tmp_path / "store"))
    call(other, "dvc", "pull")
    found = call(other, sys.executable, "-m", "aecore", "inspect")
    assert found == call(project, sys.executable, "-m", "aecore", "inspect")


def test_a_wrong_parameter_ends_in_one_sentence_and_loses_nothing(project: Path) -> None:
    before = lock(project)
    write_params(project, {"index": {"min_recall": 2}})
    output = call(project, "dvc", "repro", status=255)
    assert "min_recall is 2" in output
    assert "Traceback" not in output
    write_params(project, {"index": {"min_recall": 0.98}})
    assert ran(call(project, "dvc", "repro")) == []
    assert lock(project) == before
