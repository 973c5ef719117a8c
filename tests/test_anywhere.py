"""What `make repro` does in an unpacked archive: no git, no home, and a folder whose name is all that URLs dislike."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SMALL, copy_project, draw_shapes, write_params

ODD = """a b#c%20d?e'f ü"""
CHANGES = SMALL | {"tracking": {"mlflow": True}}

pytestmark = pytest.mark.slow


def call(folder: Path, *command: str, **environment: str) -> str:
    """Run it as somebody whose environment holds nothing but a path and a home that is none."""
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    clean = {"PATH": path, "HOME": "/dev/null/none", "GIT_CEILING_DIRECTORIES": str(folder.parent)} | environment
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive") / ODD
    folder.mkdir()
    copy_project(folder)
    write_params(folder, CHANGES)
    draw_shapes(folder / "data/raw/shapes")
    return folder


MAKE = ("make", "-o", ".venv/installed")  # the program and its libraries are installed where the tests run


def test_make_repro_in_an_unpacked_archive(archive: Path) -> None:
    from mlflow import MlflowClient

    from aecore import tracking

    before = {path.name for path in archive.iterdir()}
    said = call(archive, *MAKE, "repro")
    assert "There is no git here" in said
    assert "published serving/" in said
    assert "Traceback" not in said
    again = call(archive, *MAKE, "repro")
    assert "Data and pipelines are up to date" in again
    assert "There is no git here" not in again

    assert [path.name for path in archive.parent.iterdir()] == [ODD]
    made = {path.name for path in archive.iterdir()} - before
    assert made == {".aecore", "models", "artifacts", "reports", "serving", "dvc.lock"}
    database = archive / ".aecore/mlflow/mlflow.db"
    client = MlflowClient(tracking.database_url(database))
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    (train,) = [run for run in runs if run.data.tags["aecore.stage"] == "train"]
    (picture, *_) = client.list_artifacts(train.info.run_id, "images")
    assert Path(client.download_artifacts(train.info.run_id, picture.path)).stat().st_size > 0
    assert archive.joinpath(".aecore/mlflow/artifacts", train.info.run_id, "artifacts", picture.path).is_file()


def test_the_flow_does_too(archive: Path) -> None:
    (archive / ".dvc/config.local").unlink()  # as in an archive that `make` has not seen yet
    said = call(archive, sys.executable, "-m", "flows.refresh", "--no-publish")
    assert "There is no git here" in said
    assert "train        unchanged" in said
    assert (archive / ".aecore/home/.prefect/prefect.db").is_file()
    assert [path.name for path in archive.parent.iterdir()] == [ODD]


def test_and_once_there_is_git_dvc_has_its_experiments(archive: Path) -> None:
    call(archive, "git", "init", "-q")
    assert "There is git here now" in call(archive, *MAKE, "install")
    call(archive, "git", "add", "-A")
    assert "config.local" not in call(archive, "git", "status", "--porcelain")
    shutil.rmtree(archive / ".git")
    assert "There is no git here" in call(archive, *MAKE, "install")


def test_in_a_worktree(tmp_path: Path) -> None:
    main, other = tmp_path / "main", tmp_path / ODD
    copy_project(main)
    write_params(main, CHANGES)
    identity = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        ["commit", "-qm", "one"],
        ["worktree", "add", "-qb", "other", str(other)],
    ):
        call(main, "git", *command, **identity)
    draw_shapes(other / "data/raw/shapes")
    said = call(other, *MAKE, "repro", HOME=str(tmp_path), USER=os.environ.get("USER", "a"))
    assert "published serving/" in said
    assert "no git" not in said
    assert (other / ".aecore/mlflow/mlflow.db").is_file()
    assert not (main / ".aecore").exists()
    assert "config.local" not in call(other, "git", "status", "--porcelain")
